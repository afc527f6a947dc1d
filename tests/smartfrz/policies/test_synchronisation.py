"""SmartFRZ reads no value from the device, for which the host would wait, outside of decisions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import AutoFreeze, DisplacementRule
from smartfrz import AttentionPredictor, Freezer, SmartFRZ, find_layers

READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select"}
COPIES = {"tolist", "cpu"}
STEPS = 80


class Reads(TorchDispatchMode):
    """Counts operations whose result or whose size is read by the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        is_mask = any(each is not None and each.dtype == torch.bool for each in indices)
        self.count += name in READS or is_mask
        return func(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Counts copies to the host, which are no operations if the tensors are there already."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in COPIES
        return func(*args, **(kwargs or {}))


def reads_in(freezer: Freezer) -> int:
    with Reads() as reads, Copies() as copies:
        freezer.step()
    return reads.count + copies.count


@pytest.mark.parametrize("read", [Tensor.tolist, Tensor.cpu, Tensor.item, bool, Tensor.nonzero])
def test_reads_are_counted(read: Any) -> None:
    with Reads() as reads, Copies() as copies:
        read(torch.ones(1))
    assert reads.count + copies.count > 0


def waits(policy_of: Callable[[], Any]) -> tuple[Freezer, set[int], set[int]]:
    """Trains; returns the freezer, the steps of decisions, and those in which the host waits."""
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)) for _ in range(18))
    model = nn.Sequential(*blocks, nn.Linear(16, 2))
    optimizer = SGD(model.parameters(), 0.01)
    policy = policy_of()
    freezer = Freezer(model, optimizer, policy, find_layers(model, torch.randn(4, 16)))
    decisions, reading = set(), set()
    for step in range(STEPS):
        model(torch.randn(4, 16)).square().mean().backward()
        if policy.is_due(step):
            decisions.add(step)
        if reads_in(freezer):
            reading.add(step)
        optimizer.step()
        optimizer.zero_grad()
    # Whether frozen weights and buffers stand still is read twice after each freeze.
    checks = {step + after for step in freezer.frozen.values() for after in (1, 16)}
    assert reading & decisions
    return freezer, decisions | checks, reading


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("budget", [None, 0.7])
@pytest.mark.parametrize(("interval", "records_per_decision"), [(4, 1), (12, 1), (6, 2)])
def test_the_host_waits_in_decisions_only(
    guard: bool, budget: float | None, interval: int, records_per_decision: int
) -> None:
    predictor = AttentionPredictor(16, 4, 4, 4, window=3, encoding="drift")
    policy = partial(
        SmartFRZ,
        predictor,
        interval,
        records_per_decision,
        threshold=0.0,
        min_records=3,
        budget=budget,
        total_steps=None if budget is None else STEPS,
        guard=guard,
    )
    freezer, decisions, reading = waits(policy)
    assert reading <= decisions
    if budget is not None:
        assert freezer.frozen


@pytest.mark.parametrize(
    "policy",
    [
        partial(AutoFreeze, steps_per_epoch=20, intervals_per_epoch=2),
        partial(DisplacementRule, interval=10, threshold=0.01),
    ],
)
def test_baselines_wait_in_decisions_only(policy: Callable[[], Any]) -> None:
    freezer, decisions, reading = waits(policy)
    assert reading <= decisions
    assert freezer.frozen
