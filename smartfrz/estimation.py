"""What freezing would save in a model on this device, measured before any training."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from smartfrz.distributed import unwrap
from smartfrz.freezer import Freezer
from smartfrz.graph import Inputs, call
from smartfrz.inspect import trained_front, wasted_compute
from smartfrz.layers import Layer
from smartfrz.memory import activation_bytes, gradient_bytes
from smartfrz.policies import BudgetPlan

_ROUNDS = 7
_PLANNED_STEPS = 100


@dataclass(frozen=True)
class FrozenStep:
    """A step with a part of the layers frozen.

    Attributes:
        frozen: which layers, in words.
        compute: its compute, in steps with nothing frozen.
        time: its time, in steps with nothing frozen: forward and backward pass.
        activations: bytes that it keeps for the backward pass.
        gradients: bytes of the gradients; the state of Adam takes twice as many again.
    """

    frozen: str
    compute: float
    time: float
    activations: int
    gradients: int


@dataclass(frozen=True)
class Estimate:
    """What freezing would save; ``print`` shows it as a table.

    Attributes:
        steps: steps with nothing, with the front and with all but the heads frozen.
        times: the time of a run by budget, as a fraction of full training's; ``None`` if the
            budget is out of reach.
        remarks: why freezing saves less here than it could, in sentences.
    """

    steps: list[FrozenStep]
    times: dict[float, float | None]
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = ["frozen            compute   time   activations     gradients"]
        lines += [
            f"{each.frozen:<16} {each.compute:>8.2f} {each.time:>6.2f} "
            f"{each.activations / 1e6:>10.1f} MB {each.gradients / 1e6:>10.1f} MB"
            for each in self.steps
        ]
        lines += ["", "budget   time of the run"]
        lines += [
            f"{budget:>6.2f}   " + ("out of reach" if run is None else f"{run:.2f}")
            for budget, run in self.times.items()
        ]
        return "\n".join([*lines, *([""] if self.remarks else []), *self.remarks])


def estimate(
    model: nn.Module, example_inputs: Inputs, budgets: Iterable[float] = (0.5, 0.7, 0.9)
) -> Estimate:
    """Measures what freezing saves in a model, on the device on which it is.

    Forward and backward passes are timed in turns with three sets of frozen layers. The time of a
    run with a budget follows from these and from the plan of the budget, see `BudgetPlan`. The
    optimizer's steps, which freezing makes cheaper too, and the data loader's time, which it does
    not, are not included. Weights, gradients, statistics of norms and random numbers of the model
    are afterwards as before.

    Args:
        model: the model, as it is trained: on its device, compiled or not.
        example_inputs: a batch of the size with which it is trained: a tensor, a tuple of
            positional arguments or a mapping of keyword arguments.
        budgets: fractions of full training's compute.

    Raises:
        ValueError: a budget is not in (0, 1], the model has no layer to freeze, or its output
            contains no tensor to compute a gradient from.
    """
    with _unchanged(model, example_inputs):
        freezer = Freezer(model, _no_optimizer(model), example_inputs=example_inputs)
        body = [layer for layer in freezer.layers if not layer.is_head]
        sets = {"nothing": [], "front half": _half(freezer, body), "all but the head": body}
        costs = {name: freezer.costs([layer.name for layer in part]) for name, part in sets.items()}
        times = _measure_times(freezer, sets, example_inputs)
        steps = [
            FrozenStep(
                name, costs[name], times[name], *_measure_memory(freezer, part, example_inputs)
            )
            for name, part in sets.items()
        ]
        runs = {budget: _time_of_run(freezer, budget, steps) for budget in budgets}
        return Estimate(steps, runs, _remarks(freezer, steps, example_inputs))


def _no_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)


def _half(freezer: Freezer, body: Sequence[Layer]) -> list[Layer]:
    """Returns the front that saves half of what freezing all but the heads saves."""
    names = [layer.name for layer in body]
    middle = (1 + freezer.costs(names)) / 2
    count = next(n for n in range(len(body) + 1) if freezer.costs(names[:n]) <= middle + 1e-9)
    return list(body[:count])


@contextmanager
def _frozen(freezer: Freezer, layers: Sequence[Layer]) -> Iterator[None]:
    """Context manager in which layers are frozen as by a policy."""
    names = {layer.name: 0 for layer in layers}
    freezer.load_state_dict({**freezer.state_dict(), "frozen": names})
    try:
        yield
    finally:
        freezer.thaw(layers)


def _measure_times(
    freezer: Freezer, sets: dict[str, list[Layer]], inputs: Inputs
) -> dict[str, float]:
    """Returns the median times of a step with sets of layers frozen, the first set's being 1."""
    taken: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(1 + _ROUNDS):
        for name, layers in sets.items():
            with _frozen(freezer, layers):
                _step(freezer.model, inputs)  # compiles, and fills caches
                _wait()
                started = time.perf_counter()
                _step(freezer.model, inputs)
                _wait()
                taken[name].append(time.perf_counter() - started)
    whole = taken[next(iter(sets))]
    return {
        name: median(a / b for a, b in list(zip(each, whole, strict=True))[1:])
        for name, each in taken.items()
    }


