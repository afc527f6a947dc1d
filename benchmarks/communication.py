"""Bytes all-reduced per step with frozen layers: ``python -m benchmarks.communication``.

Measured with two processes on the CPU.
"""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed import GradBucket
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from benchmarks.report import parser, present
from benchmarks.workloads import LAYOUTS, make_workload
from smartfrz import Freezer, Layer

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = {
    "model": "Model",
    "layout": "Frozen",
    "params": "Trainable parameters (%)",
    "reduced": "Bytes all-reduced (%)",
}


class _FreezeNamed:
    """Policy that freezes the layers of given names at the first step."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def layers_to_freeze(self, active: Any, step: int) -> list[Layer]:
        return [layer for layer in active if layer.name in self.names]


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("communication", __doc__, models=("resnet50",)).parse_args()
    present(
        "communication",
        options,
        lambda: measure(options.models),
        COLUMNS,
        "Bytes all-reduced by two processes in a step, counted by a communication hook.",
    )


def measure(models: list[str]) -> pd.DataFrame:
    """Measures each network, layout and frozen fraction; a row for each."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        file = str(Path(folder) / "rows.csv")
        mp.start_processes(_count, (port, models, file), nprocs=2, start_method="spawn")
        return pd.read_csv(file)


def _count(rank: int, port: int, models: list[str], file: str) -> None:
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= here
    dist.init_process_group("gloo", rank=rank, world_size=2)
    cases = [(model, layout, part) for model in models for layout in LAYOUTS for part in FRACTIONS]
    rows = [
        {"model": model, "layout": layout, **reduced(model, layout, fraction)}
        for model, layout, fraction in cases
    ]
    if rank == 0:
        pd.DataFrame(rows).to_csv(file, index=False)
    dist.barrier()  # as in examples/distributed.py
    dist.destroy_process_group()


def reduced(model: str, layout: str, fraction: float) -> dict[str, float]:
    """Returns the fractions of trainable parameters and of all-reduced bytes, in percent."""
    workload = make_workload(model, batch_size=2, size=32)
    names = {layer.name for layer in workload.chosen(layout, fraction)}
    wrapped = DistributedDataParallel(workload.model)
    count = _Count()
    wrapped.register_comm_hook(count, _reduce)
    optimizer = SGD(wrapped.parameters(), lr=1e-3)
    freezer = Freezer(wrapped, optimizer, _FreezeNamed(names), workload.layers)
    everything = _step(wrapped, workload.inputs, optimizer, count)
    freezer.step()
    after = _step(wrapped, workload.inputs, optimizer, count)
    sizes = [param.nbytes for param in workload.model.parameters() if param.requires_grad]
    total = sum(param.nbytes for param in workload.model.parameters())
    return {"params": 100 * sum(sizes) / total, "reduced": 100 * after / everything}


class _Count:
    bytes = 0


def _reduce(count: _Count, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    buffer = bucket.buffer()
    count.bytes += buffer.nbytes
    future = dist.all_reduce(buffer.div_(dist.get_world_size()), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def _step(model: Any, inputs: torch.Tensor, optimizer: SGD, count: _Count) -> int:
    before = count.bytes
    model(inputs).float().square().mean().backward()
    optimizer.zero_grad()
    return count.bytes - before


if __name__ == "__main__":
    main()
