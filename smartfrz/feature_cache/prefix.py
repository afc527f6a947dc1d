"""Prefixes of a forward pass: the search for a cut, and the two halves of a cut pass.

A forward pass is cut at the output of one module. Only this output may pass from the first half to
the second; `longest_prefix` verifies this by experiment.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from smartfrz.graph import ModuleCall, Shape, evaluating, gpus_of

Forward = Callable[[], Any]
"""Calls the model on the current inputs."""


@dataclass(frozen=True)
class Prefix:
    """The part of a forward pass up to the output of one module.

    Attributes:
        cut: the call of that module; its output contains one tensor, the features, (B, ...).
        skipped: the outermost calls before it.
        batch_size: the batch size of the recorded forward pass.
    """

    cut: ModuleCall
    skipped: tuple[ModuleCall, ...]
    batch_size: int

    @property
    def parts(self) -> tuple[ModuleCall, ...]:
        """The skipped calls and that of the cut."""
        return (*self.skipped, self.cut)

    def features(self, forward: Forward, below: "Prefix | None" = None) -> Tensor:
        """Runs a forward pass up to the cut.

        Args:
            forward: calls the model, without its DDP wrapper.
            below: a shorter prefix that is currently `replaced`.

        Returns:
            The features, (B, ...), without a graph.
        """

        def stop(original: Callable[..., Any]) -> Callable[..., Any]:
            inside = below.calls_inside(self.cut.module) if below else 0
            calls = iter(range(self.cut.nth - inside))

            def run(*args: Any, **kwargs: Any) -> Any:
                output = original(*args, **kwargs)
                if next(calls, None) is None:
                    raise _Reached(output)
                return output

            return run

        with torch.no_grad(), _other_forward(self.cut.module, stop):
            try:
                forward()
            except _Reached as reached:
                return next(leaf for leaf in tree_iter(reached.output) if isinstance(leaf, Tensor))
        raise AssertionError("The forward pass no longer calls the module at which it was cut.")

    def ends_where(self, other: "Prefix") -> bool:
        """Whether this is cut at the same module call as another prefix."""
        return (self.cut.module, self.cut.nth) == (other.cut.module, other.cut.nth)

    def calls_inside(self, module: nn.Module) -> int:
        """Returns the number of calls of a module that do not happen while this is `replaced`."""
        parts = [child for part in self.parts for child in part.children]
        return sum(part.count(module) for part in parts)

    @contextmanager
    def replaced(self, features: Tensor, value: float | None = None) -> Iterator[None]:
        """Context manager in which the model uses given features instead of computing them.

        Skipped modules return tensors of the right shape that are uninitialised, or filled with
        ``value``.

        Args:
            features: (B, ...) the output at the cut.
            value: the value of all other outputs of the prefix.
        """
        scale = len(features) / self.batch_size
        outputs: dict[nn.Module, list[Callable[[], Any]]] = {}
        for skipped in self.skipped:
            # Allocated when the module is called, so that the model discards one before the next.
            fill = partial(_filled, scale=scale, value=value)
            outputs.setdefault(skipped.module, []).append(partial(tree_map, fill, skipped.output))
        given = tree_map(
            lambda leaf: features if isinstance(leaf, Shape) else leaf, self.cut.output
        )
        outputs.setdefault(self.cut.module, []).append(lambda: given)
        with ExitStack() as stack:
            for module, each in outputs.items():
                stack.enter_context(_other_forward(module, _returning(each)))
            yield


def longest_prefix(
    model: nn.Module, calls: Sequence[ModuleCall], forward: Forward
) -> Prefix | None:
    """Finds the longest prefix of a forward pass whose output depends only on the inputs.

    Nothing in it is trainable, draws random numbers or uses batch statistics, and the rest of the
    pass uses only its last output: in eval mode, the model's output stays the same if all other
    outputs of the prefix are replaced by NaN.

    Args:
        model: the model that ``forward`` calls.
        calls: the calls of a forward pass in training mode, see `ModuleCalls`.
        forward: repeats that forward pass.

    Returns:
        The prefix, or ``None`` if the forward pass cannot be cut.
    """
    root = calls[-1]
    batch_size = max((shape.shape[0] for shape in root.shapes if shape.shape), default=0)
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(gpus_of(model)):
        expected = list(tree_iter(forward()))
        for cut in reversed(calls):
            prefix = Prefix(cut, tuple(cut.before()), batch_size)
            if cut is not root and _can_be_skipped(prefix) and _is_cut(prefix, forward, expected):
                return prefix
    return None


def _can_be_skipped(prefix: Prefix) -> bool:
    cut, parts = prefix.cut, prefix.parts
    if cut.needs_grad or cut.drew_random or len(cut.shapes) != 1:
        return False
    has_batch = bool(cut.shapes[0].shape) and cut.shapes[0].shape[0] == prefix.batch_size
    modules = {module for part in parts for module in part.module.modules()}
    return (
        has_batch
        and all(_can_be_nan(part.output) for part in parts)
        and not any(_uses_batch_statistics(module) for module in modules)
        and not any(p.requires_grad for part in parts for p in part.module.parameters())
    )


def _is_cut(prefix: Prefix, forward: Forward, expected: Sequence[Any]) -> bool:
    features = prefix.features(forward)
    with prefix.replaced(features, math.nan):
        outputs = list(tree_iter(forward()))
    return len(outputs) == len(expected) and all(map(_same, outputs, expected))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b)


def _can_be_nan(output: Any) -> bool:
    leaves = [leaf for leaf in tree_iter(output) if leaf is not None]
    return all(isinstance(leaf, Shape) and leaf.dtype.is_floating_point for leaf in leaves)


def _uses_batch_statistics(module: nn.Module) -> bool:
    is_batch_norm = isinstance(module, nn.modules.batchnorm._NormBase)
    return is_batch_norm and (module.training or module.running_mean is None)


def _filled(leaf: Any, scale: float, value: float | None) -> Any:
    return leaf.filled(scale, value) if isinstance(leaf, Shape) else leaf


def _returning(
    outputs: Sequence[Callable[[], Any]],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a forward pass that returns the outputs one by one, then calls the original."""

    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        left = iter(outputs)

        def run(*args: Any, **kwargs: Any) -> Any:
            for output in islice(left, 1):
                return output()
            return original(*args, **kwargs)

        return run

    return replacement


@contextmanager
def _other_forward(
    module: nn.Module, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    own = vars(module).get("forward")
    module.forward = replacement(module.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


class _Reached(Exception):
    """Raised to stop a forward pass at the cut."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output
