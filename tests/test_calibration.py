"""Platt scaling and the threshold, against solutions that are known or found by trying."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from smartfrz.calibration import best_threshold, calibrate
from smartfrz.predictor import AttentionPredictor


@pytest.fixture
def predictor():
    return AttentionPredictor(size=8, hidden=4, features=4, head_hidden=4)


def logits_with(margin):
    """Logits whose differences these are, whatever they have in common."""
    return torch.stack([torch.full_like(margin, 3.0), 3 + margin], dim=1)


def margin_by(predictor, inputs):
    with torch.no_grad():
        return predictor.mlp_z(inputs) @ torch.tensor([-1.0, 1.0])


@pytest.mark.parametrize("positive", [(1, 3), (3, 1)], ids=["rising", "falling"])
def test_two_margins_get_the_probabilities_that_they_have(predictor, positive):
    """Of four examples each: the solution is a line through both log-odds; it never falls."""
    margin = torch.tensor([-1.0] * 4 + [1.0] * 4)
    labels = torch.tensor([i < count for count in positive for i in range(4)])
    inputs = torch.randn(9, 4)
    before = margin_by(predictor, inputs)
    calibrate(predictor, logits_with(margin), labels)
    scale = math.log(3) if positive == (1, 3) else 0
    torch.testing.assert_close(margin_by(predictor, inputs), scale * before, atol=1e-3, rtol=1e-3)


def test_the_cross_entropy_falls_and_the_order_stays(predictor):
    """On scores that are ten times too sure, and shifted."""
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
    # At the optimum the mean probability is the rate.
    assert after.sigmoid().mean().item() == pytest.approx(labels.double().mean().item(), abs=1e-3)


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_cannot_be_calibrated_on(predictor, label):
    with pytest.raises(ValueError, match="both labels"):
        calibrate(predictor, torch.randn(5, 2), torch.full((5,), label))


def f1(scores, labels, threshold):
    chosen = scores > threshold
    return 2 * (chosen & labels).sum().item() / max(1, (chosen.sum() + labels.sum()).item())


SCORE = st.sampled_from([-math.inf, 0.0, 0.25, 0.5, 1 - 2**-24, 1.0, math.inf])


@given(st.lists(st.tuples(SCORE, st.booleans()), min_size=1, max_size=12))
def test_no_threshold_has_a_higher_f1(examples):
    """Ties, infinities, and two scores between which float32 has no other number."""
    scores, labels = (torch.tensor(each) for each in zip(*examples, strict=True))
    labels[0] = True
    best = max(f1(scores, labels, each) for each in [-math.inf, *scores.tolist()])
    assert f1(scores, labels, best_threshold(scores, labels)) == pytest.approx(best)


def test_the_threshold_is_between_two_scores():
    scores, labels = torch.tensor([0.2, 0.9, 0.6, 0.1]), torch.tensor([False, True, True, False])
    assert best_threshold(scores, labels) == pytest.approx(0.4)
    assert best_threshold(scores, torch.ones(4, dtype=torch.bool)) == -math.inf
