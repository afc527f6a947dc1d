"""The picture of the dashboard: which workload, which panels, and the command that draws it."""

import sys
from pathlib import Path

import pytest

from experiments.files import ROOT
from experiments.reporting.dashboard.preview import preview
from experiments.runs.run_frame import read_csv
from scripts import dashboard
from scripts.cli import run_command

RUNS = ROOT / "results" / "table2-small" / "runs.csv"


def test_it_shows_the_panels_of_the_workspace_for_one_workload() -> None:
    frame = read_csv(RUNS)
    fig = preview(frame)
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == [
        "Accuracy (%) against compute",
        "Accuracy (%)",
        "Layers frozen (%)",
        "Training loss",
        "Compute, fraction of full training's",
        "Layers of SmartFRZ, frozen: grey",
    ]
    assert fig.get_supxlabel().startswith("ResNet50 on CIFAR-10; drawn from run files")
    own = frame[(frame["model"] == "resnet50") & (frame["dataset"] == "cifar10")]
    assert len(fig.axes[4].patches) == own["method"].nunique()
    assert len(fig.axes[0].lines) == own["method"].nunique()


def test_without_finished_runs_there_is_nothing_to_show() -> None:
    with pytest.raises(ValueError, match="nothing to show"):
        preview(read_csv(RUNS).assign(status="diverged"))


def test_the_command_needs_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table2-small").mkdir()
    (tmp_path / "table2-small" / "runs.csv").write_text(RUNS.read_text())
    monkeypatch.setattr(sys, "argv", ["dashboard", "--preview", str(tmp_path / "table2-small")])
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    run_command(dashboard.main)
    drawn = {path.name for path in (tmp_path / "dashboard").iterdir()}
    assert drawn == {"table2-small.png", "table2-small.pdf"}


def test_a_folder_without_a_table_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dashboard", "--preview", str(tmp_path)])
    with pytest.raises(SystemExit):
        run_command(dashboard.main)
    assert "holds no table" in capsys.readouterr().err
