"""Every table of the paper in two processes, cut short, as on several GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.files import ROOT

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


WITH_OWN_PREDICTORS = ("table4", "table5")


@pytest.mark.slow
@pytest.mark.parametrize("table", [f"table{number}" for number in range(1, 10)])
def test_a_table_is_made_by_two_processes(table: str, tmp_path: Path) -> None:
    results = ["--scale", "demo", "--results", str(tmp_path / "results")]

    def run(*arguments: str) -> None:
        settings = {"SMARTFRZ_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **settings, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, *arguments, *results]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=1200)

    if table in WITH_OWN_PREDICTORS:  # which learn from histories, recorded in one process
        run("-m", "scripts.histories", "predictor")
    run(*TORCHRUN, "-m", "scripts.table", table, "--rehearsal")
    runs = [json.loads(file.read_text()) for file in (tmp_path / "results/runs").glob("*.json")]
    cells = [run for run in runs if run["config"]["method"] != "record"]
    assert {run["machine"]["processes"] for run in cells} == {2}
    assert all(run["status"] == "finished" for run in cells)
    drawn = tmp_path / "results" / f"{table}-demo"
    assert "not run" not in (drawn / "table.md").read_text()
