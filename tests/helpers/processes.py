"""Several processes: forked from a server that has imported the slow packages, or as torchrun's."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["scripts.table", "timm", "torchvision", "sklearn.datasets", "sklearn.metrics", "torch._dynamo"]
)


def in_processes(count: int, work: Callable[..., None], *arguments: Any, exitcode: int = 0) -> None:
    """Calls ``work(rank, *arguments)`` in each process, and asserts their exit code."""
    processes = [
        CONTEXT.Process(target=work, args=(rank, *arguments), daemon=True) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [exitcode] * count


def under_torchrun(count: int, work: Callable[[Path], Any], folder: Path) -> list[Any]:
    """Calls ``work(folder)`` in processes that a trainer takes for those of torchrun.

    Args:
        count: the number of processes.
        work: a function of a module; what it returns is written with ``torch.save``.
        folder: an empty folder.

    Returns:
        The results by rank.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store  # frees the port
    mp.spawn(_as_rank, (count, work, folder, port), nprocs=count)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def _as_rank(rank: int, count: int, work: Callable[[Path], Any], folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"},
    }
    torch.save(work(folder), folder / f"{rank}.pt")
