"""Commands with ``--dry``: they write, rename, download and connect to nothing."""

import socket
import sys
from pathlib import Path

import datasets
import pytest
import torch

from experiments.models.pretraining import pretraining_run
from experiments.models.weights import weights_file
from experiments.plan import plan
from experiments.runs.execute import run_file
from experiments.runs.recording import history_file
from experiments.spec import SPECS, load_spec
from scripts import evidence, figure, predictor, table
from scripts.cli import run_command
from tests.helpers.table_folder import files_in

TABLES = sorted(
    path.stem
    for path in SPECS.glob("*.toml")
    if path.stem
    not in {"predictor", "recordings", "evidence", "counterfactual", "controls", "budget"}
    | {"fig3", "fig4", "fig5"}
)
OTHERS = {
    "predictor": (predictor, ["--output", "predictor"]),
    "evidence": (evidence, []),
    **{
        name: (figure, [name])
        for name in ("fig3", "fig4", "fig5", "counterfactual", "attention", "overhead")
    },
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder, in which connecting and downloading fail even if the error is caught."""
    attempts: list[object] = []

    def fail(*arguments, **_):
        attempts.append(arguments)
        raise OSError("no network")

    monkeypatch.delenv("SMARTFRZ_DATA", raising=False)
    monkeypatch.setenv("SMARTFRZ_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    yield tmp_path
    assert attempts == []


def run_dry(monkeypatch, module, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments, "--dry"])
    run_command(module.main)


def damage(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", ["demo", "medium"])
def test_a_dry_run_of_a_table_changes_nothing(place, monkeypatch, capsys, name, scale):
    if scale not in load_spec(name).scales:
        pytest.skip(f"{name} has no scale {scale}")
    first = plan(load_spec(name), scale)[0]
    damage(run_file(first, Path("results", "runs")))
    if source := pretraining_run(first):
        damage(weights_file(source))
    before = files_in(place)
    run_dry(monkeypatch, table, name, "--scale", scale)
    assert files_in(place) == before
    said = capsys.readouterr()
    assert "runs to do" in said.out
    assert "counts as missing" in said.err
    assert ("To be downloaded: The " in said.out) == (scale == "medium")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("scale", ["demo", "small"])
def test_a_dry_run_of_another_command_changes_nothing(place, monkeypatch, name, scale):
    spec = "table2" if name in ("attention", "overhead") else name
    if scale in load_spec(spec).scales:
        first = plan(load_spec(spec), scale)[0]
        damage(run_file(first, Path("results", "runs")))
        damage(history_file(first))
    before = files_in(place)
    module, arguments = OTHERS[name]
    run_dry(monkeypatch, module, *arguments, "--scale", scale)
    assert files_in(place) == before
