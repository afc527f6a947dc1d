"""Tests of the captions of tables: where the numbers come from, and what to know about them."""

import math

import pandas as pd
import pytest

from experiments.reporting.tables import caption
from experiments.runs.run_frame import runs_to_frame
from tests.helpers.table_runs import row, run


def test_a_caption_says_where_numbers_come_from():
    gpu = {"machine": "NVIDIA H100", "torch": "2.15.0", "git": "def5678"}
    frame = pd.DataFrame([run(seed=10), run(seed=2, **gpu)])
    text = caption(frame, "Fine-tuning.", False)
    assert text.startswith("Fine-tuning. ")
    for fact in (
        *("Measured on AMD EPYC, 2 cores and NVIDIA H100,", "torch 2.14.1 and 2.15.0"),
        *("; 2 commits", "seeds 2, 10", ": make table2 SCALE=small"),
    ):
        assert fact in text


def test_a_caption_marks_a_mixture_of_versions_of_the_code():
    mixed = pd.DataFrame([run(git="abc1234"), run(seed=1, git="def5678")])
    assert "; 2 commits (provenance.json)" in caption(mixed, "T.", False)
    assert "commit" not in caption(mixed[:1], "T.", False)


@pytest.mark.parametrize("what", ["pretrained_accuracy", "pretrained_sha256"])
def test_runs_that_started_from_other_weights_have_no_difference(what):
    """Pretraining gives other weights on another machine, with larger effects than a method's."""
    values = {"pretrained_accuracy": 0.33, "pretrained_sha256": "12e456789012"}
    other = {"pretrained_accuracy": 0.34, "pretrained_sha256": math.nan}[what]
    runs = [
        run(**values, seed=0),
        run(**values, seed=1),
        run("smartfrz", seed=0, accuracy=0.91, **values),
        run("smartfrz", seed=1, accuracy=0.95, **{**values, what: other}),
    ]
    found = row(runs, "smartfrz", seeds=2)
    assert found["difference_mean"] == pytest.approx(1.0) and found["n"] == 2
    assert found["compute_ratio"] == 1
    frame = pd.DataFrame(runs)
    assert " 1 of the runs started from other weights than full training. " in caption(
        frame, "T.", False
    )
    assert "other weights" not in caption(frame[:3], "T.", False)


def test_a_caption_names_other_metrics():
    frame = pd.DataFrame([run(), run(dataset="cola", metric="matthews")])
    assert " CoLA: Matthews correlation." in caption(frame, "NLP.", False)


def test_a_caption_without_runs_says_so():
    assert (
        caption(runs_to_frame([]), "Fine-tuning.", False)
        == "Fine-tuning. Nothing has been run yet."
    )
