"""The command that fills some minutes on a GPU: its order, its end, and its failures."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.plan import labelled_plan
from experiments.spec import load_spec
from scripts import gpu_table
from scripts.cli import run_command


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_processes_that_end_in_time_are_waited_for(tmp_path: Path) -> None:
    code = f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()"
    assert gpu_table.run_together(python(code), 3, time.monotonic() + 60)
    assert len(list(tmp_path.iterdir())) == 3


def test_processes_are_stopped_when_the_time_is_over() -> None:
    assert not gpu_table.run_together(python("import time; time.sleep(600)"), 2, time.monotonic())


def test_a_failure_is_one_of_the_command() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        gpu_table.run_together(python("raise SystemExit(3)"), 2, time.monotonic() + 60)


def test_the_stages_lead_from_the_first_cells_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(
        gpu_table, "run_together", lambda command, *_: bool(commands.append(command)) or True
    )
    monkeypatch.setattr(sys, "argv", ["gpu_table", "--rehearsal", "--results", "here"])
    run_command(gpu_table.main)
    assert len(commands) == len(gpu_table.STAGES)
    assert all(
        command[-len(stage) :] == [*stage]
        for command, stage in zip(commands, gpu_table.STAGES, strict=True)
        if stage
    )
    assert commands[-1][1:] == [
        *("-m", "scripts.table", "table2", "--scale", "medium", "--results", "here"),
        "--rehearsal",
    ]
    models = {config.model for config in labelled_plan(load_spec("table2"), "medium")}
    assert models > {*gpu_table.WITH_WEIGHTS}


def test_no_stage_follows_once_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_table, "run_together", lambda *_: False)
    monkeypatch.setattr(sys, "argv", ["gpu_table"])
    run_command(gpu_table.main)
    assert capsys.readouterr().out.count("goes on from here") == 1
