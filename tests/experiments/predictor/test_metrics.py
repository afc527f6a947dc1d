"""Tests of the metrics of scores, against plain loops and by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.predictor.metrics import calibration_error, freezing, metrics, reliability

SCORE = st.sampled_from([-math.inf, -2.0, 0.1, 0.5, 0.6, 3.0, math.inf])
EXAMPLES = st.lists(st.tuples(st.booleans(), SCORE), min_size=1, max_size=20)


def share(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def naive(examples, threshold):
    """Computes the metrics by looping over pairs of examples and over thresholds."""
    yes, no = ([s for label, s in examples if label == which] for which in (True, False))
    precision, recall = (
        share(label for label, s in examples if s > threshold),
        share(s > threshold for s in yes),
    )
    found = {"precision": precision, "recall": recall, "positive_rate": len(yes) / len(examples)}
    found["f1"] = (
        2
        * len([s for s in yes if s > threshold])
        / max(1, len(yes) + len([s for _, s in examples if s > threshold]))
    )
    if not yes or not no:
        return found | {"auroc": math.nan, "average_precision": math.nan}
    found["auroc"] = share((y > n) + (y == n) / 2 for y in yes for n in no)
    found["average_precision"] = sum(
        share(s == cut for s in yes) * share(label for label, s in examples if s >= cut)
        for cut in {s for _, s in examples}
    )
    return found


@given(EXAMPLES)
def test_metrics_are_what_loops_find(examples):
    labels, scores = (torch.tensor(each) for each in zip(*examples, strict=True))
    # Two runs, of a single layer each.
    parts = ([each[:5, None], each[5:, None]] for each in (labels, scores))
    found = metrics(*([x for x in part if len(x)] for part in parts), 0.3, are_probabilities=False)
    expected = {**naive(examples, 0.3), "examples": len(examples), "calibration_error": math.nan}
    assert found == pytest.approx({**found, **expected}, nan_ok=True)


@given(st.lists(st.lists(st.tuples(st.booleans(), SCORE), min_size=3, max_size=3), min_size=1))
def test_a_layer_is_frozen_once(layers):
    """Freezing happens at the first record above the threshold and lasts to the end."""
    labels, scores = (
        torch.tensor([[each[i] for each in layer] for layer in layers]).T for i in (0, 1)
    )
    first = [next((r for r, (_, s) in enumerate(layer) if s > 0.3), None) for layer in layers]
    pairs = [(layer, r) for layer, r in zip(layers, first, strict=True) if r is not None]
    expected = {
        "frozen_rightly": share(layer[r][0] for layer, r in pairs),
        "frozen_time": sum((3 - r) / 3 for _, r in pairs) / len(layers),
    }
    assert freezing([labels], [scores], 0.3) == pytest.approx(expected, nan_ok=True)
    assert freezing([labels[:, :1], labels], [scores[:, :1], scores], math.inf)["frozen_time"] == 0


def test_the_calibration_error_is_the_mean_distance_weighted_by_examples():
    """Bins from 0.2 to 0.3 and from 0.9 to 1, the latter with a probability of exactly 1."""
    probability = torch.tensor([0.2, 0.29, 0.92, 1.0, 1.0])
    labels = torch.tensor([False, True, True, True, False])
    bins = [(2, 0.245, 0.5), (3, 2.92 / 3, 2 / 3)]
    for found, expected in zip(reliability(labels, probability), bins, strict=True):
        assert found == pytest.approx(expected)
    expected = (2 * (0.5 - 0.245) + 3 * (2.92 / 3 - 2 / 3)) / 5
    assert calibration_error(labels, probability) == pytest.approx(expected)
    found = metrics([labels[:, None]], [probability[:, None]], 0.5, True)
    assert found["calibration_error"] == pytest.approx(expected)


def test_probabilities_that_mean_what_they_say_have_next_to_no_error():
    probability = torch.rand(20_000)
    labels = torch.rand(20_000) < probability
    assert calibration_error(labels, probability) < 0.02
    assert calibration_error(labels, 1 - probability) > 0.4
