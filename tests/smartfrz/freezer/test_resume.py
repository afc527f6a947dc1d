"""Tests that a stopped and resumed run ends with the same weights as an unbroken run."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from smartfrz import Freezer, Layer

STEPS = 12


class Summing:
    """Freezes a layer once its mean absolute weight, summed over the steps, is above 1.5."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        for layer in active:
            mean = float(layer.parameters()[0].detach().abs().mean())
            self.sums[layer.name] = self.sums.get(layer.name, 0.0) + mean
        return [layer for layer in active if self.sums[layer.name] > 1.5]

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = dict(state["sums"])


def build(make_optimizer: Callable[..., Optimizer]) -> tuple[nn.Module, Optimizer, Freezer]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
    )
    optimizer = make_optimizer(model.parameters())
    return model, optimizer, Freezer(model, optimizer, Summing())


def train(model: nn.Module, optimizer: Optimizer, freezer: Freezer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        model.train()
        model(torch.randn(8, 3)).square().mean().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()


def checkpoint_of(*parts: nn.Module | Optimizer | Freezer) -> io.BytesIO:
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return file


@pytest.mark.parametrize("freezer_first", [False, True])
@pytest.mark.parametrize("stop", [1, 4, 6, 11])
@pytest.mark.parametrize(
    "make_optimizer",
    [
        partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
        partial(AdamW, lr=0.01, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
def test_resumed_run_is_bit_identical(
    make_optimizer: Callable[..., Optimizer], stop: int, freezer_first: bool
):
    model, optimizer, freezer = build(make_optimizer)
    train(model, optimizer, freezer, range(STEPS))
    assert len(set(freezer.frozen.values())) == 2  # two freezes, at different steps

    stopped = build(make_optimizer)
    train(*stopped, range(stop))
    saved = torch.load(checkpoint_of(*stopped), weights_only=True)
    resumed = build(make_optimizer)
    for part, state in list(zip(resumed, saved, strict=True))[:: -1 if freezer_first else 1]:
        part.load_state_dict(state)
    train(*resumed, range(stop, STEPS))

    assert resumed[2].frozen == freezer.frozen
    weights, expected = resumed[0].state_dict(), model.state_dict()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert states(resumed[1]) == states(optimizer)


def states(optimizer: Optimizer) -> list[tuple[int, str, list[float]]]:
    """The optimizer's state in a form that can be compared."""
    entries = optimizer.state_dict()["state"].items()
    return [(i, key, _numbers(value)) for i, state in entries for key, value in state.items()]


def _numbers(value: Any) -> list[float]:
    return value.flatten().tolist() if isinstance(value, Tensor) else [value]


def test_state_of_another_model_is_refused():
    _, _, freezer = build(partial(SGD, lr=0.1))
    with pytest.raises(ValueError, match=r"\['7'\].*no such layers"):
        freezer.load_state_dict({"step": 3, "frozen": {"7": 1}, "policy": {}})
    assert freezer.frozen == {}


def test_going_back_to_a_checkpoint_from_before_a_freeze():
    model, optimizer, freezer = build(partial(SGD, lr=0.1, momentum=0.9))
    train(model, optimizer, freezer, range(2))
    parts = (model, optimizer, freezer)
    early = torch.load(checkpoint_of(*parts), weights_only=True)
    train(model, optimizer, freezer, range(2, STEPS))
    expected, frozen = {k: v.clone() for k, v in model.state_dict().items()}, dict(freezer.frozen)
    assert frozen
    for part, state in zip(parts, early, strict=True):
        part.load_state_dict(state)
    assert freezer.frozen == {}
    train(model, optimizer, freezer, range(2, STEPS))
    assert freezer.frozen == frozen
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_what_was_thawed_stays_thawed():
    """Lightning restores such modules as frozen (Lightning#21901)."""
    _, _, freezer = build(partial(SGD, lr=0.1))
    freezer.policy = None
    freezer.load_state_dict(freezer.state_dict() | {"frozen": {"0": 1, "2": 3}, "step": 5})
    freezer.thaw(freezer.layers[:1])
    saved = torch.load(checkpoint_of(freezer), weights_only=True)[0]
    other_model, _, other = build(partial(SGD, lr=0.1))
    other.policy = None
    other.load_state_dict(saved)
    assert other.frozen == {"2": 3}
    assert other.events == freezer.events
    assert [p.requires_grad for p in other_model.parameters()] == [True] * 4 + [False] * 4 + [
        True,
        True,
    ]


def test_full_training_has_a_state_too():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1))
    train(model, freezer.optimizer, freezer, range(3))
    assert freezer.frozen == {}
    empty = {"frozen": {}, "events": [], "policy": {}, "decided_by": "NoneType"}
    state = freezer.state_dict()
    record = state.pop("record")
    assert [layer["name"] for layer in record["layers"]] == ["0", "1"]
    assert state == {"step": 3, **empty}
    freezer.load_state_dict(freezer.state_dict())
