"""Tests of `CapturedBackward`, on a CPU with graphs that it plays, and of its fallback."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.optim import SGD

from smartfrz import BudgetPlan, CapturedBackward, Freezer
from smartfrz.capture import graphs
from tests.helpers.replayed import use_replayed_graphs
from tests.helpers.scripted import Scripted

STEPS, BATCH = 16, 4
EAGER = 3  # calls before the first capture


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )


def batch(step: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    seeded = torch.Generator().manual_seed(step)
    return torch.randn(size, 3, 6, 6, generator=seeded), torch.arange(size) % 2


Prepare = Callable[[nn.Module], Any]


class Run:
    """A loop, with a captured backward pass or without."""

    def __init__(self, policy: Any = None, scaler: GradScaler | None = None) -> None:
        self.model = network()
        self.optimizer = SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.freezer = Freezer(self.model, self.optimizer, policy)
        self.scaler = scaler
        self.losses: list[float] = []

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.model(x), y)

    def eagerly(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self.loss(x, y)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss.detach()

    def train(
        self,
        backward: Callable[[Tensor, Tensor], Tensor],
        sizes: list[int] | None = None,
        accumulated: int = 1,
        set_to_none: bool = True,
    ) -> "Run":
        torch.manual_seed(1)
        for step in range(STEPS):
            size = sizes[step % len(sizes)] if sizes else BATCH
            for part in range(accumulated):
                self.losses.append(backward(*batch(accumulated * step + part, size)).item())
            self.freezer.step()
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            self.optimizer.zero_grad(set_to_none=set_to_none)
        return self


def assert_same(run: Run, other: Run) -> None:
    assert run.losses == other.losses
    assert run.freezer.events == other.freezer.events
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def captured(run: Run, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> type[Any]:
    made = use_replayed_graphs(monkeypatch, run.model)
    run.train(CapturedBackward(run.freezer, run.loss, run.scaler), **settings)
    return made


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulated": 3}, {"set_to_none": False}, {"accumulated": 2, "set_to_none": False}],
    ids=str,
)
@pytest.mark.parametrize(
    "policy",
    [
        lambda: None,
        lambda: Scripted({6: ["0"]}),
        lambda: Scripted({2: ["4"], 7: ["0"]}),
        lambda: BudgetPlan(0.7, STEPS),
    ],
    ids=["full training", "one freeze", "two freezes", "a budget"],
)
def test_it_trains_like_a_plain_loop(policy, settings, monkeypatch):
    plain, run = Run(policy()), Run(policy())
    plain.train(plain.eagerly, **settings)
    made = captured(run, monkeypatch, **settings).made
    assert_same(run, plain)
    assert made >= 1


def test_a_graph_is_captured_after_each_freeze_and_thaw(monkeypatch):
    run = Run(Scripted({6: ["0"], 10: ["4"]}))
    made = use_replayed_graphs(monkeypatch, run.model)
    backward = CapturedBackward(run.freezer, run.loss)
    counts = []
    for step in range(STEPS):
        if step == 13:
            run.freezer.thaw()
        backward(*batch(step))
        run.freezer.step()
        run.optimizer.step()
        run.optimizer.zero_grad()
        counts.append(made.made)
    # Three steps as usual at first, and one after each freeze or thaw.
    first, second, third, fourth = (counts.index(number) for number in (1, 2, 3, 4))
    assert (first, second, third, fourth) == (EAGER, 6 + 2, 10 + 2, 13 + 1)
    assert counts[-1] == 4


def test_each_shape_has_a_graph_up_to_a_limit(monkeypatch):
    sizes = [4, 2]
    plain, run = Run(), Run()
    plain.train(plain.eagerly, sizes)
    assert captured(run, monkeypatch, sizes=sizes).made == 2
    assert_same(run, plain)
    monkeypatch.setattr("smartfrz.capture.backward._MOST_SHAPES", 1)
    limited = Run()
    assert captured(limited, monkeypatch, sizes=sizes).made == 1
    assert_same(limited, plain)


def test_with_a_scaler(monkeypatch):
    plain, run = (Run(Scripted({6: ["0"]}), GradScaler("cpu", init_scale=8.0)) for _ in range(2))
    plain.train(plain.eagerly)
    assert captured(run, monkeypatch).made == 2
    assert_same(run, plain)


def test_weights_that_moved_are_found(monkeypatch):
    plain, run = Run(), Run()
    made = use_replayed_graphs(monkeypatch, run.model)
    for each, backward in (
        (plain, plain.eagerly),
        (run, CapturedBackward(run.freezer, run.loss)),
    ):
        each.train(backward)
        for param in each.model.parameters():
            param.data = param.data.clone()
        each.train(backward)
    assert made.made == 2
    assert_same(run, plain)


def test_what_cannot_be_captured_runs_as_usual(monkeypatch):
    plain, run = Run(), Run()
    plain.train(plain.eagerly)
    use_replayed_graphs(monkeypatch, run.model)

    def fail(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "CudaGraph", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.train(CapturedBackward(run.freezer, run.loss))
    messages = [str(each.message) for each in caught]
    assert len(messages) == 1, "said once"
    assert "cannot be captured as a CUDA graph (operation not permitted" in messages[0]
    assert_same(run, plain)


def test_on_a_cpu_it_says_so_and_runs_as_usual():
    plain, run = Run(Scripted({6: ["0"]})), Run(Scripted({6: ["0"]}))
    plain.train(plain.eagerly)
    with pytest.warns(UserWarning, match="no CUDA graph on a CPU"):
        backward = CapturedBackward(run.freezer, run.loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.train(backward)
    assert_same(run, plain)


def test_compiled_models_are_refused():
    run = Run()
    run.model.compile(backend="eager")
    with pytest.raises(ValueError, match=r"not compiled by torch\.compile"):
        CapturedBackward(run.freezer, run.loss)