def _measure_memory(freezer: Freezer, layers: Sequence[Layer], inputs: Inputs) -> tuple[int, int]:
    """Returns the bytes of activations and of gradients of a step."""
    model = freezer.model
    known = [*model.parameters(), *model.buffers(), *_tensors(inputs)]
    with _frozen(freezer, layers):
        activations = activation_bytes(lambda: _loss(model, inputs), known)
        return activations, gradient_bytes(model)


def _time_of_run(freezer: Freezer, budget: float, steps: Sequence[FrozenStep]) -> float | None:
    """Returns the time of a run with the plan of a budget, ``None`` if it is out of reach."""
    plan = BudgetPlan(budget, _PLANNED_STEPS)
    run = Freezer(freezer.model, freezer.optimizer, layers=freezer.layers)
    run.costs = freezer.costs
    try:
        plan.attach(run)
    except ValueError:
        return None
    run.policy = plan
    total = 0.0
    for _ in range(_PLANNED_STEPS):
        total += _interpolated(freezer.costs([*run.frozen]), steps)
        run.step()
    run.thaw()
    return total / _PLANNED_STEPS


def _interpolated(cost: float, steps: Sequence[FrozenStep]) -> float:
    """Returns the time of a step of a compute, linear between those that were measured."""
    for more, less in pairwise(steps):
        if cost >= less.compute and more.compute > less.compute:
            part = (more.compute - cost) / (more.compute - less.compute)
            return more.time + part * (less.time - more.time)
    return steps[-1].time


def _remarks(freezer: Freezer, steps: Sequence[FrozenStep], inputs: Inputs) -> list[str]:
    first, last = steps[0], steps[-1]
    if first.gradients == last.gradients:
        return ["There is no layer to freeze but heads."]
    found = []
    if any(each.requires_grad for each in _tensors(inputs)):
        found.append(
            "The inputs require a gradient: the backward pass runs through frozen layers to them."
        )
    if freezer.layers[0].is_head:
        found += trained_front(freezer.layers[0].name, last.compute)
    found += wasted_compute(
        "With all layers but the head frozen",
        last.compute,
        last.time,
        "here the device waits for something other than compute, such as the launches of small "
        "kernels. Larger batches or torch.compile help.",
    )
    return found


def _step(model: nn.Module, inputs: Inputs) -> None:
    _loss(model, inputs).backward()
    for each in (*model.parameters(), *_tensors(inputs)):
        if each.is_leaf:
            each.grad = None


def _loss(model: nn.Module, inputs: Inputs) -> Tensor:
    """Returns the model's own loss or, if there is none, a number that all outputs matter for."""
    output = call(model, inputs)
    loss = getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    parts = [each.float().square().mean() for each in _tensors(output) if each.requires_grad]
    if not parts:
        raise ValueError("The model's output contains no tensor to compute a gradient from.")
    return torch.stack(parts).sum()


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


@contextmanager
def _unchanged(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Context manager after which buffers, gradients, mode and random numbers are as before."""
    model = unwrap(model)
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    leaves = [each for each in (*model.parameters(), *_tensors(inputs)) if each.is_leaf]
    gradients = {leaf: leaf.grad for leaf in leaves}
    model.train()
    devices = {param.device for param in model.parameters() if param.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for leaf, gradient in gradients.items():
            leaf.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
