"""The module calls of a forward pass: their order and nesting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map


@dataclass(frozen=True)
class Shape:
    """The shape, dtype and device of a returned tensor; dimension 0 may scale with the batch."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def filled(self, scale: float, value: float | None) -> Tensor:
        """Returns a tensor for a batch ``scale`` times as large.

        It is filled with ``value``, or uninitialised if that is ``None``.
        """
        sizes = self.shape and (round(self.shape[0] * scale), *self.shape[1:])
        empty = torch.empty(sizes, dtype=self.dtype, device=self.device)
        return empty if value is None else empty.fill_(value)


@dataclass(eq=False)
class ModuleCall:
    """A call of a module in a forward pass.

    Attributes:
        module: the module.
        nth: the number of earlier calls of the module.
        parent: the enclosing call.
        children: the completed calls directly inside this one.
        output: the returned value, with a `Shape` in place of each tensor and the type in place of
            any other object.
        needs_grad: whether any returned tensor requires a gradient.
        drew_random: whether the model had drawn random numbers by the end of the call.
    """

    module: nn.Module
    nth: int
    parent: "ModuleCall | None"
    children: list["ModuleCall"] = field(default_factory=list)
    output: Any = None
    needs_grad: bool = False
    drew_random: bool = False

    @property
    def shapes(self) -> list[Shape]:
        """The shapes of all returned tensors."""
        return [leaf for leaf in tree_iter(self.output) if isinstance(leaf, Shape)]

    def before(self) -> list["ModuleCall"]:
        """Returns the outermost calls that ended before this one began."""
        if self.parent is None:
            return []
        return self.parent.before() + self.parent.children[: self.parent.children.index(self)]

    def inside(self) -> Iterator["ModuleCall"]:
        """Yields the calls inside this one, in order of completion."""
        for child in self.children:
            yield from child.inside()
            yield child

    def count(self, module: nn.Module) -> int:
        """Returns the number of calls of a module in this call, itself included."""
        return (self.module is module) + sum(child.count(module) for child in self.children)


class ModuleCalls:
    """Context manager that lists the calls of all modules of ``model`` in order of completion.

    Args:
        model: the model.
        hollow: calls from an earlier list that now only return a given output. The calls inside
            them are listed as they were.
    """

    def __init__(self, model: nn.Module, hollow: Sequence[ModuleCall] = ()) -> None:
        self.model = model
        self.calls: list[ModuleCall] = []
        self._hollow = {(call.module, call.nth): call for call in hollow}
        self._stack: list[ModuleCall] = []
        self._count: dict[nn.Module, int] = {}

    def __enter__(self) -> "ModuleCalls":
        self._random = _random_state(self.model)
        self._handles = [
            handle
            for module in self.model.modules()
            for handle in (
                module.register_forward_pre_hook(self._begin),
                module.register_forward_hook(self._end),
            )
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        nth = self._count.get(module, 0)
        self._count[module] = nth + 1
        self._stack.append(ModuleCall(module, nth, self._stack[-1] if self._stack else None))

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        ended = self._stack.pop()
        assert ended.module is module
        ended.output = tree_map(_shape_of, output)
        tensors = [leaf for leaf in tree_iter(output) if isinstance(leaf, Tensor)]
        ended.needs_grad = any(tensor.requires_grad for tensor in tensors)
        ended.drew_random = not torch.equal(self._random, _random_state(self.model))
        if earlier := self._hollow.get((module, ended.nth)):
            self._fill(ended, earlier)
        if ended.parent:
            ended.parent.children.append(ended)
        self.calls.append(ended)

    def _fill(self, call: ModuleCall, earlier: ModuleCall) -> None:
        call.children = earlier.children
        for child in call.children:
            child.parent = call
        for each in call.inside():
            self._count[each.module] = self._count.get(each.module, 0) + 1
            self.calls.append(each)


def _shape_of(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return Shape(leaf.shape, leaf.dtype, leaf.device)
    # Not the object, such as a cache of keys and values, whose tensors would be kept alive.
    return None if leaf is None else type(leaf)


def _random_state(model: nn.Module) -> Tensor:
    states = [torch.get_rng_state()]
    return torch.cat(states + [torch.cuda.get_rng_state(gpu) for gpu in gpus_of(model)])


def gpus_of(model: nn.Module) -> list[torch.device]:
    return list({param.device for param in model.parameters() if param.is_cuda})
