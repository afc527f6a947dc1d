"""Two table commands side by side: they share the runs, and execute each once."""

import os
import sys
import time
from pathlib import Path

from experiments import spec as specs
from experiments.locks import lock_of, locked
from experiments.plan import plan
from experiments.runs.run_files import read_run
from experiments.spec import load_spec
from experiments.tables import table as tables
from experiments.tables.queue import missing_prerequisites
from scripts import table
from scripts.cli import run_command
from tests.helpers.processes import CONTEXT

SPEC = """
title = "Some digits."
methods = ["autofreeze", "linear"]
options.linear.match = "autofreeze"

[scales.demo]
models = ["residual"]
datasets = ["digits[5:10]"]
seeds = [0, 1]

[scales.demo.run]
epochs = 1
lr = 0.05
image_size = 16
train_images = 160
augment = false
pretraining = { dataset = "digits[0:5]", epochs = 0.1, lr = 0.05 }
"""


def run_table(number: int, folder: Path) -> None:
    """Executes the table command, and writes down which runs it executes."""
    os.environ["SMARTFRZ_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    specs.SPECS = folder
    sys.stdout = (folder / f"out{number}").open("w")
    execute = tables.execute

    def listed(config, *arguments, **options):
        with (folder / "executed").open("a") as file:
            file.write(f"{config.id} {number}\n")
        execute(config, *arguments, **options)

    tables.execute = listed
    sys.argv = ["table", "table2", "--scale", "demo"]
    run_command(table.main)
    sys.stdout.flush()


def test_two_tables_side_by_side_execute_each_run_once(tmp_path, monkeypatch):
    """Both wait for a run that this process holds, and then go on together."""
    (tmp_path / "table2.toml").write_text(SPEC)
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(specs, "SPECS", tmp_path)
    (pretraining,) = missing_prerequisites(plan(load_spec("table2"), "demo"), tmp_path)
    processes = [CONTEXT.Process(target=run_table, args=(i, tmp_path)) for i in range(2)]
    with lock_of(pretraining.id):
        for process in processes:
            process.start()
        waiting = f"Waiting for another process: {pretraining.cell}."
        while not all(
            (tmp_path / f"out{i}").exists() and waiting in (tmp_path / f"out{i}").read_text()
            for i in range(2)
        ):
            assert all(process.exitcode is None for process in processes)
            time.sleep(0.05)
        assert not (tmp_path / "executed").exists()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    executed = [line.split()[0] for line in (tmp_path / "executed").read_text().splitlines()]
    files = list((tmp_path / "results" / "runs").iterdir())
    assert sorted(executed) == sorted(file.stem for file in files)
    assert len(executed) == 5 and all(read_run(file) for file in files)
    assert all("AutoFreeze" in (tmp_path / f"out{i}").read_text() for i in range(2))


def test_a_lock_that_is_free_is_taken_without_a_word(capsys):
    with locked("a-thing", "a thing"):
        pass
    with locked("a-thing", "a thing"):
        assert capsys.readouterr().out == ""
