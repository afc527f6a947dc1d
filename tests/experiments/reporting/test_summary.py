"""Tests of the summary of all workloads."""

from pathlib import Path

import pytest

from experiments.reporting.summary import summary

COLUMNS = "model,dataset,method,accuracy_mean,accuracy_std,n,planned,diverged,edited"
COLUMNS += ",difference_mean,difference_std,compute_ratio"
RUNS = """\
model,method,dataset,status,final_accuracy,seed,machine,torch,git,command
vgg11,full,mrpc,finished,0.6,0,a CPU,2.14,abc1234,make table3 SCALE=small
vgg11,full,sst2,finished,0.7,1,a CPU,2.14,abc1234,make table1
vgg11,full,sst2,finished,0.7,1,a CPU,2.14,abc1234,make table1 CONTROLS=1 BUDGET=1
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [
        "vgg11,cifar10,full,50.0,1.0,2,3,0,0,0.0,0.0,1.0",
        "vgg11,cifar10,linear,,,0,3,0,0,,,",
        "vgg11,cifar10,smartfrz,49.5,,2,3,1,0,-0.5,,0.625",
        "vgg11,cifar10,autofreeze,51.0,1.5,3,3,0,0,,,0.75",
        "vgg11,cifar10,shorter,,,3,3,3,0,,,",
        "vgg11,cifar100,full,,,0,3,0,0,,,",
    ]
    folder = tmp_path / "table3-small"
    folder.mkdir()
    (folder / "table.csv").write_text("\n".join([COLUMNS, *rows]) + "\n")
    (folder / "runs.csv").write_text(RUNS)
    return tmp_path


def test_a_workload_is_a_row(results: Path) -> None:
    caption, _, header, _, row = summary(results, "small").splitlines()
    assert header == (
        "| Workload | Full training | SmartFRZ | Linear freezing | AutoFreeze | Shorter training |"
    )
    assert row == (
        "| VGG11 on CIFAR-10, from scratch | 50.00 ± 1.00 (2/3) "
        "| \N{MINUS SIGN}0.50 at 0.62 (2/3, diverged 1/2) | not run "
        "| \N{EN DASH} at 0.75 | diverged 3/3 |"
    )
    assert (
        " Full training of VGG11 on MRPC is no better than always predicting the majority"
        in caption
    )
    assert "SST-2" not in caption
    assert caption.endswith(
        "Measured on a CPU, torch 2.14, seeds 0, 1: make table1 and make table3 SCALE=small."
    )


def test_without_results_it_says_so(tmp_path: Path) -> None:
    assert summary(tmp_path, "small").startswith("Nothing has been run yet.")
