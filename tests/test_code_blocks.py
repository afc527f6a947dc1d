"""The code blocks of the documentation: each runs, and does what its page says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import GradientState
from lightning.pytorch import LightningModule
from torch import nn
from transformers import TrainingArguments

import smartfrz
from tests.helpers.markdown import PAGES, blocks
from tests.helpers.scripted import Scripted

Names = dict[str, Any]


def loop_ran(names: Names) -> None:
    assert names["freezer"].state_dict()["step"] == 3
    assert isinstance(names["freezer"].policy, smartfrz.SmartFRZ)


def aux_is_a_head(names: Names) -> None:
    heads = {layer.name for layer in names["freezer"].layers if layer.is_head}
    assert heads == {"aux", "head"}


def savings_are_estimated(names: Names) -> None:
    assert [*names["estimated"].times] == [0.5, 0.7, 0.9]
    assert "time of the run" in str(names["estimated"])


def threshold_is_set(names: Names) -> None:
    assert names["policy"].threshold == 0.3 != names["policy"].predictor.threshold


def the_budget_is_spent(names: Names) -> None:
    for _ in range(names["total_steps"]):
        train_step(names)
    spent = names["freezer"].compute_spent / names["total_steps"]
    assert spent == pytest.approx(0.7, abs=0.5 / names["total_steps"])


def the_plan_alone_spends_the_budget(names: Names) -> None:
    assert isinstance(names["freezer"].policy, smartfrz.BudgetPlan)
    the_budget_is_spent(names)


def a_prefix_and_then_the_body_freeze(names: Names) -> None:
    freezer, steps = names["freezer"], names["total_steps"]
    for _ in range(steps):
        train_step(names)
    assert {*freezer.frozen} == {"conv1", "conv2"}
    assert freezer.compute_spent / steps == pytest.approx(0.6, abs=0.5 / steps)


def a_prefix_is_planned(names: Names) -> None:
    freezer, steps = names["freezer"], names["total_steps"]
    assert freezer.compute_spent == 0 and freezer.costs(["conv1"]) < 1
    for _ in range(steps):
        train_step(names)
    assert freezer.compute_spent / steps == pytest.approx(0.75, abs=0.5 / steps)


def a_run_is_shown(names: Names) -> None:
    assert Path("freezing.png").read_bytes().startswith(b"\x89PNG")
    assert "0 of 4 layers are frozen" in str(names["freezer"])


def freeze_out_trains(names: Names) -> None:
    train_step(names)
    assert len({group["lr"] for group in names["optimizer"].param_groups}) == 1
    train_step(names)
    rates = [group["lr"] for group in names["optimizer"].param_groups]
    assert rates == sorted(rates) and rates[0] < rates[-1]


def rate_follows_the_budget(names: Names) -> None:
    assert names["freezer"].frozen
    assert names["budget"].is_spent and names["budget"].steps == 0.6 * names["total_steps"]
    assert len(names["rates"]) > names["budget"].steps
    assert names["rates"] == sorted(names["rates"], reverse=True)
    assert names["optimizer"].param_groups[0]["lr"] < 0.2 * names["rates"][0]


def modules_keep_less(names: Names) -> None:
    replaced = [module for module in names["model"].modules() if "forward" in vars(module)]
    assert {type(module) for module in replaced} >= {nn.Conv2d, nn.BatchNorm2d, nn.ReLU}


def features_are_cached(names: Names) -> None:
    assert names["freezer"].frozen
    assert names["cached"].cut


def wrapped_model_freezes(names: Names) -> None:
    for _ in range(3):
        train_step({**names, "model": names["wrapped"]})
    assert list(names["freezer"].frozen) == ["conv1"]
    assert names["model"].conv1.weight.grad is None


def sharded_model_freezes(names: Names) -> None:
    for _ in range(3):
        names["train_step"]()
    assert list(names["freezer"].frozen) == ["conv1"]
    assert hasattr(names["model"].conv1.weight, "full_tensor")


def freezes_are_gathered(names: Names) -> None:
    assert isinstance(names["freezer"].policy, smartfrz.Gathered)
    assert names["freezer"].policy.policy is names["policy"]
    assert names["freezer"].layers


def blocks_are_compiled(names: Names) -> None:
    model = names["model"]
    compiled = [module for module in model.modules() if module._compiled_call_impl is not None]
    assert compiled == model.blocks and names["freezer"].model is model


def graphs_are_captured(names: Names) -> None:
    """Where there is no GPU, the passes run as usual."""
    assert isinstance(names["backward"], smartfrz.CapturedBackward)
    assert names["freezer"].steps == 3 and list(names["freezer"].frozen) == ["conv1"]


def scaled_steps_train(names: Names) -> None:
    assert names["freezer"].state_dict()["step"] == 3
    assert torch.isfinite(names["loss"])
    assert not torch.equal(names["model"].head.weight, names["start"])


def checkpoint_is_loaded(names: Names) -> None:
    assert names["file"].exists()
    assert names["state"]["freezer"] == names["freezer"].state_dict()


def frozen_layers_are_thawed(names: Names) -> None:
    assert names["freezer"].frozen == {}  # nothing was frozen yet
    for _ in range(3):
        names["train_step"]()
    assert list(names["freezer"].frozen) == ["conv1"]
    exec(blocks("docs/freeze.md", "python")[-1], names)
    assert names["freezer"].frozen == {}
    assert names["model"].conv1.weight.requires_grad


def the_trainer_freezes(names: Names) -> None:
    freezer = names["callback"].freezer
    assert freezer.frozen
    assert freezer.compute_spent / freezer.total_steps == pytest.approx(0.7, abs=0.03)


def the_callback_makes_a_plan(names: Names) -> None:
    policy = names["callback"]._make_policy(20)
    assert isinstance(policy, smartfrz.BudgetPlan) and policy.total_steps == 20


def micro_batches_are_no_steps(names: Names) -> None:
    assert names["freezer"].steps == 1  # of three micro-batches, two make a step
    assert names["freezer"] in names["accelerator"]._custom_objects


def the_optimizer_calls_the_freezer(names: Names) -> None:
    images, labels = names["loader"][0]
    names["loss_fn"](names["model"](images), labels).backward()
    names["optimizer"].step()
    assert names["freezer"].steps == 1


def the_input_side_is_detached(names: Names) -> None:
    assert len(names["language_model"].emb._forward_hooks) == 1


class LanguageModel(nn.Module):
    """An embedding whose weights are those of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.emb.weight


