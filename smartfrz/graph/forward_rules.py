"""Modules that are computed in another way, with the same result, where a rule says so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Stock = Callable[[], Any]
"""The forward pass of the arguments at hand by the rules that come later, or the module's own."""

Rule = Callable[[nn.Module, Tensor, Stock], Any]
"""Maps a module, its input and its own forward pass to the output; ``None`` where it has no say."""

_is_aside = False


def add_rule(module: nn.Module, rule: Rule, rank: int) -> None:
    """Lets a rule compute a module, after those of a lower rank; a rule is there once.

    The module stays the same object, and so do its parameters, buffers and hooks. Left alone is a
    module whose ``forward`` somebody else has replaced.
    """
    forward = vars(module).get("forward")
    if forward is None or _is_ours(forward):
        _set_rules(module, {**_ranks(module), rule: rank})


def remove_rule(module: nn.Module, rule: Rule) -> None:
    """Undoes `add_rule`."""
    if rule in rules_of(module):
        _set_rules(module, {each: rank for each, rank in _ranks(module).items() if each != rule})


@contextmanager
def without_rules() -> Iterator[None]:
    """All modules are computed in their own way."""
    global _is_aside
    before, _is_aside = _is_aside, True
    try:
        yield
    finally:
        _is_aside = before


def rules_of(module: nn.Module) -> tuple[Rule, ...]:
    """The rules of a module."""
    return tuple(_ranks(module))


def _ranks(module: nn.Module) -> dict[Rule, int]:
    forward: Any = vars(module).get("forward")
    return forward.args[1] if _is_ours(forward) else {}


def _set_rules(module: nn.Module, ranks: dict[Rule, int]) -> None:
    if ranks:
        in_order = dict(sorted(ranks.items(), key=lambda item: item[1]))
        module.forward = partial(_forward, module, in_order)  # type: ignore[method-assign]
    else:
        del module.forward


def _is_ours(forward: Any) -> bool:
    return isinstance(forward, partial) and forward.func is _forward


def _forward(module: nn.Module, ranks: dict[Rule, int], *args: Any, **kwargs: Any) -> Any:
    stock = partial(type(module).forward, module, *args, **kwargs)
    x = args[0] if args else next(iter(kwargs.values()), None)
    if torch.compiler.is_compiling() or _is_aside or not isinstance(x, Tensor):
        return stock()
    return _by_rules(module, x, stock, tuple(ranks))


def _by_rules(module: nn.Module, x: Tensor, stock: Stock, rules: tuple[Rule, ...]) -> Any:
    for place, rule in enumerate(rules, 1):
        output = rule(module, x, partial(_by_rules, module, x, stock, rules[place:]))
        if output is not None:
            return output
    return stock()
