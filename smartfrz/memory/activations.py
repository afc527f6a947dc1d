"""Measurement of the memory that a forward pass keeps for the backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
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
    return sum(size for storage, size in recorder.made.values() if not storage.expired())


class _Storages(TorchDispatchMode):
    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

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
