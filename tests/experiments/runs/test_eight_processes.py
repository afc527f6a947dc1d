"""Eight processes that train on image folders: freezing, and resuming after a kill."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from experiments.config import RunConfig
from experiments.methods import make_config
from experiments.runs.execute import execute
from experiments.runs.run_frame import load_runs
from tests.helpers.folders import write_folders
from tests.helpers.processes import in_processes

RANKS = 8
KILLED = 9


def run_of() -> RunConfig:
    values = {
        **{"model": "residual", "dataset": "imagefolder"},
        **{"method": "linear", "options": {"t0": 0.3, "match": ""}},
        **{"epochs": 2, "batch_size": 16, "lr": 0.02, "image_size": 16, "recipe": "deit"},
    }
    return make_config(values)


def work(rank: int, config: RunConfig, folder: Path, name: str, last_step: int) -> None:
    """Executes the run as one of the processes; exits at ``last_step``."""
    torch.set_num_threads(1)
    os.environ |= {"SMARTFRZ_CACHE": str(folder / name), "SMARTFRZ_DATA": str(folder / "shared")}
    store = f"file://{folder / f'{name}-{last_step}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    ended = {}

    def step(run, curves):
        if curves.step == last_step:
            os._exit(KILLED)

    def keep(run, curves):
        ended.update(frozen=run.freezer.frozen, loss=curves.loss, scores=curves.scores)
        ended["weights"] = {name: p.detach() for name, p in run.model.named_parameters()}
        ended["random"] = torch.get_rng_state()

    execute(config, folder / "runs" / name, "make test", step, keep)
    torch.save(ended, folder / f"{name}{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_killed_and_resumed_they_end_as_an_unbroken_run(tmp_path: Path) -> None:
    write_folders(tmp_path / "shared" / "imagefolder")
    config = run_of()
    in_processes(RANKS, work, config, tmp_path, "unbroken", -1)
    in_processes(RANKS, work, config, tmp_path, "broken", 5, exitcode=KILLED)
    assert not (tmp_path / "runs" / "broken").exists()
    in_processes(RANKS, work, config, tmp_path, "broken", -1)
    expected, *_ = ends = [torch.load(tmp_path / f"unbroken{rank}.pt") for rank in range(RANKS)]
    assert expected["frozen"]
    for rank, end in enumerate(ends):
        found = torch.load(tmp_path / f"broken{rank}.pt")
        for name in ("frozen", "loss", "scores"):
            assert found[name] == end[name] == expected[name]
        for name, weight in expected["weights"].items():
            assert torch.equal(found["weights"][name], weight)
            assert torch.equal(end["weights"][name], weight)
        assert torch.equal(found["random"], end["random"])
    # Each process has its own random number generator state.
    assert len({tuple(end["random"].tolist()) for end in ends}) == RANKS
    assert len(load_runs(tmp_path / "runs" / "broken")) == 1
