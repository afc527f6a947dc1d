"""Forward rules: alternative computations of a module with the same result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

Stock = Callable[[], Any]
"""Computes the output for the current arguments by the remaining rules or the module itself."""

Rule = Callable[[nn.Module, Tensor, Stock], Any]
"""Maps a module, its input and a `Stock` to the output, or to ``None`` if it does not apply."""

_disabled = False


def add_rule(module: nn.Module, rule: Rule, rank: int) -> None:
    """Registers a rule that computes a module; rules of lower rank are tried first.

    A rule is registered at most once per module. The module stays the same object, and so do its
    parameters, buffers and hooks. A module whose ``forward`` has been replaced by other code is
    left unchanged.
    """
    forward = vars(module).get("forward")
    if forward is None or _applies_rules(forward):
        _set_rules(module, {**_ranks(module), rule: rank})


def remove_rule(module: nn.Module, rule: Rule) -> None:
    """Undoes `add_rule`."""
    if rule in rules_of(module):
        _set_rules(module, {each: rank for each, rank in _ranks(module).items() if each != rule})


@contextmanager
def without_rules() -> Iterator[None]:
    """Context manager in which every module runs its own forward pass."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before


def rules_of(module: nn.Module) -> tuple[Rule, ...]:
    """Returns the rules of a module, in the order in which they are tried."""
    return tuple(_ranks(module))


def _ranks(module: nn.Module) -> dict[Rule, int]:
    forward: Any = vars(module).get("forward")
    return forward.ranks if _applies_rules(forward) else {}


def _set_rules(module: nn.Module, ranks: dict[Rule, int]) -> None:
    if ranks:
        in_order = dict(sorted(ranks.items(), key=lambda item: item[1]))
        module.forward = _Forward(module, in_order)  # type: ignore[method-assign]
    else:
        del module.forward


def _applies_rules(forward: Any) -> bool:
    return type(forward) is _Forward


class _Forward:
    """The ``forward`` of a module with rules, in the guise of the bound method that it replaces.

    ``torch.jit.script`` and ``inspect`` read the module's own method through it.
    """

    def __init__(self, module: nn.Module, ranks: dict[Rule, int]) -> None:
        self.module, self.ranks = module, ranks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        stock = partial(type(self.module).forward, self.module, *args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()), None)
        # What a compiler records has to work without the rules' Python code.
        is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if is_recorded or _disabled or not isinstance(x, Tensor):
            return stock()
        return _by_rules(self.module, x, stock, tuple(self.ranks))

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return MethodType

    def __getattr__(self, name: str) -> Any:
        return getattr(MethodType(type(self.module).forward, self.module), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Forward, (self.module, self.ranks)


def _by_rules(module: nn.Module, x: Tensor, stock: Stock, rules: tuple[Rule, ...]) -> Any:
    for place, rule in enumerate(rules, 1):
        output = rule(module, x, partial(_by_rules, module, x, stock, rules[place:]))
        if output is not None:
            return output
    return stock()
