"""Tests of Platt scaling and the threshold, against known solutions and exhaustive search."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.calibration import calibrate, freezing_threshold


@pytest.fixture
def predictor():
    return AttentionPredictor(size=8, hidden=4, features=4, head_hidden=4)


def logits_with(margin):
    """Logits with these differences and a common offset."""
    return torch.stack([torch.full_like(margin, 3.0), 3 + margin], dim=1)


def margin_by(predictor, inputs):
    with torch.no_grad():
        return predictor.mlp_z(inputs) @ torch.tensor([-1.0, 1.0])


@pytest.mark.parametrize("positive", [(1, 3), (3, 1)], ids=["rising", "falling"])
def test_two_margins_get_the_probabilities_that_they_have(predictor, positive):
    """For four examples each, the solution is a line through both log-odds that never falls."""
    margin = torch.tensor([-1.0] * 4 + [1.0] * 4)
    labels = torch.tensor([i < count for count in positive for i in range(4)])
    inputs = torch.randn(9, 4)
    before = margin_by(predictor, inputs)
    calibrate(predictor, logits_with(margin), labels)
    scale = math.log(3) if positive == (1, 3) else 0
    torch.testing.assert_close(margin_by(predictor, inputs), scale * before, atol=1e-3, rtol=1e-3)


def test_the_cross_entropy_falls_and_the_order_stays(predictor):
    """On scores that are ten times too large, and shifted."""
    inputs = torch.randn(400, 4)
    before = margin_by(predictor, inputs)
    predictor.mlp_z[-1].weight.data *= 10 / before.std()
    before = margin_by(predictor, inputs)
    labels = torch.rand(400) < torch.sigmoid(before / 10 - 1)
    with torch.no_grad():
        calibrate(predictor, predictor.mlp_z(inputs), labels)
    after = margin_by(predictor, inputs)
    assert torch.equal(before.argsort(), after.argsort())
    assert all(param.grad is None for param in predictor.parameters())
    losses = [binary_cross_entropy_with_logits(m, labels.float()) for m in (before, after)]
    assert losses[1] < 0.8 * losses[0]
    # At the optimum, the mean probability equals the rate of positive labels.
    assert after.sigmoid().mean().item() == pytest.approx(labels.double().mean().item(), abs=1e-3)


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_cannot_be_calibrated_on(predictor, label):
    with pytest.raises(ValueError, match="both labels"):
        calibrate(predictor, torch.randn(5, 2), torch.full((5,), label))


SCORE = st.sampled_from([-math.inf, 0.0, 0.25, 0.5, 1 - 2**-24, 1.0, math.inf])
LAYER = st.lists(st.tuples(SCORE, st.booleans()), min_size=4, max_size=4)


def frozen(layers, threshold):
    """The labels of the records at which layers freeze."""
    first = (next((r for r in layer if r[0] > threshold), None) for layer in layers)
    return [record[1] for record in first if record]


@given(st.lists(LAYER, min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_no_lower_threshold_is_right_often_enough(layers, precision):
    """With one run per layer, and with all layers in one run."""
    parts = [torch.tensor(layers)[..., i].T for i in (0, 1)]
    scores, labels = parts[0], parts[1].bool()
    found = freezing_threshold([scores], [labels], precision)
    assert found == freezing_threshold(*(x.split(1, dim=1) for x in (scores, labels)), precision)
    cuts = sorted({-math.inf, *scores.flatten().tolist()})
    good = [cut for cut in cuts if sum(f := frozen(layers, cut)) >= precision * len(f)]
    assert frozen(layers, found) == frozen(layers, good[0])


def test_a_layer_that_freezes_wrongly_once_is_wrong_for_good():
    """Its later records do not count, although they are classified correctly."""
    scores, labels = torch.tensor([[0.1], [0.6], [0.9]]), torch.tensor([[False], [False], [True]])
    assert freezing_threshold([scores], [labels], 0.9) == pytest.approx(0.6)


def test_without_any_label_nothing_freezes():
    scores = torch.rand(5, 3)
    found = freezing_threshold([scores], [torch.zeros(5, 3, dtype=torch.bool)], 0.9)
    assert found == scores.max()
