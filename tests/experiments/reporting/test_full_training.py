"""Tests of the table of what full training reaches."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.files import ROOT
from experiments.reporting.full_training import full_training
from experiments.runs.run_frame import read_csv
from experiments.spec import SPECS

CELLS = """\
model,dataset,method,accuracy_mean,accuracy_std,n,planned,diverged,edited
resnet50,cifar10,full,80.0,1.0,2,3,0,0
resnet50,cifar10,linear,99.0,1.0,2,3,0,0
efficientnet_lite0,cifar10,full,77.0,1.0,3,3,0,0
vgg11,cifar10,full,,,0,3,0,0
"""
MEASURED = {"seed": 0, "torch": "2.14", "git": "abc1234", "command": "make table2"}
RUNS = [
    {
        **{"model": "resnet50", "dataset": "cifar10", "method": "full", "machine": "a CPU"},
        **{"train_images": 640, "image_size": 32, "max_length": None, "epochs": 40},
        "pretraining": '{"dataset": "cifar100", "epochs": 5.0}',
    },
    {"model": "resnet50", "dataset": "cifar10", "method": "linear", "machine": "another CPU"},
    {
        **{"model": "efficientnet_lite0", "dataset": "cifar10", "method": "full"},
        **{"machine": "a CPU", "train_images": 0, "image_size": 64, "max_length": 0, "epochs": 5},
        "pretraining": '{"dataset": "imagenet", "epochs": 0.0}',
    },
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("table2-small", "table3-small", "table2-medium"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "table.csv").write_text(CELLS)
        pd.DataFrame([run | MEASURED for run in RUNS]).to_csv(folder / "runs.csv", index=False)
    return tmp_path


def test_a_workload_stands_beside_its_goal_and_the_published_accuracy(results: Path) -> None:
    caption, _, _, _, *rows = full_training(results, "small").splitlines()
    assert rows[:2] == [
        "| ResNet50 on CIFAR-10 | 640 images of 32 pixels, 40 epochs, after 5 epochs on CIFAR-100 "
        "| 80.00 ± 1.00 (2/3) | 80, reached | 96.1 (the paper) |",
        "| EfficientNet-Lite0 on CIFAR-10 | all images of 64 pixels, 5 epochs, published weights "
        "| 77.00 ± 1.00 | \N{EN DASH} | 98.1 (EfficientNet-B0, Tan and Le 2019) |",
    ]
    assert "another CPU" not in caption


def test_goals_are_for_small_and_for_their_table(results: Path) -> None:
    *_, from_scratch, without_figure = full_training(results, "small").splitlines()
    assert "| \N{EN DASH} | 77.48 (the paper) |" in from_scratch
    assert without_figure.endswith("| \N{EN DASH} | \N{EN DASH} |")
    assert "reached" not in full_training(results, "medium")


def test_a_goal_can_be_missed(results: Path) -> None:
    file = results / "table2-small" / "table.csv"
    file.write_text(CELLS.replace("full,80.0", "full,79.9"))
    assert "| 80, missed |" in full_training(results, "small")


def test_without_results_it_says_so(tmp_path: Path) -> None:
    assert full_training(tmp_path, "small").startswith("Nothing has been run yet.")


def test_every_workload_of_tables_2_and_6_with_published_weights_has_a_figure() -> None:
    known = read_csv(SPECS / "full_training.csv")
    named = set(zip(known["table"], known["model"], known["dataset"], strict=True))
    for number in (2, 6):
        runs = read_csv(ROOT / "results" / f"table{number}-small" / "runs.csv")
        ready = runs[runs["pretraining"].str.contains('"epochs": 0.0')]
        found = {(number, *pair) for pair in zip(ready["model"], ready["dataset"], strict=True)}
        assert found <= named
