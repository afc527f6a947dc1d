"""Tests of DistributedDataParallel, two processes against one on the same global batch."""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from smartfrz import Freezer, find_layers
from smartfrz.distributed import wrappers_of
from tests.helpers.processes import in_processes
from tests.helpers.scripted import Scripted, ThawsToo

STEPS = 12
RANKS = 2
SCRIPT = {2: ["0"], 5: ["6"], 8: ["3", "8"]}
OTHER_SCRIPT = {1: ["6", "8"], 2: ["3"], 6: ["0"]}
THAWS = {5: ["0"], 8: ["6"]}
OTHER_THAWS = {2: ["3"], 5: ["6"], 8: ["0", "6"]}


class SeldomDue(Scripted):
    """Is due only at the steps of rank 0's script; decisions at other steps are ignored."""

    def is_due(self, step: int) -> bool:
        return step in SCRIPT


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "bucket view": {"gradient_as_bucket_view": True},
    "bucket view, gradients zeroed": {"gradient_as_bucket_view": True, "set_to_none": False},
    "find unused": {"find_unused_parameters": True},
    "static graph": {"static_graph": True},
    "accumulation": {"micro_batches": 2},
    "called in each micro-batch": {"micro_batches": 2, "calls_inside": True},
    "wrapped after the freezer": {"wrapped": "later"},
    "wrapped inside another module": {"wrapped": "with parent"},
    "no hook": {"is_counted": False, "gradient_as_bucket_view": True},
    "seldom due": {"policy_type": SeldomDue},
    "compiled inside": {"compiled": "inside"},
    "compiled outside": {"compiled": "outside"},
}


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32),
        nn.LayerNorm(32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.Linear(16, 4),
    )


def global_batch(step: int) -> Tensor:
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(step))


