"""Wrapped models; and several processes: one decides, all freeze the same layers."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel`` and ``torch.compile`` wrappers."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether ``torch.compile`` was applied to the model or a part of it."""
    return any(
        isinstance(getattr(module, "_orig_mod", None), nn.Module)
        or module._compiled_call_impl is not None
        for module in model.modules()
    )


def is_distributed() -> bool:
    """Whether several processes train together."""
    return world_size() > 1


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def agree(names: list[str]) -> list[str]:
    """What rank 0 said, on every rank. A collective call: every rank has to make it."""
    said: list[list[str]] = [names]
    dist.broadcast_object_list(said, src=0)
    return said[0]


def gathered(value: T) -> list[T]:
    """What each process has, by rank. A collective call."""
    if not is_distributed():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def share_buffers(model: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Gives all processes rank 0's buffers, as DDP would before its next forward pass.

    Args:
        model: where it is no DDP that does so, each process keeps its own.
        modules: whose buffers.
    """
    wrappers = (m for m in model.modules() if isinstance(m, DistributedDataParallel))
    if is_distributed() and any(wrapper.broadcast_buffers for wrapper in wrappers):
        for module in modules:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def rebuild_reducers(model: nn.Module) -> None:
    """Makes each DDP in ``model`` forget the parameters that no longer require a gradient.

    DDP fixes the set of parameters that it reduces when it is built, and fails when one of them
    gets no gradient (pytorch#22049). Building it anew works; taking it apart and together again
    in place, as pickling does, has the same effect and keeps the user's reference valid.
    """
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            _rebuild_reducer(module)


def _rebuild_reducer(model: DistributedDataParallel) -> None:
    hooks = list(model._comm_hooks)
    state = model.__getstate__()
    # The old reducer's buckets, as large as all gradients, go before the new ones come.
    del model.reducer, model.logger
    model.__setstate__(state)
    # With a static graph, DDP asks for its first reduction by hand: only if it has not done so yet.
    model._static_graph_delay_allreduce_enqueued = False
    model._comm_hooks.clear()
    for hook, hook_state in hooks:
        # PowerSGD remembers errors by bucket, and the buckets are others now.
        for name in ("error_dict", "p_memory_dict", "q_memory_dict"):
            getattr(hook_state, name, {}).clear()
        model.register_comm_hook(hook_state, hook)
