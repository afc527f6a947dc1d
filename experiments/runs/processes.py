"""Helpers for the processes that torchrun starts."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from experiments.errors import UserError
from smartfrz.distributed import gathered

_SET_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")


def join_processes() -> None:
    """Initialises the process group of ``torchrun``; each process uses one GPU if there are any.

    Raises:
        UserError: there are more processes than GPUs, or ``torchrun`` has not started this one.
    """
    if missing := [name for name in _SET_BY_TORCHRUN if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is set, but {', '.join(missing)} is not: start processes with torchrun, "
            "as GPUS=2 does, or unset WORLD_SIZE."
        )
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return
    rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if rank >= gpus:
        raise UserError(f"This machine has {gpus} GPUs: set GPUS to at most {gpus}.")
    # Object collectives and tensors on "cuda" without an index use the current device.
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def in_all_processes(work: Callable[[], T]) -> T:
    """Calls a function in every process, and waits until all have called it.

    If it fails in one process, it fails in all: none is left waiting for the others.

    Args:
        work: the function. It must not communicate with the other processes.

    Returns:
        This process's result.

    Raises:
        UserError, RuntimeError: it failed in another process only.
    """
    error: Exception | None = None
    try:
        result = work()
    except Exception as raised:
        error = raised
    failure = None
    if error is not None:
        failure = isinstance(error, UserError), f"{type(error).__name__}: {error}"
    failures = gathered(failure)
    if error is not None:
        raise error
    for rank, other in enumerate(failures):
        if other is not None:
            is_users, text = other
            raise (UserError if is_users else RuntimeError)(f"Process {rank} failed. {text}")
    return result


def by_main_process(work: Callable[[], T]) -> T:
    """Calls a function in the main process, and returns its result in every process.

    Args:
        work: the function; its result must be picklable.

    Raises:
        UserError, RuntimeError: it failed in the main process.
    """
    return gathered(in_all_processes(lambda: work() if is_main_process() else None))[0]  # type: ignore[return-value]
