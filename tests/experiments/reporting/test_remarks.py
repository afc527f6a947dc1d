"""Tests of the remarks on data sets that are not learned, and on runs that froze early."""

import json

import pandas as pd
import pytest

from experiments.reporting.remarks import frozen_early, not_learned


@pytest.mark.parametrize(
    ("dataset", "accuracies", "is_learned"),
    [
        ("mrpc", (0.6, 0.7), False),
        ("mrpc", (0.68, 0.70), True),
        ("sst2", (0.5, 0.5), False),
        ("sst2", (0.52, 0.51), True),
        ("cifar10", (0.1, 0.1), True),
    ],
)
def test_by_the_mean_over_runs_of_full_training(
    dataset: str, accuracies: tuple[float, ...], is_learned: bool
):
    """Other methods may be better by chance, and diverged runs have no accuracy."""
    other = 0.1 if is_learned else 0.9
    rows = [("full", "finished", accuracy) for accuracy in accuracies]
    rows += [("smartfrz", "finished", other), ("full", "diverged", other)]
    frame = pd.DataFrame(rows, columns=["method", "status", "final_accuracy"])
    remark = not_learned(frame.assign(model="minilm", dataset=dataset))
    assert (remark == "") == is_learned


def test_names_the_network_and_what_the_same_answer_gives():
    row = {"method": "full", "status": "finished", "dataset": "mrpc"}
    runs = [
        row | {"model": "bert_mini", "final_accuracy": 0.6},
        row | {"model": "minilm", "final_accuracy": 0.7},
    ]
    assert not_learned(pd.DataFrame(runs)) == (
        " Full training of BERT-mini on MRPC is no better than always predicting the majority "
        "class (68.4%)."
    )


LAYERS = ["stem", "body", "head"]


def run(method: str, frozen: dict[str, int], steps: int = 100) -> dict[str, object]:
    series = {"layers": json.dumps(LAYERS), "frozen": json.dumps(frozen)}
    return {"method": method, "steps": steps, **series}


def test_counts_such_runs_by_method():
    early, late = {"stem": 0, "body": 24}, {"stem": 0, "body": 25}
    runs = [run("smartfrz", early), run("autofreeze", early), run("smartfrz", early)]
    runs += [run("smartfrz", late), run("linear", {"stem": 0}), run("full", {})]
    assert frozen_early(pd.DataFrame(runs)).endswith(": SmartFRZ 2, AutoFreeze 1.")


@pytest.mark.parametrize("frozen", [{}, {"stem": 0}, {"stem": 0, "body": 25}])
def test_says_nothing_of_other_runs(frozen: dict[str, int]):
    assert frozen_early(pd.DataFrame([run("smartfrz", frozen)])) == ""
