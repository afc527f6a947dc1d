"""A folder with the spec of a small table2, for calling the table command."""

import json
import sys
import warnings
from pathlib import Path

import pytest

from experiments import plan as planning
from scripts import table
from scripts.cli import run_command
from tests.helpers.digits import save_random_predictor

METHODS = ["full", "smartfrz", "autofreeze", "linear"]
SPEC = """
title = "Some digits."
methods = {methods}

[options.linear]
match = "smartfrz"

[options.smartfrz]
predictor = "{predictor}"
records_per_epoch = 2
records_per_decision = 1
threshold = 0.87

[scales.demo]
models = ["residual", "plain"]
datasets = ["digits[5:10]"]
seeds = [0]

[scales.demo.run]
epochs = 6
lr = {lr}
image_size = 16
train_images = 160
test_images = 64
augment = false
pretraining = {{ dataset = "digits[0:5]", epochs = 1, lr = 0.05 }}
"""

CONTROLS = """
title = "Rows to add."
methods = ["shorter", "displacement"]
scales_of = "table2"
options.shorter.match = "smartfrz idle"
options.displacement = { records_per_epoch = 4, threshold = 0.01 }
"""
BUDGET = """
title = "More rows to add."
methods = ["smartfrz 60%"]
scales_of = "table2"
fields."smartfrz 60%".budget = 0.6
"""


def write_spec(folder: Path, methods=METHODS, lr=0.05, predictor=None) -> None:
    """Writes the specs, with a predictor of random weights unless another is given."""
    if predictor is None:
        save_random_predictor(folder / "predictor")
        predictor = folder / "predictor"
    (folder / "specs").mkdir(parents=True, exist_ok=True)
    text = SPEC.format(methods=json.dumps(methods), lr=lr, predictor=predictor)
    (folder / "specs" / "table2.toml").write_text(text)
    (folder / "specs" / "controls.toml").write_text(CONTROLS)
    (folder / "specs" / "budget.toml").write_text(BUDGET)


def use(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Redirects the command's specs, cache and results to this folder."""
    patch.setattr("experiments.spec.SPECS", folder / "specs")
    patch.setenv("SMARTFRZ_CACHE", str(folder / "cache"))
    patch.chdir(folder)
    patch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
    patch.setitem(sys.modules, "wandb", None)  # importing it fails
    planning.fingerprint.cache_clear()


def run_table(patch: pytest.MonkeyPatch, *arguments: str, name: str = "table2") -> int:
    """Executes the table command and returns its exit code."""
    patch.setattr(sys, "argv", ["table", name, "--scale", "demo", *arguments])
    try:
        run_command(table.main)
    except SystemExit as stopped:
        assert isinstance(stopped.code, int)
        return stopped.code
    return 0


def files_in(folder: Path) -> dict[str, int]:
    """All files of a folder, and the times of their last changes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}
