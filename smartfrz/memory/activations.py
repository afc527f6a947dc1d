"""Measurement of the memory that a forward pass keeps for the backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def activation_bytes(forward: Callable[[], Any], known: Iterable[Tensor]) -> int:
    """Returns the bytes that a forward pass allocates and keeps for the backward pass.

    Memory shared by several tensors counts once. The output is included.

    Args:
        forward: runs the forward pass and returns its output or the loss.
        known: tensors that exist anyway and are not counted: parameters, buffers, inputs.

    Returns:
        The memory in bytes.
    """
    recorder = _Storages(known)
    with recorder:
        output = forward()
    recorder.note(output)
    return recorder.kept


class ActivationWatch:
    """Measures what a forward pass of training keeps, as it takes place: it changes nothing.

    The next forward pass in training mode is measured, and again the next one after each call of
    `measure_again`, which takes about twice its time. Compiled passes are not measured.

    Args:
        model: the module that is called in each step.

    Attributes:
        bytes: of the last pass that was measured, see `activation_bytes`; ``None`` before.
    """

    def __init__(self, model: nn.Module) -> None:
        self.bytes: int | None = None
        self._model = model
        self._is_due = True
        self._recorder: _Storages | None = None
        self._hooks = (
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        )

    def measure_again(self) -> None:
        """Measures the next forward pass."""
        self._is_due = True

    def remove(self) -> None:
        """Removes the hooks from the model."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        # Copies of the model have the same hooks: replicas of DataParallel, averaged weights.
        if torch.compiler.is_compiling() or model is not self._model:
            return
        if self._is_due and model.training and torch.is_grad_enabled():
            self._is_due = False
            inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
            self._recorder = _Storages([*model.parameters(), *model.buffers(), *inputs])
            self._recorder.__enter__()

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or model is not self._model or self._recorder is None:
            return
        self._recorder.__exit__(None, None, None)
        self._recorder.note(output)
        self.bytes, self._recorder = self._recorder.kept, None


class _Storages(TorchDispatchMode):
    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def kept(self) -> int:
        """The bytes of the memory that was allocated and is still in use."""
        return sum(size for storage, size in self.made.values() if not storage.expired())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.note(out)
        return out

    def note(self, values: Any) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
