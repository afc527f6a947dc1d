"""Utilities for wrapped models and for training with several processes."""

import gc
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smartfrz.sharding import sharded_modules

T = TypeVar("T")


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside ``DistributedDataParallel`` and ``torch.compile`` wrappers."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


def is_distributed() -> bool:
    """Whether several processes train together."""
    return world_size() > 1


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def agree(names: list[str]) -> list[str]:
    """Returns rank 0's names on every rank. A collective call: every rank must make it."""
    shared: list[list[str]] = [names]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def gathered(value: T) -> list[T]:
    """Returns the values of all processes, by rank. A collective call."""
    if not is_distributed():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def wrappers_of(model: nn.Module) -> list[DistributedDataParallel]:
    """Returns the DDP modules in ``model`` or, if there are none, those that contain it.

    Trainers (Lightning, Accelerate, the Hugging Face Trainer) often wrap the model after the
    freezer was created. A model does not refer to its wrapper, so all objects of the process are
    searched, which takes a fraction of a second. DDP does not wrap models sharded by FSDP2.
    """
    found = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    is_initialized = dist.is_available() and dist.is_initialized()
    if found or not is_initialized or sharded_modules(model):
        return found
    model = unwrap(model)
    if not _containing(model):
        return []
    gc.collect()  # discards former wrappers, so that all processes find the same ones
    return _containing(model)


def _containing(model: nn.Module) -> list[DistributedDataParallel]:
    """Returns the DDP modules of this process that contain a module."""
    # A set of classes, because issubclass takes a microsecond with an abstract class such as DDP.
    classes = {DistributedDataParallel, *_subclasses(DistributedDataParallel)}
    wrappers = [each for each in gc.get_objects() if type(each) in classes]
    return [each for each in wrappers if any(part is model for part in each.modules())]


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


def share_buffers(modules: Iterable[nn.Module]) -> None:
    """Copies rank 0's buffers of modules to all processes, as DDP does before a forward pass."""
    for module in modules:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def rebuild_reducer(model: DistributedDataParallel) -> None:
    """Rebuilds the reducer of a DDP module for the parameters that now require a gradient.

    DDP fixes the set of parameters to reduce at construction and fails if one of them receives no
    gradient (pytorch#22049). Wrapping the model again works. Saving and restoring the DDP module's
    state in place, as pickling does, has the same effect and keeps the user's reference valid.
    """
    hooks = list(model._comm_hooks)
    state = model.__getstate__()
    # The old reducer's buckets, as large as all gradients, are freed before new ones are allocated.
    del model.reducer, model.logger
    model.__setstate__(state)
    # With a static graph, DDP enqueues its first reduction once; the new reducer needs it again.
    model._static_graph_delay_allreduce_enqueued = False
    model._comm_hooks.clear()
    for hook, hook_state in hooks:
        # PowerSGD stores errors by bucket, and the buckets have changed.
        for name in ("error_dict", "p_memory_dict", "q_memory_dict"):
            getattr(hook_state, name, {}).clear()
        model.register_comm_hook(hook_state, hook)
