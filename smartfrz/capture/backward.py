"""Forward and backward pass as one CUDA graph, which is captured again after each freeze."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils._pytree import tree_flatten, tree_unflatten

from smartfrz.capture import graphs
from smartfrz.compilation import is_compiled
from smartfrz.distributed import wrappers_of
from smartfrz.freezer import Freezer
from smartfrz.sharding import sharded_modules

_EAGER_CALLS = 3
"""Calls before the first capture: libraries choose kernels, and buffers are made."""

_MOST_SHAPES = 8


class CapturedBackward:
    """Computes a loss and its gradients, on a GPU as one CUDA graph.

    With small batches a GPU waits for the launches of kernels, and the compute that freezing saves
    saves no time. A graph launches all kernels of the forward and the backward pass at once. Call
    the object in place of both; the rest of the loop stays as it is, with clipping, gradient
    accumulation, schedules and a `GradScaler`:

        backward = CapturedBackward(freezer, lambda x, y: F.cross_entropy(model(x), y))
        for x, y in loader:
            loss = backward(x, y)
            freezer.step()
            optimizer.step()
            optimizer.zero_grad()

    The first calls run as usual, and so does the first one after each freeze or thaw; then the
    graph is captured again, in the memory of the old one, which is released. Each shape of the
    inputs has a graph of its own, up to eight; calls with others run as usual. So do all calls on a
    CPU, and all calls after a capture failed, since the function reads results, as ``.item()``
    does; a warning says so, once.

    What the function does in Python happens when a graph is captured, and not when it is launched:
    its hooks, its decisions, its prints. Random numbers, as in dropout, are new at each launch.

    Args:
        freezer: the freezer of the model. For full training, one without a policy.
        loss_fn: computes the loss, a scalar, of a batch, under autocast if that is used.
        scaler: scales the loss for the backward pass; the loss that is returned is not scaled.

    Raises:
        ValueError: the model is compiled, wrapped in DDP or sharded: their backward passes do more
            than launch kernels.
    """

    def __init__(
        self,
        freezer: Freezer,
        loss_fn: Callable[..., Tensor],
        scaler: GradScaler | None = None,
    ) -> None:
        model = freezer.model
        if is_compiled(model) or wrappers_of(model) or sharded_modules(model):
            raise ValueError(
                "CapturedBackward needs a model that is not compiled by torch.compile, wrapped in "
                "DistributedDataParallel or sharded by fully_shard. torch.compile has CUDA graphs "
                "of its own: mode='reduce-overhead'."
            )
        self.loss_fn, self.scaler = loss_fn, scaler
        self._model = model
        self._captures: dict[Hashable, _Capture] = {}
        self._eager_calls: Counter[Hashable] = Counter()
        self._valid_for: Hashable = None
        self._stream: Any = None
        self._pool: Any = None
        self._is_given_up = not graphs.are_possible(model)
        if not self._is_given_up:
            self._stream, self._pool = graphs.stream_and_pool()
        else:
            warnings.warn(
                "There is no CUDA graph on a CPU: CapturedBackward runs forward and backward pass "
                "as usual.",
                stacklevel=2,
            )

    def __call__(self, *batch: Any) -> Tensor:
        """Adds the gradients of a batch to ``param.grad``.

        Args:
            *batch: the arguments of ``loss_fn``: tensors, in any collections, and values that are
                hashable.

        Returns:
            The loss, detached.
        """
        if self._is_given_up:
            return self._eager(batch)
        self._discard_if_outdated()
        leaves, structure = tree_flatten(batch)
        shape = (str(structure), *map(_described, leaves))
        capture = self._captures.get(shape)
        if capture is None:
            if not self._is_time_to_capture(shape):
                return self._eager(batch)
            capture = self._captured(leaves, structure)
            if capture is None:
                return self._eager(batch)
            self._captures[shape] = capture
        return capture.replay(leaves)

    def _eager(self, batch: Sequence[Any]) -> Tensor:
        with graphs.on_stream(self._stream):
            return self._loss_and_gradients(batch)

    def _loss_and_gradients(self, batch: Sequence[Any]) -> Tensor:
        loss = self.loss_fn(*batch)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss.detach()

    def _discard_if_outdated(self) -> None:
        """Discards all graphs if other layers train, the mode has changed, or tensors moved."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        tensors_now = tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors)
        state = (self._model.training, tensors_now)
        if state != self._valid_for:
            self._captures.clear()
            # The kernels have been chosen; what is new is which gradients are computed.
            for shape in self._eager_calls:
                self._eager_calls[shape] = min(self._eager_calls[shape], _EAGER_CALLS - 1)
            self._valid_for = state

    def _is_time_to_capture(self, shape: Hashable) -> bool:
        if len(self._captures) >= _MOST_SHAPES:
            return False
        self._eager_calls[shape] += 1
        return self._eager_calls[shape] > _EAGER_CALLS

    def _captured(self, leaves: Sequence[Any], structure: Any) -> "_Capture | None":
        static = [each.clone() if isinstance(each, Tensor) else each for each in leaves]
        batch = tree_unflatten(static, structure)
        params = [param for param in self._model.parameters() if param.requires_grad]
        before = [param.grad for param in params]
        try:
            for param in params:
                param.grad = None  # the graph makes gradients of its own
            graph = graphs.CudaGraph(
                lambda: self._loss_and_gradients(batch), self._stream, self._pool
            )
        except RuntimeError as error:
            self._is_given_up = True
            warnings.warn(
                f"The forward and the backward pass cannot be captured as a CUDA graph ({error}), "
                "and run as usual. Functions that read results on the host, as .item() and "
                ".nonzero() do, cannot be captured.",
                stacklevel=4,
            )
            return None
        finally:
            made = [param.grad for param in params]
            for param, gradient in zip(params, before, strict=True):
                param.grad = gradient
        trained = [(p, grad) for p, grad in zip(params, made, strict=True) if grad is not None]
        return _Capture(graph, static, trained)


@dataclass
class _Capture:
    """A graph with the tensors that it reads and writes."""

    graph: Any
    inputs: list[Any]
    gradients: list[tuple[nn.Parameter, Tensor]]

    def replay(self, leaves: Sequence[Any]) -> Tensor:
        """Launches the graph for inputs, and adds its gradients to those of the parameters."""
        for static, leaf in zip(self.inputs, leaves, strict=True):
            if isinstance(leaf, Tensor):
                static.copy_(leaf, non_blocking=True)
        earlier = [self._earlier(param, gradient) for param, gradient in self.gradients]
        self.graph.replay()
        sums = [grad for grad in earlier if grad is not None]
        if sums:
            own = zip(earlier, self.gradients, strict=True)
            added = [gradient for grad, (_, gradient) in own if grad is not None]
            torch._foreach_add_(sums, added)
        for (param, gradient), grad in zip(self.gradients, earlier, strict=True):
            param.grad = gradient if grad is None else grad
        return self.graph.output.clone()

    def _earlier(self, param: nn.Parameter, gradient: Tensor) -> Tensor | None:
        """Returns the gradient to add to, out of reach of the graph."""
        return param.grad.clone() if param.grad is gradient else param.grad


def _described(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    return leaf
