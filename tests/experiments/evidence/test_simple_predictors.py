"""Tests of the baseline predictors, against plain loops."""

import math

import numpy as np
import pytest
import torch

from experiments.evidence.simple_predictors import (
    REGRESSIONS,
    RULES,
    clock_and_depth_features,
    drift_features,
    hand_made_features,
    regression,
)
from experiments.predictor.concordance import concordances
from smartfrz.predictor.labels import future_contribution, stabilised
from tests.helpers.recordings import made_up

HISTORY = made_up()
RECORDS, LAYERS = HISTORY.cka.shape


def each_record(describe, history=HISTORY):
    """Evaluates a function of a layer's weights so far, oldest first, at each record and layer."""
    weights = history.weights.double().numpy()
    rows = [
        [describe(weights[: t + 1, layer]) for layer in range(weights.shape[1])]
        for t in range(len(weights))
    ]
    return torch.tensor(np.array(rows), dtype=torch.float32)


def assert_same(found, expected, first=1):
    """Compares all records but the first ones, which are not evaluated."""
    torch.testing.assert_close(found[first:], expected[first:], atol=2e-4, rtol=1e-4)


def relative(difference, newest):
    return np.linalg.norm(difference) / np.linalg.norm(newest)


def log(value):
    return math.log10(max(value, 1e-8))


def test_the_last_displacement_is_relative_to_the_norm():
    expected = each_record(lambda w: -relative(w[-1] - w[-2], w[-1]) if len(w) > 1 else -math.inf)
    assert_same(RULES["last displacement"](HISTORY), expected, first=0)


def test_the_gradient_s_change_is_autofreeze_s():
    g = HISTORY.gradient
    expected = torch.full_like(g, -math.inf)
    for t in range(1, RECORDS):
        expected[t] = -((g[t - 1] - g[t]) / g[t - 1]).abs()
    torch.testing.assert_close(RULES["gradient norm change"](HISTORY), expected)


def test_the_clock_and_the_depth_know_nothing_else():
    progress, depth = RULES["clock"](HISTORY), RULES["depth"](HISTORY)
    assert progress.shape == depth.shape == (RECORDS, LAYERS)
    assert (progress.diff(dim=0) > 0).all() and (progress.diff(dim=1) == 0).all()
    assert (depth.diff(dim=1) < 0).all() and (depth.diff(dim=0) == 0).all()


def test_contributions_and_the_drift_of_the_output_are_those_since_the_record_before():
    assert torch.equal(RULES["last contribution"](HISTORY), -HISTORY.contribution)
    drift = RULES["output drift"](HISTORY)
    assert torch.equal(drift[3], HISTORY.cka_between[3, 2])
    undefined = made_up(cka_between=torch.full((RECORDS, RECORDS, LAYERS), math.nan))
    assert RULES["output drift"](undefined).eq(-1).all()


@pytest.mark.parametrize("is_pretrained", [True, False])
def test_nine_features_know_the_clock_the_depth_and_the_learning_rate(is_pretrained):
    lr = torch.rand(RECORDS, LAYERS)
    history = made_up(lr=lr, is_pretrained=torch.tensor(is_pretrained))
    found = clock_and_depth_features(history)
    for t in range(RECORDS):
        for layer in range(LAYERS):
            clock, depth = t / (RECORDS - 1), layer / (LAYERS - 1)
            four = [clock, depth, (lr[t, layer] / lr.max()).item(), clock * depth]
            expected = [*four, *(is_pretrained * each for each in (1, *four))]
            assert found[t, layer].tolist() == pytest.approx(expected, abs=1e-6)


def hand_made(w):
    """Returns the sixteen features of the newest record."""

    def moved(t, lag=1):
        t = max(t, 1)  # no step precedes record 1
        return log(relative(w[t] - w[max(0, t - lag)], w[t]))

    def cosine(t):
        if t < 2:
            return 0.0
        a, b = w[t] - w[t - 1], w[t - 1] - w[t - 2]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    t = len(w) - 1
    if t == 0:
        return [math.nan] * 16
    rms = np.sqrt(np.mean(w[t] ** 2))
    quantiles = np.quantile(np.abs(w[t] - w[t - 1]), [0.05, 0.1, 0.25, 0.5, 0.75, 0.9])
    return [
        *(moved(t, lag) for lag in (1, 2, 3, 5, 8, 12)),
        *(moved(t) - moved(max(0, t - span)) for span in (5, 10)),
        *(cosine(t), np.mean([cosine(s) for s in range(max(0, t - 4), t + 1)])),
        *(log(q / rms) for q in quantiles),
    ]


def test_sixteen_features_describe_a_record():
    features = hand_made_features(HISTORY)
    assert features.shape == (RECORDS, LAYERS, 16) and features.isfinite().all()
    assert_same(features, each_record(hand_made))


def drift(w):
    """Returns the squared features of the newest record of a single layer."""
    t = len(w) - 1
    moments = [w[int(f * t)] for f in (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16)]
    path = sum(np.linalg.norm(w[s] - w[s - 1]) for s in range(1, t + 1))
    ways = [*(np.linalg.norm(w[t] - then) for then in moments), path]
    return [(way / np.linalg.norm(w[t])) ** 2 for way in ways]


def test_the_drift_features_add_up_over_the_layers():
    expected = each_record(drift).cumsum(dim=1).sqrt().clamp_min(1e-8).log10()
    assert_same(drift_features(HISTORY), expected, first=0)


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("still", [slice(1), slice(None)], ids=["one layer", "all layers"])
def test_a_layer_that_does_not_move_has_features(name, still):
    history = made_up()
    history.weights[:, still] = history.weights[:1, still]
    assert REGRESSIONS[name](history).isfinite().all()


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_learns_labels_from_all_records_but_the_first(name):
    histories = [made_up(seed) for seed in (1, 2, 3)]
    labels = [stabilised(each.cka, 0.1) for each in histories]
    found, truth = regression(name, histories, labels)(HISTORY), stabilised(HISTORY.cka, 0.1)
    assert found.shape == truth.shape and found.dtype == torch.float32
    assert found[1:][truth[1:]].mean() > 0.7 > 0.3 > found[1:][~truth[1:]].mean()
    for each in labels:
        each[0] = ~each[0]
    assert torch.equal(regression(name, histories, labels)(HISTORY), found)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_learns_ranks_of_numbers_within_their_run(name):
    """Neither the scale of a run's numbers nor anything else but their order matters."""
    histories = [made_up(seed) for seed in (1, 2, 3)]
    values = [-future_contribution(each.probe_contribution) for each in histories]
    found = regression(name, histories, values)(HISTORY)
    truth = -future_contribution(HISTORY.probe_contribution)
    assert concordances([truth[1:]], [found[1:]])["within_run"] > 0.8
    assert 0 < found[1:].mean() < 1
    scaled = [10**i * each - i for i, each in enumerate(values)]
    assert torch.equal(regression(name, histories, scaled)(HISTORY), found)
