"""SLURM jobs: what is submitted, that jobs run the command, and that they are queued again."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.files import ROOT
from scripts import slurm
from scripts.slurm import Command, submit

SBATCH = """#!/bin/sh
cat "$1" > {copy}
echo "Submitted batch job 12"
"""


@pytest.fixture
def submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster that takes jobs and does not run them; returns where the last submission goes."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "submitted.sh"
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text(SBATCH.format(copy=copy))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return copy


def test_the_command_line_submits_an_array_of_jobs(
    submission: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--jobs", "3", "--gpus", "8", "--hours", "2", "--partition", "fast"]
    command = ["-m", "scripts.table", "table2", "--scale", "paper"]
    monkeypatch.setattr(sys, "argv", ["slurm", *words, *command])
    slurm.main()
    assert "Submitted 12_0, 12_1, 12_2; logs in " in capsys.readouterr().out
    text = submission.read_text()
    for line in ("array=0-2%", "gpus-per-node=8", "time=120", "partition=fast"):
        assert f"#SBATCH --{line}" in text


@pytest.mark.parametrize("gpus", [1, 8])
def test_each_job_is_the_command_and_is_queued_again(submission: Path, gpus: int) -> None:
    jobs = submit(["scripts.table", "table2"], 2, gpus)
    for job in jobs:
        (work,) = [job.submission().function]
        start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=8")
        assert work.arguments == (*(start if gpus == 8 else ()), "-m", "scripts.table", "table2")
        assert work.checkpoint().function == work


def test_a_job_runs_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Command(("-c", "open('made', 'w').close()"))()
    assert (tmp_path / "made").exists()
    with pytest.raises(subprocess.CalledProcessError):
        Command(("-c", "raise SystemExit(3)"))()


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["slurm", "-m", "scripts.table", "table2"])
    with pytest.raises(UserError, match="no SLURM"):
        slurm.main()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("LAUNCHER=slurm",), "scripts.slurm     -m scripts.table table2 --scale paper"),
        (("LAUNCHER=slurm", "JOBS=4", "GPUS=2"), "scripts.slurm --jobs 4 --gpus 2   -m scripts"),
        (("LAUNCHER=slurm", "DRY=1"), "python -m scripts.table table2 --scale paper"),
    ],
)
def test_make_submits_jobs(settings: tuple[str, ...], expected: str) -> None:
    command = ["make", "-n", "table2", "SCALE=paper", *settings]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert " ".join(expected.split()) in " ".join(said.split())
