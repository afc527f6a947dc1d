"""Two processes that share a batch: same frozen layers and weights, one set of results."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from experiments import spec as specs
from experiments.runs.execute import execute
from experiments.runs.run_frame import load_runs
from experiments.runs.training_loop import train
from scripts import table
from scripts.cli import run_command
from tests.helpers.digits import ignore, save_random_predictor, tiny_run
from tests.helpers.processes import in_processes

RANKS = 2
SPEC = """
title = "Some digits."
methods = ["full", "autofreeze", "linear"]
options.linear.match = "autofreeze"

[scales.demo]
models = ["residual"]
datasets = ["digits[5:10]"]
seeds = [0]

[scales.demo.run]
epochs = 4
lr = 0.05
image_size = 16
train_images = 320
augment = false
pretraining = { dataset = "digits[0:5]", epochs = 1, lr = 0.05 }
"""


def run_one(rank: int, config, folder: Path) -> None:
    """Executes a run as one of the processes, and saves its final state."""
    torch.set_num_threads(1)
    os.environ["SMARTFRZ_CACHE"] = str(folder / "cache")
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    ended = {}

    def keep(run, curves):
        ended.update(frozen=run.freezer.frozen, loss=curves.loss, flops=curves.flops)
        ended["weights"] = {name: p.detach() for name, p in run.model.named_parameters()}

    execute(config, folder / "runs", "make test", ignore, keep)
    torch.save(ended, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("method", ["smartfrz", "autofreeze", "displacement"])
def test_two_processes_freeze_the_same_layers_at_the_same_steps(tmp_path, method):
    options = {
        "smartfrz": save_random_predictor(tmp_path / "predictor"),
        "displacement": {"threshold": 0.02},
    }
    config = tiny_run(method, options=options.get(method))
    in_processes(RANKS, run_one, config, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(RANKS))
    assert first["frozen"] and first["frozen"] == second["frozen"]
    assert first["loss"] == second["loss"]
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name])
    (run,) = load_runs(tmp_path / "runs").to_dict("records")
    assert run["id"] == config.id
    assert run["tflops"] == first["flops"] / 1e12


def test_two_processes_train_as_one_does_on_the_same_global_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "alone"))
    # A network without batch norms, whose statistics would be those of half a batch.
    config = tiny_run("autofreeze", model="plain", augment=True)
    alone, curves = train(config, ignore, ignore)
    in_processes(RANKS, run_one, config, tmp_path)
    ended = torch.load(tmp_path / "rank0.pt")
    assert ended["frozen"] == alone.freezer.frozen
    assert ended["loss"] == pytest.approx(curves.loss, rel=1e-4)
    assert ended["flops"] == curves.flops
    for name, weight in alone.model.named_parameters():
        assert torch.allclose(ended["weights"][f"module.{name}"], weight, atol=1e-4)


def run_table(rank: int, folder: Path, port: int) -> None:
    """Executes the table command as ``torchrun`` does."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["SMARTFRZ_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    sys.stdout = (folder / f"out{rank}").open("w")
    sys.stderr = (folder / f"err{rank}").open("w")
    specs.SPECS = folder
    sys.argv = ["table", "table2", "--scale", "demo"]
    run_command(table.main)
    sys.stdout.flush()
    sys.stderr.flush()


def test_the_table_command_runs_under_torchrun(tmp_path):
    (tmp_path / "table2.toml").write_text(SPEC)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    in_processes(RANKS, run_table, tmp_path, port)

    runs = load_runs(tmp_path / "results" / "runs").set_index(["dataset", "method"])
    assert len(runs) == 4
    assert (runs["status"] == "finished").all()
    assert runs["final_accuracy"]["digits[5:10]", "full"] > 0.7
    compute = runs["tflops"]["digits[5:10]"]
    assert compute["linear"] == pytest.approx(compute["autofreeze"], rel=0.1)
    assert compute["autofreeze"] < compute["full"]
    assert (tmp_path / "results" / "table2-demo" / "table.md").exists()
    assert "Full training" in (tmp_path / "out0").read_text()
    assert (tmp_path / "out1").read_text() == ""
    assert "%|" not in (tmp_path / "err1").read_text()
