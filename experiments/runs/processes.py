"""Helpers for the processes that torchrun starts."""

import os

import torch
import torch.distributed as dist

from experiments.errors import UserError

_SET_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


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
