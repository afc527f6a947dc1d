"""What all commands share: processes of torchrun, and which errors keep their traceback."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from experiments.errors import UserError
from experiments.files import replacing, write_text_atomic
from experiments.locks import lock_of
from experiments.runs.processes import join_processes
from scripts.cli import run_command
from smartfrz import linear_cka


@pytest.fixture(autouse=True)
def started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The set-up calls on a machine with two GPUs."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)

    def join(backend: str, **more: Any) -> None:
        calls.append((backend, more))

    monkeypatch.setattr(dist, "init_process_group", join)
    return calls


def test_a_process_takes_its_own_gpu_before_it_joins(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    join_processes()
    assert calls == [1, ("nccl", {"device_id": torch.device("cuda", 1)})]


def test_more_processes_than_gpus_get_a_sentence(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="This machine has 2 GPUs: set GPUS to at most 2"):
        join_processes()
    assert calls == []


def test_a_process_that_torchrun_did_not_start_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR")
    assert exit_code(lambda: None) == 2
    assert capsys.readouterr().err.startswith("error: WORLD_SIZE is set, but MASTER_ADDR is not")


def exit_code(main: Callable[[], None]) -> int:
    """Returns the exit code of a command; errors that it does not report are raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
        with pytest.raises(SystemExit) as stopped:
            run_command(main)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_a_mistake_of_the_user_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("There is no such table.")

    assert exit_code(main) == 2
    assert capsys.readouterr().err == "error: There is no such table.\n"


def library_bug() -> None:
    linear_cka(torch.ones(3), torch.ones(3))


def missing_file() -> None:
    Path("no such file").read_text()


def dead_worker() -> None:
    raise BrokenPipeError  # while the reader of the command's own output is there


@pytest.mark.parametrize("bug", [library_bug, missing_file, dead_worker])
def test_any_other_error_keeps_its_traceback(
    bug: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises((ValueError, OSError)) as error:
        run_command(bug)
    assert not isinstance(error.value, UserError)
    assert error.traceback[-1].name in (bug.__name__, "linear_cka", "open")


def test_a_bug_while_a_file_is_written_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), replacing(tmp_path / "file"):
        raise RuntimeError("a bug")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "file"))
    for call in (
        lambda: lock_of("a run"),
        lambda: write_text_atomic(tmp_path / "file/a.csv", ""),
    ):
        with pytest.raises(UserError, match=r"The folder .*file.* cannot be created"):
            call()


def test_a_reader_that_ends_ends_the_command_silently(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    standard_output = os.dup(1)
    os.dup2(writer, 1)
    try:
        with open(1, "w", closefd=False) as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert exit_code(lambda: print("a line")) == 141
            monkeypatch.undo()
    finally:
        os.dup2(standard_output, 1)
    assert capsys.readouterr().err == ""
