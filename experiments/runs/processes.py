"""The processes that torchrun starts: joining them, and which of them writes."""

import os

import torch
import torch.distributed as dist


def join_processes() -> None:
    """Joins the processes that ``torchrun`` has started, each on a GPU of its own if there are any.

    Raises:
        ValueError: there are more of them than GPUs.
    """
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return
    rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if rank >= gpus:
        raise ValueError(f"There are {gpus} GPUs here: GPUS={gpus} is the most.")
    # What is sent as objects, and all that says just "cuda", goes by the current device.
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))


def is_main_process() -> bool:
    """Whether this process prints and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0
