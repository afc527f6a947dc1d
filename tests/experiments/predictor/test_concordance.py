"""Tests of concordances, against loops over pairs."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.predictor import concordance
from experiments.predictor.concordance import concordances
from experiments.predictor.metrics import metrics

VALUE = st.sampled_from([0.0, 0.25, 1.0, math.nan])
SCORE = st.sampled_from([-math.inf, 0.0, 0.5, math.inf])
RUN = st.integers(1, 3).flatmap(
    lambda layers: st.lists(
        st.lists(st.tuples(VALUE, SCORE), min_size=layers, max_size=layers), min_size=1, max_size=4
    )
)


def naive(runs, are_paired):
    """Loops over all ordered pairs of examples of a run that are paired by record and layer."""
    outcomes = [
        (a[1] > b[1]) + (a[1] == b[1]) / 2
        for run in runs
        for (r, i), (s, j) in product(product(range(len(run)), range(len(run[0]))), repeat=2)
        if are_paired(r, i, s, j)
        for a, b in [(run[r][i], run[s][j])]
        if a[0] > b[0]
    ]
    return sum(outcomes) / len(outcomes) if outcomes else math.nan


@given(st.lists(RUN, min_size=1, max_size=3))
def test_concordances_are_what_loops_find(runs):
    values, scores = ([torch.tensor(run)[..., i] for run in runs] for i in (0, 1))
    assert concordances(values, scores) == pytest.approx(
        {
            "within_run": naive(runs, lambda r, i, s, j: True),
            "within_moment": naive(runs, lambda r, i, s, j: r == s),
            "within_layer": naive(runs, lambda r, i, s, j: i == j),
        },
        nan_ok=True,
    )


def test_within_a_single_run_that_of_labels_is_the_auroc():
    labels, scores = torch.rand(8, 5) < 0.4, torch.rand(8, 5)
    found = metrics([labels], [scores], 0.5, True)
    assert found["within_run"] == pytest.approx(found["auroc"])
    assert found == pytest.approx({**found, **concordances([labels], [scores])})


def test_the_clock_knows_moments_and_the_depth_knows_layers():
    """Values that grow with time, and in each record with depth."""
    values = torch.arange(12.0).reshape(4, 3)
    clock, depth = torch.arange(4.0)[:, None].expand(4, 3), torch.arange(3.0).expand(4, 3)
    found = [concordances([values], [score]) for score in (clock, depth)]
    assert [each["within_moment"] for each in found] == [0.5, 1]
    assert [each["within_layer"] for each in found] == [1, 0.5]


def test_pairs_are_counted_in_parts(monkeypatch):
    values, scores = torch.rand(2, 6, 5).unbind()
    expected = concordances([values], [scores])
    monkeypatch.setattr(concordance, "_PAIRS_AT_ONCE", 7)
    assert concordances([values], [scores]) == pytest.approx(expected)
