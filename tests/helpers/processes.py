"""Processes that start quickly, forked from a server that has imported the slow packages."""

import multiprocessing
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["scripts.table", "timm", "sklearn.datasets", "torch._dynamo"])


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
