"""Detection of gradient accumulation: whether the optimizer steps after a backward pass."""

import sys
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from smartfrz.optimizers import with_step_hooks


def is_accumulating(
    model: nn.Module, optimizer: Any, wrappers: Iterable[DistributedDataParallel]
) -> bool:
    """Whether a trainer has announced that the optimizer steps only after a later micro-batch.

    Two announcements are known: Accelerate's ``accumulate`` and DDP's ``no_sync``.

    Args:
        model: the model.
        optimizer: its optimizer, possibly wrapped by Accelerate.
        wrappers: the DDP modules that contain the model or are inside it.
    """
    wrappers = list(wrappers)
    if any(not wrapper.require_backward_grad_sync for wrapper in wrappers):
        return True
    accelerate: Any = sys.modules.get("accelerate")
    parts = (model, optimizer, *wrappers)
    is_prepared = any(getattr(part, "_is_accelerate_prepared", False) for part in parts)
    return is_prepared and not accelerate.state.GradientState().sync_gradients


class UpdateWatch:
    """Detects that a gradient has been accumulated since the optimizer's last step.

    Args:
        optimizer: the optimizer, possibly wrapped, or several.
        params: parameters that always train.
    """

    def __init__(self, optimizer: Any, params: Iterable[nn.Parameter]) -> None:
        self._params = list(params)
        self._gradient: weakref.ref[Tensor] | None = None
        self._version = 0
        for each in with_step_hooks(optimizer):
            each.register_step_post_hook(self._note_step)

    def has_accumulated(self) -> bool:
        """Whether a gradient has been added to since the last call, without an optimizer step.

        A step is recognised by the optimizer's hook or, where that is missing, as after copying
        the optimizer, by the versions of the parameters.
        """
        param = next((param for param in self._params if param.grad is not None), None)
        if param is None or param.grad is None:
            self._gradient = None
            return False
        before, version = self._gradient, self._version
        self._gradient, self._version = weakref.ref(param.grad), param._version
        return before is not None and before() is param.grad and version == param._version

    def _note_step(self, *_: Any) -> None:
        self._gradient = None
