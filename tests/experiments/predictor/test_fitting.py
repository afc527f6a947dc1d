"""Tests of training and calibrating a predictor on recorded runs."""

import dataclasses

import pytest
import torch

from experiments.errors import UserError
from experiments.predictor import fitting
from experiments.predictor.fitting import Training, fit, labels_of, logits_of, probability_of, split
from experiments.predictor.metrics import metrics
from smartfrz.predictor.calibration import freezing_threshold
from smartfrz.predictor.labels import exhausted, stabilised
from tests.helpers.recordings import made_up
from tests.helpers.reference import attention_weights

TRAINING = Training(
    **{"encoding": "drift", "tolerance": 0.1, "steps": 4, "lr": 3e-3, "weight_decay": 0.0},
    **{"stride": 2, "window": 5, "size": 16},
)
HISTORIES = [made_up(seed) for seed in range(4)]


def weights_of(predictor):
    return torch.cat([param.flatten() for param in predictor.parameters()])


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (3, 1), (4, 1), (8, 2), (9, 2)])
def test_a_quarter_is_held_out_and_nothing_is_lost(count, held_out):
    histories = list(range(count))
    parts = split(histories, seed=0)
    assert len(parts[1]) == held_out
    assert sorted([*parts[0], *parts[1]]) == histories
    assert split(histories, seed=0) == parts


def test_one_run_alone_cannot_be_split():
    with pytest.raises(ValueError, match="record more"):
        split(HISTORIES[:1], seed=0)


@pytest.mark.parametrize("tolerance", [1e-9, 2.0])
def test_a_tolerance_that_gives_all_records_one_label_is_a_user_s_mistake(tolerance):
    with pytest.raises(UserError, match=f"tolerance = {tolerance}, all records"):
        fit(HISTORIES, dataclasses.replace(TRAINING, tolerance=tolerance), seed=0)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"encoding": "drfit"}, "'drfit': choose from"),
        ({"stride": 0}, "stride"),
        ({"size": 0}, "size"),
    ],
)
def test_settings_out_of_range_are_a_user_s_mistake(setting, says):
    with pytest.raises(UserError, match=says):
        dataclasses.replace(TRAINING, **setting)


def test_the_seed_decides_what_is_held_out():
    assert len({tuple(split(list(range(9)), seed)[1]) for seed in range(5)}) > 1


def test_a_fit_is_reproducible_to_the_bit_from_its_seed():
    first = fit(HISTORIES, TRAINING, seed=0)
    torch.rand(7)
    again, other = fit(HISTORIES, TRAINING, seed=0), fit(HISTORIES, TRAINING, seed=1)
    assert torch.equal(weights_of(first), weights_of(again))
    assert first.threshold == again.threshold
    assert not torch.equal(weights_of(first), weights_of(other))


def test_it_learns_from_nothing_that_it_is_calibrated_on(monkeypatch):
    learned, original = [], fitting.train_predictor

    def train(predictor, histories, *how):
        learned.extend(histories)
        original(predictor, histories, *how)

    monkeypatch.setattr(fitting, "train_predictor", train)
    fit(HISTORIES, TRAINING, seed=0)
    assert [id(each) for each in learned] == [id(each) for each in split(HISTORIES, 0)[0]]


def test_it_is_calibrated_on_what_it_did_not_learn_from():
    """On the held-out run, the mean probability is the rate and the precision is as required."""
    steps = []
    training = dataclasses.replace(TRAINING, steps=120)
    predictor = fit(HISTORIES, training, 0, lambda step, loss: steps.append(step))
    assert steps == list(range(120))
    _, (held_out,) = split(HISTORIES, seed=0)
    labels = labels_of(held_out, training)
    probability = probability_of(predictor, held_out, training)
    assert probability.mean().item() == pytest.approx(labels.double().mean().item(), abs=1e-3)
    expected = freezing_threshold([probability], [labels], training.precision)
    assert predictor.threshold == pytest.approx(expected)
    found = metrics([labels], [probability], predictor.threshold, True)
    assert found["auroc"] > 0.8 and found["frozen_rightly"] >= 0.9


def test_examples_are_layers_at_every_stride_but_the_first():
    history = HISTORIES[0]
    predictor = fit(HISTORIES, TRAINING, seed=0)
    records = range(2, 20, 2)
    expected = stabilised(history.cka, TRAINING.tolerance)
    assert torch.equal(labels_of(history, TRAINING), expected[list(records)])
    with torch.no_grad():
        logits = [predictor(history.weights[: r + 1 : 2].transpose(0, 1)) for r in records]
    found = logits_of(predictor, history, TRAINING)
    torch.testing.assert_close(found, torch.stack(logits), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoding", ["drift", "raw"])
def test_mean_pooling_weighs_all_records_alike(encoding):
    training = dataclasses.replace(TRAINING, encoding=encoding, pooling="mean")
    predictor = fit(HISTORIES, training, seed=0)
    history = HISTORIES[0].weights[:8].transpose(0, 1)
    with torch.no_grad():
        weights = attention_weights(predictor, history)
    assert weights[:, :3].eq(0).all()
    torch.testing.assert_close(weights[:, 3:], torch.full((4, 5), 1 / 5))


def test_the_label_may_be_made_from_contributions():
    training = dataclasses.replace(TRAINING, label="contribution", tolerance=0.3)
    predictor = fit(HISTORIES, training, seed=0)
    history = HISTORIES[0]
    expected = exhausted(history.probe_contribution, 0.3)
    assert torch.equal(labels_of(history, training), expected[2::2])
    assert not torch.equal(labels_of(history, training), labels_of(history, TRAINING))
    other = fit(HISTORIES, dataclasses.replace(TRAINING, tolerance=0.3), seed=0)
    assert not torch.equal(weights_of(predictor), weights_of(other))


def test_an_unknown_label_is_named():
    with pytest.raises(UserError, match="'contributions': choose from cka, contribution"):
        dataclasses.replace(TRAINING, label="contributions")


def test_a_setting_added_later_enters_the_id_only_if_it_is_set():
    assert "label" not in TRAINING.identity
    changed = dataclasses.replace(TRAINING, label="contribution")
    assert changed.identity == TRAINING.identity | {"label": "contribution"}


def test_an_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="'max'"):
        dataclasses.replace(TRAINING, pooling="max")
