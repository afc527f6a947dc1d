"""How much memory a forward pass leaves for the backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def activation_bytes(forward: Callable[[], Any], known: Iterable[Tensor]) -> int:
    """Bytes that are still there after a forward pass and were not before: kept for its backward.

    Memory that several tensors share counts once; the output counts too.

    Args:
        forward: runs the forward pass and returns its output, or the loss.
        known: tensors that there are without it: parameters, buffers, inputs.
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
