"""Scores of a predictor on recorded trainings, against scikit-learn and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from experiments.held_out import auroc, judge, score
from smartfrz.labeller import History, window_at
from smartfrz.predictor import AttentionPredictor


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_auroc_is_scikit_learn_s(examples):
    labels, scores = zip(*examples, strict=True)
    result = auroc(torch.tensor(labels), torch.tensor(scores, dtype=torch.float32))
    if len(set(labels)) == 1:
        assert result is None
    else:
        assert result == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)


@pytest.fixture
def predictor():
    return AttentionPredictor(size=8, hidden=4, features=4, head_hidden=4, window=3)


def test_judges_each_layer_at_each_record_but_the_first_by_its_window(predictor):
    weights = torch.randn(5, 2, 8).cumsum(dim=0)
    cka = torch.tensor([[0.0, 0.0], [0.2, 0.5], [0.4, 0.5], [0.9, 0.5], [0.9, 0.5]])
    labels, probability, moved = judge(predictor, History(weights, cka), tolerance=0.1)
    assert labels.tolist() == [False, True, False, True, True, True, True, True]
    examples = [(record, layer) for record in range(1, 5) for layer in range(2)]
    for i, (record, layer) in enumerate(examples):
        rows, valid = window_at(History(weights, cka), record, layer, window=3)
        alone = predictor.freeze_probability(rows[None], valid[None])
        torch.testing.assert_close(probability[i : i + 1], alone)
        expected = math.dist(rows[-1], rows[-2]) / rows[-1].norm()
        torch.testing.assert_close(moved[i], expected)


def test_the_rule_is_right_where_the_layers_that_moved_least_are_the_stable_ones(predictor):
    moves = torch.tensor([0.0, 5.0, 4.0, 1.0, 1.0])[:, None, None]
    weights = 100 + (moves * torch.ones(5, 1, 8)).cumsum(dim=0)
    cka = torch.tensor([0.0, 0.3, 0.6, 0.9, 0.9])[:, None]
    scores = score(predictor, [History(weights, cka)] * 2, tolerance=0.01)
    assert (scores["examples"], scores["positive_rate"]) == (8, 0.5)
    assert scores["auroc_last_displacement"] == 1.0
    assert 0 <= scores["auroc"] <= 1


@pytest.mark.parametrize(("cka", "rate"), [(0.5, 1.0), (math.nan, 0.0)])
def test_with_one_label_alone_there_is_no_auroc(predictor, cka, rate):
    history = History(torch.randn(4, 2, 8), torch.full((4, 2), cka))
    scores = score(predictor, [history], tolerance=0.01)
    assert scores["auroc"] is None and scores["auroc_last_displacement"] is None
    assert scores["positive_rate"] == rate
    said = predictor.freeze_probability(history.weights[:2].transpose(0, 1)) > 0.5
    assert scores["accuracy"] == (said.double().mean() if rate else 1 - said.double().mean())