def train(
    model: nn.Module,
    freezer: Freezer,
    share: slice,
    micro_batches: int = 1,
    set_to_none: bool = True,
    calls_inside: bool = False,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Trains on one process's share of each global batch."""
    for step in range(STEPS):
        parts = global_batch(step)[share].chunk(micro_batches)
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            with nullcontext() if is_last else model.no_sync():  # type: ignore[operator]
                (model(part).square().mean() / len(parts)).backward()
                if calls_inside:
                    freezer.step()
        if not calls_inside:
            freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad(set_to_none=set_to_none)
        after_step()


def counting_hook(sent: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """A communication hook: averages the gradients as DDP does, and counts their bytes."""
    sent[-1] += bucket.buffer().numel() * bucket.buffer().element_size()
    return allreduce_hook(None, bucket)


def run_variant(
    rank: int,
    compiled: str = "",
    micro_batches: int = 1,
    set_to_none: bool = True,
    is_counted: bool = True,
    calls_inside: bool = False,
    wrapped: str = "first",
    policy_type: type[Scripted] = Scripted,
    **ddp_options: Any,
) -> dict[str, Any]:
    model = build()
    inside = torch.compile(model, backend="eager") if compiled == "inside" else model
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    policy = policy_type(SCRIPT if rank == 0 else OTHER_SCRIPT)
    freezer = Freezer(model, optimizer, policy)
    if wrapped == "with parent":
        inside = nn.Sequential(model)
    # Many small buckets; torch.compile requires at least 1 MB.
    ddp = DistributedDataParallel(inside, bucket_cap_mb=1 if compiled else 0.001, **ddp_options)
    sent = [0]
    if is_counted:
        ddp.register_comm_hook(sent, counting_hook)
    outside = torch.compile(ddp, backend="aot_eager") if compiled == "outside" else ddp
    if wrapped == "first":
        freezer = Freezer(outside, optimizer, policy)
    share = slice(rank * 8 // RANKS, (rank + 1) * 8 // RANKS)
    train(outside, freezer, share, micro_batches, set_to_none, calls_inside, lambda: sent.append(0))
    return {"weights": model.state_dict(), "sent": sent[:STEPS], "frozen": freezer.frozen}


def run_frozen_batch_norm(rank: int) -> dict[str, Any]:
    """The running statistics of two batch norms at each step; the first freezes at step 3."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    ddp = DistributedDataParallel(model)
    freezer = Freezer(ddp, SGD(model.parameters(), lr=0.1), Scripted({3: ["0"]}))
    statistics = []

    def note() -> None:
        ddp.train()
        statistics.append((model[1].running_mean.clone(), model[3].running_mean.clone()))

    train(ddp, freezer, slice(rank * 4, rank * 4 + 4), after_step=note)
    return {"statistics": statistics}


def run_thawed(rank: int) -> dict[str, Any]:
    """A policy of which each process would thaw other layers."""
    model = build()
    ddp = DistributedDataParallel(model)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    policy = ThawsToo(SCRIPT, OTHER_THAWS if rank else THAWS)
    freezer = Freezer(ddp, optimizer, policy)
    train(ddp, freezer, slice(rank * 4, rank * 4 + 4))
    return {"weights": model.state_dict(), "events": freezer.events}


def reduce_with_state(
    state: PowerSGDState, bucket: dist.GradBucket
) -> torch.futures.Future[Tensor]:
    return allreduce_hook(state.process_group, bucket)


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    results = {name: run_variant(rank, **options) for name, options in VARIANTS.items()}
    results["batch norm"] = run_frozen_batch_norm(rank)
    results["thawed"] = run_thawed(rank)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """The results of both processes for every variant."""
    folder = tmp_path_factory.mktemp("ddp")
    in_processes(RANKS, work, folder)
    yield [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def one_process() -> dict[str, Tensor]:
    """The final weights of one process."""
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    train(model, Freezer(model, optimizer, Scripted(SCRIPT)), slice(None))
    return model.state_dict()


every_variant = pytest.mark.parametrize("variant", VARIANTS)


@every_variant
def test_weights_are_those_of_one_process(
    results: list[dict[str, Any]], one_process: dict[str, Tensor], variant: str
):
    for rank in range(RANKS):
        weights = results[rank][variant]["weights"]
        for key, expected in one_process.items():
            torch.testing.assert_close(weights[key], expected)
            assert torch.equal(weights[key], results[0][variant]["weights"][key])


@every_variant
def test_the_first_process_decides_for_all(results: list[dict[str, Any]], variant: str):
    expected = {name: step for step, names in SCRIPT.items() for name in names}
    assert [result[variant]["frozen"] for result in results] == [expected, expected]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "no hook"])
def test_only_the_gradients_of_what_trains_are_sent(results: list[dict[str, Any]], variant: str):
    layers = find_layers(build())
    expected = []
    for step in range(STEPS):
        frozen = [name for frozen_at, names in SCRIPT.items() if frozen_at < step for name in names]
        training = [layer for layer in layers if layer.name not in frozen]
        expected.append(4 * sum(p.numel() for layer in training for p in layer.params))
    assert len(set(expected)) == 4
    assert results[0][variant]["sent"] == results[1][variant]["sent"] == expected


def test_frozen_batch_norm_stands_still_on_every_process(results: list[dict[str, Any]]):
    """With rank 0's statistics, which DDP would have copied to the others one step later."""
    first, second = (result["batch norm"]["statistics"] for result in results)
    frozen = first[3][0]
    assert all(torch.equal(mean, frozen) for mean, _ in first[3:] + second[3:])
    assert not any(torch.equal(first[step][1], first[step + 1][1]) for step in range(STEPS - 1))


def test_the_first_process_thaws_for_all(results: list[dict[str, Any]]):
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    alone = Freezer(model, optimizer, ThawsToo(SCRIPT, THAWS))
    train(model, alone, slice(None))
    assert [e for e in alone.events[::-1] if "thaw" in e] == [(9, "thaw", "6"), (6, "thaw", "0")]
    for result in results:
        assert result["thawed"]["events"] == alone.events
        for key, expected in model.state_dict().items():
            torch.testing.assert_close(result["thawed"]["weights"][key], expected)


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_without_a_wrapper_a_freeze_searches_the_process_once_and_collects_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each search, and even more a collection, takes a part of a second in a large process."""
    model = build()
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({1: ["0"]}))
    freezer.step()
    calls = []
    for name in ("get_objects", "collect"):
        call = getattr(gc, name)
        monkeypatch.setattr(gc, name, lambda *_, name=name, call=call: calls.append(name) or call())
    freezer.step()
    assert freezer.frozen == {"0": 1}
    assert calls == ["get_objects"]


class OwnDDP(DistributedDataParallel):
    """A subclass, as trainers have them."""


@pytest.mark.usefixtures("process_group")
def test_a_wrapper_around_the_model_is_found_unless_it_is_garbage() -> None:
    model = build()
    former = DistributedDataParallel(model)
    former.itself = former  # a cycle, which only the garbage collector discards
    del former
    others = DistributedDataParallel(build()), nn.Sequential(model)
    assert wrappers_of(model) == []
    wrapper = OwnDDP(others[1])
    assert wrappers_of(model) == [wrapper]


@pytest.mark.usefixtures("process_group")
def test_power_sgd_forgets_what_it_remembers_by_bucket():
    """The buckets change at a freeze. PowerSGD itself deadlocks with gloo and does not run here."""
    model = build()
    ddp = DistributedDataParallel(model)
    state = PowerSGDState(None)
    ddp.register_comm_hook(state, reduce_with_state)
    freezer = Freezer(ddp, SGD(model.parameters(), lr=0.1), Scripted({0: ["0"]}))
    memories = (state.error_dict, state.p_memory_dict, state.q_memory_dict)
    for memory in memories:
        memory[0] = torch.zeros(3)
    freezer.step()
    assert memories == ({}, {}, {})
    assert [hook_state for _, hook_state in ddp._comm_hooks] == [state]
