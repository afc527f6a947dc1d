"""The command that chooses settings: what it writes, and which rows of a table follow it."""

import json
import sys
from pathlib import Path

import pytest

from experiments.plan import labelled_plan
from experiments.spec import load_spec
from scripts import tune
from scripts.cli import run_command
from tests.helpers.table_folder import use

TUNE = """
title = "Settings."
methods = [
    "full lr=0.0001", "full lr=0.05",
    "prefix_then_body prefix=0.75", "prefix_then_body spread=0.4",
]
scales_of = "table2"
tuned_by = "tune"
fields."full lr=0.0001".lr = 0.0001
fields."full lr=0.05".lr = 0.05
options."prefix_then_body prefix=0.75" = { compute = 0.6, prefix = 0.75 }
options."prefix_then_body spread=0.4" = { compute = 0.6, spread = 0.4 }

[scales.demo]
seeds = [100]

[scales.demo.run]
validation = true
"""
TABLE = """
title = "A table."
methods = ["full", "prefix_then_body", "prefix_then_body 60%", "prefix_then_body prefix=0.5"]
tuned_by = "tune"
options.prefix_then_body = { compute = 0.7, prefix = 0.5 }
options."prefix_then_body 60%" = { compute = 0.6 }
options."prefix_then_body prefix=0.5" = { compute = 0.6, prefix = 0.5 }

[scales.demo]
models = ["residual"]
datasets = ["digits[5:10]"]
seeds = [0]

[scales.demo.run]
epochs = 2
lr = 0.007
image_size = 16
train_images = 320
augment = false
pretraining = { dataset = "digits[0:5]", epochs = 1, lr = 0.05 }
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "tune.toml").write_text(TUNE)
    (tmp_path / "specs" / "table2.toml").write_text(TABLE)
    use(tmp_path, monkeypatch)
    return tmp_path


def test_the_chosen_settings_are_those_of_the_table(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = labelled_plan(load_spec("table2"), "demo")
    assert {run.lr for run in before} == {0.007}
    monkeypatch.setattr(sys, "argv", ["tune", "--scale", "demo"])
    run_command(tune.main)
    assert "residual: {" in capsys.readouterr().out
    tried = {row: run for run, row in labelled_plan(load_spec("tune"), "demo").items()}
    assert {run.lr for row, run in tried.items() if not row.startswith("full")} == {0.05}
    assert all(run.validation and run.seed == 100 for run in tried.values())

    found = {row: run for run, row in labelled_plan(load_spec("table2"), "demo").items()}
    assert {run.lr for run in found.values()} == {0.05}
    chosen = json.loads((place / "cache" / "tuned" / "tune-demo.json").read_text())
    (name,) = chosen["residual"]["options"]["prefix_then_body"]
    value = getattr(
        tried[f"prefix_then_body {'prefix=0.75' if name == 'prefix' else 'spread=0.4'}"].options,
        name,
    )
    for row, compute in {"prefix_then_body": 0.7, "prefix_then_body 60%": 0.6}.items():
        assert getattr(found[row].options, name) == value
        assert found[row].options.compute == compute
    assert found["prefix_then_body prefix=0.5"].options.prefix == 0.5


def test_a_damaged_file_of_settings_is_named(place: Path) -> None:
    (place / "cache" / "tuned").mkdir(parents=True)
    (place / "cache" / "tuned" / "tune-demo.json").write_text("{residual")
    with pytest.raises(ValueError, match=r"tune-demo.json is not valid JSON"):
        load_spec("table2")


def test_a_dry_run_writes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", "--scale", "demo", "--dry"])
    run_command(tune.main)
    assert "4 cells, 5 runs to do" in capsys.readouterr().out
    assert not (place / "cache").exists() and not (place / "results").exists()
