"""Optimizers inside wrappers and lists."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer


def optimizers_in(optimizer: Any) -> list[Optimizer]:
    """Returns all optimizers in an optimizer, a wrapper, a list or a dictionary, outermost first.

    A wrapper has optimizers among its attributes, as those of Accelerate and Lightning,
    ``ZeroRedundancyOptimizer``, Lookahead and SAM do.
    """
    found: dict[int, Optimizer] = {}
    _collect(optimizer, found)
    return list(found.values())


def learning_rates(optimizer: Any, params: Iterable[Tensor]) -> list[float]:
    """Returns the learning rate of each parameter; 0 if no optimizer has it."""
    groups = [group for each in optimizers_in(optimizer) for group in each.param_groups]
    rates = {param: float(group["lr"]) for group in groups for param in group["params"]}
    return [rates.get(param, 0.0) for param in params]


def with_step_hooks(optimizer: Any) -> list[Optimizer]:
    """Returns those of `optimizers_in` that call hooks, as some wrappers do not."""
    return [each for each in optimizers_in(optimizer) if "_optimizer_step_pre_hooks" in vars(each)]


def check_supported(optimizer: Any) -> None:
    """Raises if an optimizer moves parameters that have no gradient."""
    if any(isinstance(each, LBFGS) for each in optimizers_in(optimizer)):
        raise ValueError(
            "LBFGS is not supported, because it steps along earlier directions and would move "
            "frozen weights. Choose another optimizer."
        )


def _collect(value: Any, found: dict[int, Optimizer]) -> None:
    if isinstance(value, Optimizer):
        if id(value) not in found:
            found[id(value)] = value
            for inner in vars(value).values():
                _collect(inner, found)
    elif isinstance(value, Mapping):
        _collect(list(value.values()), found)
    elif isinstance(value, list | tuple) and all(isinstance(each, Optimizer) for each in value):
        for each in value:
            _collect(each, found)