CHECKS: dict[str, list[Callable[[Names], None]]] = {
    "docs/index.md": [loop_ran],
    "docs/trainers.md": [
        *(the_trainer_freezes, the_callback_makes_a_plan),
        *(the_trainer_freezes, micro_batches_are_no_steps),
        *(the_optimizer_calls_the_freezer, the_input_side_is_detached),
    ],
    "docs/freeze.md": [
        *(
            loop_ran,
            aux_is_a_head,
            savings_are_estimated,
            threshold_is_set,
            the_budget_is_spent,
            the_plan_alone_spends_the_budget,
            a_prefix_and_then_the_body_freeze,
            a_prefix_is_planned,
            freeze_out_trains,
        ),
        *(a_run_is_shown, rate_follows_the_budget, modules_keep_less, features_are_cached),
        *(wrapped_model_freezes, sharded_model_freezes),
        *(
            blocks_are_compiled,
            freezes_are_gathered,
            graphs_are_captured,
            scaled_steps_train,
            checkpoint_is_loaded,
            frozen_layers_are_thawed,
        ),
    ],
}
"""For each page whose code blocks stand alone, a check of each block, in order."""

CASES = [
    pytest.param(code, check, id=f"{Path(page).stem}-{check.__name__}")
    for page, checks in CHECKS.items()
    for code, check in zip(blocks(page, "python"), checks, strict=True)
]


class Net(nn.Module):
    """Two convolutions with batch norms, a head, and an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.aux, self.head = nn.Linear(8, 2), nn.Linear(8, 2)

    @property
    def blocks(self) -> list[nn.Module]:
        """The convolutions."""
        return [self.conv1, self.conv2]

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x))).mean((2, 3))
        aux = self.aux(x)
        out = self.head(x) + 0.1 * aux
        return out if labels is None else {"loss": nn.functional.cross_entropy(out, labels)}


class Module(LightningModule):
    """The same network in Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.net(*batch)["loss"]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Loader(list[Any]):
    """A list of batches; Lightning takes a plain list for several data loaders."""


def train_step(names: Names) -> None:
    names["rates"].append(names["optimizer"].param_groups[0]["lr"])
    images, labels = names["loader"][0]
    names["loss_fn"](names["model"](images), labels).backward()
    names["freezer"].step()
    names["optimizer"].step()
    names["optimizer"].zero_grad()


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """The names that code blocks take for granted."""
    monkeypatch.chdir(tmp_path)  # Lightning writes checkpoints
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    policy = Scripted({1: ["conv1"]})
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
    found: Names = {
        **{"model": model, "optimizer": optimizer, "policy": policy, "device": "cpu"},
        **{"loader": Loader([(images, labels)] * 3), "loss_fn": nn.CrossEntropyLoss()},
        **{"numbered_loader": [([0, 1, 2, 3], images, labels)] * 5, "example_inputs": images},
        **{"freezer": smartfrz.Freezer(model, optimizer, policy), "total_steps": 20},
        **{"file": tmp_path / "checkpoint.pt", "rates": [], "start": model.head.weight.clone()},
    }
    found["args"] = TrainingArguments(
        output_dir=str(tmp_path), max_steps=20, report_to="none", use_cpu=True
    )
    found["train_dataset"] = [{"x": each, "labels": y} for each in images for y in labels]
    found["module"], found["language_model"] = Module(), LanguageModel()
    found["train_step"] = lambda: train_step(found)
    GradientState._reset_state()  # else it refers to the data loader of an earlier block
    return found


@contextmanager
def process_group() -> Iterator[None]:
    """Context manager in which this process is a process group of its own."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:There is no CUDA graph on a CPU")
@pytest.mark.parametrize(("code", "check"), CASES)
def test_a_code_block_runs(code: str, check: Callable[[Names], None], names: Names):
    is_parallel = "torch.distributed" in code or "torch.nn.parallel" in code
    # Only there: with a process group, each freeze searches all objects of the process for DDP.
    with process_group() if is_parallel else nullcontext():
        exec(code, names)
        check(names)


def test_every_page_with_code_is_run():
    pages = {page for page in PAGES if blocks(page, "python")}
    assert pages == {*CHECKS, "README.md", "docs/extend.md"}
