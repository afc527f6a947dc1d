"""Errors in one of two processes: neither waits for the other, and nothing is thrown away."""

import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from experiments.errors import UserError
from experiments.runs import checkpoint as module
from experiments.runs.checkpoint import load_checkpoint, save_checkpoint
from experiments.runs.processes import by_main_process
from tests.helpers.processes import in_processes

RANKS = 2


def work(rank: int, folder: Path) -> None:
    """Reads one checkpoint: without memory, damaged as one process sees it, and damaged."""
    torch.set_num_threads(1)
    os.environ["SMARTFRZ_CACHE"] = str(folder / "cache")
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    path, read = folder / "state.pt", module._read

    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for failing in range(RANKS):
        module._read = fail if rank == failing else read
        with pytest.raises(RuntimeError, match="CUDA out of memory") as raised:
            load_checkpoint(path)
        assert (raised.type is torch.OutOfMemoryError) == (rank == failing)
        assert path.exists()
    module._read = read
    assert load_checkpoint(path) == {"step": 3}

    with pytest.raises(UserError, match="choose another"):
        by_main_process(refuse)
    assert by_main_process(lambda: f"of rank {rank}") == "of rank 0"

    dist.barrier()
    if rank == 0:
        path.write_bytes(path.read_bytes()[:-50])
    dist.barrier()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert load_checkpoint(path) is None
    assert len(said) == (rank == 0)
    dist.destroy_process_group()


def refuse():
    raise UserError("There is no such thing: choose another.")


def test_processes_agree_on_a_checkpoint_and_fail_together(tmp_path):
    save_checkpoint({"step": 3}, tmp_path / "state.pt")
    in_processes(RANKS, work, tmp_path)
    names = {path.name for path in tmp_path.glob("state.pt*")}
    assert names == {"state.pt.corrupt", "state.pt.corrupt.txt"}
    assert "it cannot be read" in (tmp_path / "state.pt.corrupt.txt").read_text()
