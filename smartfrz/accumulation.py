"""Detection of gradient accumulation: whether the optimizer steps after a backward pass."""

import sys
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from smartfrz.distributed import wrappers_of
from smartfrz.optimizers import with_step_hooks
from smartfrz.sharding import is_sharded


class UpdateWatch:
    """Tells whether the optimizer steps after the last backward pass, or further ones follow.

    Args:
        model: the model.
        optimizer: its optimizer, possibly wrapped, or several.

    Attributes:
        params: parameters that always train.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer
        self.params: list[nn.Parameter] = []
        self._gradient: weakref.ref[Tensor] | None = None
        self._version = 0
        self._wrappers: list[weakref.ref[DistributedDataParallel]] = []
        # The optimizer must not keep the model alive.
        note = weakref.WeakMethod(self._note_step)
        for each in with_step_hooks(optimizer):
            each.register_step_post_hook(lambda *_: (call := note()) and call())

    def find_wrappers(self) -> list[DistributedDataParallel]:
        """Returns the DDP modules of the model and remembers them; see `wrappers_of`."""
        wrappers = wrappers_of(self.model)
        self._wrappers = [weakref.ref(wrapper) for wrapper in wrappers]
        return wrappers

    def is_next(self) -> bool:
        """Whether the optimizer steps next; must be called once after each backward pass.

        Accelerate's ``accumulate``, DDP's ``no_sync`` and FSDP2's ``set_requires_gradient_sync``
        announce that it does not. In a plain loop, a second call before the optimizer's step shows
        that gradients are accumulated, and a warning says so.
        """
        wrappers = [wrapper for ref in self._wrappers if (wrapper := ref()) is not None]
        if self._awaits_reduction() or is_accumulating(self.model, self.optimizer, wrappers):
            return False
        if not self._has_accumulated():
            return True
        warnings.warn(
            "Freezer.step was called again before the optimizer's step, which has no effect. With "
            "gradient accumulation, call it once for each optimizer step, right before it.",
            stacklevel=3,
        )
        return False

    def _awaits_reduction(self) -> bool:
        """Whether FSDP2 has not reduced the gradients: ``set_requires_gradient_sync(False)``."""
        is_reduced = any(param.grad is not None for param in self.params)
        return not is_reduced and any(map(is_sharded, self.params))

    def _has_accumulated(self) -> bool:
        """Whether a gradient has been added to since the last call, without an optimizer step.

        A step is recognised by the optimizer's hook or, where that is missing, as after copying
        the optimizer, by the versions of the parameters.
        """
        param = next((param for param in self.params if param.grad is not None), None)
        if param is None or param.grad is None:
            self._gradient = None
            return False
        before, version = self._gradient, self._version
        self._gradient, self._version = weakref.ref(param.grad), param._version
        return before is not None and before() is param.grad and version == param._version

    def _note_step(self) -> None:
        self._gradient = None


def is_accumulating(
    model: nn.Module, optimizer: Any, wrappers: Iterable[DistributedDataParallel]
) -> bool:
    """Whether Accelerate or DDP has been told that the optimizer steps after a later micro-batch.

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
