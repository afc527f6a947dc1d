"""Tests of the wandb dashboard; its appearance can only be checked with an account."""

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from wandb_workspaces.reports import v2 as wr
from wandb_workspaces.workspaces import Workspace

from experiments.config import RunConfig
from experiments.files import ROOT
from experiments.reporting.dashboard.workspace import workspace
from experiments.runs.tracking import METRICS
from scripts import dashboard
from scripts.cli import run_command


def named(panel: Any) -> Iterator[Any]:
    """Yields the metrics and config keys in a panel's fields."""
    for field in dataclasses.fields(panel):
        value = getattr(panel, field.name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (wr.Metric, wr.SummaryMetric, wr.Config)):
                yield each


def test_panels_name_only_what_runs_log() -> None:
    config_keys = {field.name for field in dataclasses.fields(RunConfig)}
    shown = set()
    for section in workspace("someone", "smartfrz").sections:
        for panel in section.panels:
            for each in named(panel):
                if isinstance(each, wr.Config):
                    assert each.name in config_keys
                else:
                    assert each.name in {*METRICS, "Step"}
                    shown.add(each.name)
    assert shown >= set(METRICS)


def test_runs_are_listed_by_table_and_workload() -> None:
    settings = workspace("someone", "smartfrz").runset_settings
    assert [each.name for each in settings.groupby] == ["table", "model", "dataset"]


def test_without_an_account_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("api key not configured")

    monkeypatch.setattr(Workspace, "save", fail)
    monkeypatch.setattr(sys, "argv", ["dashboard.py", "--entity", "someone"])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
    with pytest.raises(SystemExit) as stopped:
        run_command(dashboard.main)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: The dashboard cannot be saved (api key not configured). Log in")


def test_the_script_runs_from_the_root_of_a_checkout() -> None:
    command = [sys.executable, "-m", "scripts.dashboard", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--entity" in said.stdout
