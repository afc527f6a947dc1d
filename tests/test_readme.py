"""The README's code runs, its commands exist, its numbers are those of the result files."""

import math
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from experiments.added_rows import KINDS
from experiments.files import ROOT
from experiments.reporting.contents import SECTIONS
from experiments.reporting.readme import filled
from experiments.spec import SCALES, SPECS
from smartfrz import Freezer
from tests.helpers.scripted import Scripted

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


def test_tables_are_those_of_the_result_files():
    assert filled(README, ROOT) == README


def test_a_slot_is_filled_with_all_of_a_table(tmp_path: Path):
    (tmp_path / "results").mkdir()
    table = "Caption.\n\n| a | b |\n| x | 1 |\n| y | not run (0/3) |\n| z | 2 (1/3) |\n"
    (tmp_path / "results" / "table.md").write_text(table)
    text = "before\n<!-- results/table.md -->\nold\n<!-- end -->\nafter\n"
    once = filled(text, tmp_path)
    assert once == f"before\n<!-- results/table.md -->\n{table}<!-- end -->\nafter\n"
    assert filled(once, tmp_path) == once


def test_every_path_that_the_readme_names_as_a_picture_exists():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    assert all((ROOT / picture).stat().st_size > 0 for picture in pictures)


def test_code_for_ones_own_loop_runs():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "loader": [(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))] * 501,
        "loss_fn": nn.CrossEntropyLoss(),
    }
    exec(blocks("python")[0], names)
    assert names["freezer"].state_dict()["step"] == 501
    assert names["freezer"].frozen.keys() <= {"0", "2"}


def test_code_for_time_and_memory_runs():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    exec(blocks("python")[1], {"model": model, "example_inputs": torch.zeros(1, 3, 8, 8)})
    assert all("forward" in vars(module) for module in model)


def test_code_for_cached_features_runs():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    names = {
        **{"model": model, "optimizer": optimizer, "loss_fn": nn.CrossEntropyLoss()},
        "freezer": Freezer(model, optimizer, Scripted({1: ["0"]})),
        "loader": [([0, 1, 2, 3], torch.eye(4, 8), torch.zeros(4, dtype=torch.long))] * 5,
    }
    exec(blocks("python")[2], names)
    assert names["cached"].cut == "1"


def test_code_for_a_budget_runs():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freezer = Freezer(model, optimizer, Scripted({5: ["0", "1"]}))
    rates = []

    def train_step() -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        model(torch.ones(1, 8)).sum().backward()
        freezer.step()
        optimizer.step()

    names = {"freezer": freezer, "optimizer": optimizer, "train_step": train_step}
    exec(blocks("python")[3], {**names, "total_steps": 20, "LambdaLR": LambdaLR, "math": math})
    assert 12 < len(rates) < 36 and rates == sorted(rates, reverse=True)
    assert rates[0] == 0.1 and optimizer.param_groups[0]["lr"] < 1e-3


@pytest.mark.parametrize("command", commands())
def test_make_knows_every_command(command):
    words = [word for word in shlex.split(command) if not word.startswith("SMARTFRZ_DATA=")]
    assert words[0] == "make"
    said = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert ".venv/bin/" in said.stdout or "Nothing to be done" in said.stdout


def test_make_alone_lists_the_targets():
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint", "predictor", "table"):
        assert re.search(rf"^make {target}\S* +\S", said, re.MULTILINE)


TARGETS = [
    *(f"table{i}" for i in range(1, 10)),
    *("policies", "unconverged", "thresholds", "predictor", "evidence", "attention"),
    *("fig3", "fig4", "fig5", "overhead", "report", "smoke"),
]


@pytest.mark.parametrize("scale", SCALES)
def test_every_target_has_every_scale(scale: str) -> None:
    said = subprocess.run(
        ["make", "-n", *TARGETS, f"SCALE={scale}", "DRY=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    for target in TARGETS[:10]:
        assert f"scripts.table {target} --scale {scale}" in said.stdout
    commands = [line for line in said.stdout.splitlines() if "-m scripts." in line]
    assert all("--dry" in line or "scripts.report" in line for line in commands)


def test_every_table_has_a_target_and_a_place_in_the_report() -> None:
    specs = {spec.stem for spec in SPECS.glob("*.toml")} - set(KINDS)
    assert specs <= set(TARGETS)
    assert {section.name for section in SECTIONS} >= specs - {"predictor"}


@pytest.mark.slow
def test_demo_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    command = [".venv/bin/python", "-m", "scripts.table", "table2", "--scale", "demo"]
    subprocess.run([*command, "--results", str(tmp_path)], cwd=ROOT, check=True, timeout=300)
    assert len(list((tmp_path / "runs").glob("*.json"))) == 39
    assert (tmp_path / "table2-demo" / "table.md").exists()
