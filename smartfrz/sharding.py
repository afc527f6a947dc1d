"""Parameters sharded by FSDP2, ``torch.distributed.fsdp.fully_shard``.

FSDP2 replaces a module's parameters by DTensors, of which each process holds a part. The optimizer
updates these. During a forward and backward pass, the modules have gathered parameters instead.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def _loaded(module: str, name: str) -> Any:
    """Returns a class for ``isinstance``, or no class if its module has not been imported.

    Importing it takes seconds.
    """
    return getattr(sys.modules.get(module), name, ())


def sharded_modules(model: nn.Module) -> list[Any]:
    """Returns the modules in ``model`` to which ``fully_shard`` was applied."""
    sharded = _loaded("torch.distributed.fsdp", "FSDPModule")
    return [module for module in model.modules() if isinstance(module, sharded)]


def check_not_flattened(model: nn.Module) -> None:
    """Raises if the model is wrapped by FSDP1.

    Raises:
        ValueError: the model contains a ``FullyShardedDataParallel`` module.
    """
    flattened = _loaded("torch.distributed.fsdp", "FullyShardedDataParallel")
    if any(isinstance(module, flattened) for module in model.modules()):
        raise ValueError(
            "FullyShardedDataParallel (FSDP1) is not supported, because it joins the parameters of "
            "several layers. Shard the model with torch.distributed.fsdp.fully_shard (FSDP2)."
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    return isinstance(tensor, _loaded("torch.distributed.tensor", "DTensor"))


def local(tensor: Tensor) -> Tensor:
    """Returns the part of a tensor that this process holds, without a copy."""
    dtensor: Any = tensor
    return dtensor.detach().to_local() if is_sharded(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """Returns the whole tensor on every process. A collective call if it is sharded."""
    dtensor: Any = tensor
    return dtensor.full_tensor() if is_sharded(tensor) else tensor


def local_indices(tensor: Tensor, positions: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Finds the elements of a tensor that this process holds.

    Args:
        tensor: the tensor.
        positions: (n,) int64, indices into the flattened tensor.

    Returns:
        (n,) bool, which of the elements this process holds, and their index along each dimension
        of the local part.
    """
    indices = list(torch.unravel_index(positions, tensor.shape))
    held = torch.ones_like(positions, dtype=torch.bool)
    if is_sharded(tensor):
        dtensor: Any = tensor
        (chunk,) = dtensor.__create_chunk_list__()
        indices = [i - offset for i, offset in zip(indices, chunk.offsets, strict=True)]
        for index, length in zip(indices, chunk.sizes, strict=True):
            held &= (index >= 0) & (index < length)
    return held, [index[held] for index in indices]


def joined(values: Tensor, held: Tensor, like: Tensor) -> Tensor:
    """Combines elements that several processes hold. A collective call if ``like`` is sharded.

    Args:
        values: the elements that this process holds.
        held: (n,) bool, which elements these are; all of them if ``like`` is not sharded.
        like: the tensor that contains them.

    Returns:
        (n,) all elements, in float32 if ``like`` is sharded.
    """
    if not is_sharded(like):
        return values
    from torch.distributed.tensor import DTensor, Partial, Replicate

    dtensor: Any = like
    parts = torch.zeros(len(held), device=dtensor.device_mesh.device_type)
    # Assigning to parts[held] would wait for a GPU.
    parts.masked_scatter_(held.to(parts.device), values.float().to(parts.device))
    placements = [Replicate() if p.is_replicate() else Partial() for p in dtensor.placements]
    return DTensor.from_local(parts, dtensor.device_mesh, placements, run_check=False).full_tensor()


def discard_late_gradients(param: nn.Parameter) -> None:
    """Discards gradients that a parameter receives while it is frozen.

    Without gradient synchronisation, FSDP2 keeps the gradients of micro-batches on the gathered
    parameters, and reduces them at the last micro-batch, even if the parameter is frozen by then.
    """
    if is_sharded(param) and param.requires_grad:
        param.register_post_accumulate_grad_hook(_discard_if_frozen)


def reshard(model: nn.Module) -> None:
    """Registers the sharded parameters with all modules and frees the gathered ones."""
    for module in sharded_modules(model):
        module.reshard()


@contextmanager
def resharded(model: nn.Module) -> Iterator[None]:
    """Context manager for forward passes without a backward pass.

    FSDP2 keeps the parameters of some modules gathered after the forward pass. Without a backward
    pass, the next forward pass would use them again, even if the optimizer has changed the weights.
    After an error, FSDP2 continues as if it were in the middle of the forward pass.
    """
    try:
        yield
    except Exception:
        for module in _outermost(sharded_modules(model)):
            module.reset_iter_state()
        raise
    finally:
        reshard(model)


@contextmanager
def unsharding(
    model: nn.Module,
    aside: Callable[[], AbstractContextManager[None]],
    note: Callable[[Tensor, Tensor], None],
) -> Iterator[None]:
    """Context manager in which forward passes gather parameters inside another context manager.

    Args:
        model: the model, `reshard`-ed.
        aside: makes the context manager in which parameters are gathered.
        note: called with each gathered parameter and the sharded one that it stands for.
    """
    sharded = {
        (owner, name): param
        for owner in model.modules()
        for name, param in owner.named_parameters(recurse=False)
    }

    def unshard(module: Any, *_: Any) -> None:
        with aside():
            module.unshard()
        for owner in module.modules():
            for name, param in owner.named_parameters(recurse=False):
                note(param, sharded[owner, name])

    with ExitStack() as stack:
        for module in sharded_modules(model):
            # Before FSDP2's own hook, which then finds the parameters gathered.
            handle = module.register_forward_pre_hook(unshard, prepend=True)
            stack.callback(handle.remove)
        yield


def class_of(module: nn.Module) -> type[nn.Module]:
    """Returns the class of a module before ``fully_shard``, which changes it to a subclass."""
    sharded = _loaded("torch.distributed.fsdp", "FSDPModule")
    return type(module).__bases__[1] if isinstance(module, sharded) else type(module)


def _discard_if_frozen(param: Tensor) -> None:
    if not param.requires_grad:
        param.grad = None


def _outermost(modules: list[nn.Module]) -> list[Any]:
    inside = {each for module in modules for each in module.modules() if each is not module}
    return [module for module in modules if module not in inside]
