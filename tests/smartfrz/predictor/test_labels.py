"""Tests of labels, and of training a predictor on a toy problem."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.labels import exhausted, future_contribution, stabilised
from smartfrz.predictor.training import train_predictor
from tests.helpers.recordings import history_of

# Tenths, whose differences can equal the tolerance; a value between them; NaN.
CKA = st.sampled_from([*(i / 10 for i in range(11)), 0.999, math.nan])


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(CKA, min_size=n, max_size=n), min_size=1, max_size=8)
    ),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
)
@settings(max_examples=200)
def test_stabilised_is_its_definition(rows, tolerance):
    expected = [
        [all(abs(later[i] - row[i]) <= tolerance for later in rows[t:]) for i in range(len(row))]
        for t, row in enumerate(rows)
    ]
    assert stabilised(torch.tensor(rows, dtype=torch.float64), tolerance).tolist() == expected


CONTRIBUTION = torch.tensor([[0.0, 0.0], [6.0, 1.0], [0.0, -2.0], [2.0, 1.0]])


def test_the_future_contribution_is_what_is_left():
    left = [[8, 0], [2, -1], [2, 1], [0, 0]]
    assert future_contribution(CONTRIBUTION).tolist() == left


@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [(0.0, [[0, 1], [0, 1], [0, 0], [1, 1]]), (0.5, [[0, 1], [1, 1], [1, 1], [1, 1]])],
)
def test_a_layer_is_exhausted_once_it_contributes_little_more(tolerance, expected):
    """Both layers contribute 8 together, and 4 on average."""
    assert exhausted(CONTRIBUTION, tolerance).int().tolist() == expected


def test_no_number_is_not_exhausted():
    assert exhausted(torch.full((3, 1), math.nan), 1.0)[:-1].any().logical_not()


def stopping_layers(seed, records=24, layers=12):
    """Layers that almost stop moving at random times, and whose CKA stops one record later."""
    generator = torch.Generator().manual_seed(seed)
    stops = torch.randint(2, records - 2, (layers,), generator=generator)
    moves, late = (torch.arange(records)[:, None] <= stops + lag for lag in (0, 1))
    steps = torch.randn(records, layers, 16, generator=generator)
    steps *= moves[..., None].float().clamp_min(1e-3)
    start = 20 * torch.randn(layers, 16, generator=generator)
    return history_of(start + steps.cumsum(0), (0.04 * late).cumsum(0).double())


def new_predictor():
    torch.manual_seed(0)
    return AttentionPredictor(16, 16, 8, 8, window=4, encoding="log_displacement")


def test_learns_when_layers_stop_moving():
    predictor, losses = new_predictor(), []
    train_predictor(
        predictor,
        [stopping_layers(1), stopping_layers(2)],
        tolerance=0.01,
        steps=300,
        lr=0.01,
        on_step=lambda step, loss: losses.append(loss),
    )
    assert len(losses) == 300 and sum(losses[-20:]) < 0.8 * sum(losses[:20])
    assert not predictor.training
    assert all(param.grad is None for param in predictor.parameters())
    unseen = stopping_layers(3)
    labels = stabilised(unseen.cka, 0.01)
    assert 0.3 < labels.double().mean() < 0.7
    by_layer = unseen.weights.transpose(0, 1)
    records = range(2, len(labels))
    # Twice as many records as at the smallest stride in training.
    decided = [predictor.freeze_probability(by_layer[:, : end + 1]) > 0.5 for end in records]
    assert (torch.stack(decided) == labels[2:]).double().mean() > 0.93


def test_training_is_reproducible_to_the_bit():
    first, again, other = new_predictor(), new_predictor(), new_predictor()
    histories = [stopping_layers(1)]
    train_predictor(first, histories, 0.01, steps=5)
    torch.manual_seed(1)
    train_predictor(again, histories, 0.01, steps=5)
    train_predictor(other, histories, 0.01, steps=5, seed=1)
    weights = [torch.cat([p.flatten() for p in x.parameters()]) for x in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("cka", [0.5, math.nan], ids=["all stable", "none stable"])
def test_one_label_alone_teaches_nothing(cka):
    history = history_of(torch.randn(5, 2, 16), torch.full((5, 2), cka))
    with pytest.raises(ValueError, match="all records have the same label"):
        train_predictor(new_predictor(), [history], tolerance=0.1, steps=1)


def test_the_first_record_is_no_example():
    """It is the only one that is not stable here, so all others have the same label."""
    cka = torch.tensor([[0.0], [0.5], [0.5], [0.5]])
    with pytest.raises(ValueError, match="all records have the same label"):
        train_predictor(new_predictor(), [history_of(torch.randn(4, 1, 16), cka)], 0.1, steps=1)


def test_a_history_has_to_be_long_enough_to_be_thinned_out():
    cka = torch.tensor([[0.0], [0.1], [0.5]])
    with pytest.raises(ValueError, match="less than 4 records"):
        train_predictor(new_predictor(), [history_of(torch.randn(3, 1, 16), cka)], 0.1, steps=1)
