"""Every table of the paper in two processes, cut short, as on several GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.files import ROOT

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("table", [f"table{number}" for number in range(1, 10)])
def test_a_table_is_made_by_two_processes(table: str, tmp_path: Path) -> None:
    command = [*TORCHRUN, "-m", "scripts.table", table, "--scale", "demo", "--rehearsal"]
    folder = {"SMARTFRZ_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *command, "--results", str(tmp_path / "results")],
        cwd=ROOT,
        env={**os.environ, **folder, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=1200,
    )
    runs = [json.loads(file.read_text()) for file in (tmp_path / "results/runs").glob("*.json")]
    assert {run["machine"]["processes"] for run in runs} == {2}
    assert all(run["status"] == "finished" for run in runs)
    drawn = tmp_path / "results" / f"{table}-demo"
    assert "not run" not in (drawn / "table.md").read_text()
