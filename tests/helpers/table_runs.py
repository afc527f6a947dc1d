"""Runs of a table, and the comparison table of them."""

import pandas as pd

from experiments.reporting.tables import comparison_table
from experiments.runs.run_frame import runs_to_frame
from experiments.spec import SPECS

PAPER = pd.read_csv(SPECS / "paper.csv")
TABLE_2 = PAPER[PAPER["table"] == 2]
NO_PAPER = PAPER[:0]


def run(method="full", seed=0, accuracy=0.9, seconds=100.0, tflops=10.0, **changes):
    return {
        "status": "finished",
        "is_intact": True,
        "model": "resnet50",
        "dataset": "cifar10",
        "method": method,
        "seed": seed,
        "epochs": 10.0,
        "steps": 200,
        "steps_per_epoch": 20,
        "layers": '["body", "head"]',
        "frozen": "{}",
        "metric": "accuracy",
        "final_accuracy": accuracy,
        "train_seconds": seconds,
        "tflops": tflops,
        "machine": "AMD EPYC, 2 cores",
        "torch": "2.14.1",
        "git": "abc1234",
        "command": "make table2 SCALE=small",
    } | changes


def plan(*methods, seeds=3, model="resnet50", dataset="cifar10"):
    return [(model, dataset, method, seed) for method in methods for seed in range(seeds)]


def table(runs, planned, paper=NO_PAPER):
    frame = pd.DataFrame(runs) if runs else runs_to_frame([])
    return comparison_table(frame, planned, paper)


def row(runs, method, seeds=3):
    (only,) = table(runs, plan(method, seeds=seeds)).to_dict("records")
    return only
