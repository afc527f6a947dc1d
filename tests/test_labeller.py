"""Labels and windows against their definitions, recordings by hand, and a toy problem."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from smartfrz import Freezer
from smartfrz.cka import layer_cka
from smartfrz.history import sample_positions, tailor
from smartfrz.labeller import History, HistoryRecorder, stabilised, train_predictor, window_at
from smartfrz.predictor import AttentionPredictor

# Tenths, so that differences fall exactly on the tolerance; far values; no number.
CKA = st.sampled_from([*(i / 10 for i in range(11)), 0.999, math.nan])


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(CKA, min_size=n, max_size=n), min_size=1, max_size=8)
    ),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
)
@settings(max_examples=200, deadline=None)
def test_stabilised_is_its_definition(rows, tolerance):
    expected = [
        [all(abs(later[i] - row[i]) <= tolerance for later in rows[t:]) for i in range(len(row))]
        for t, row in enumerate(rows)
    ]
    assert stabilised(torch.tensor(rows, dtype=torch.float64), tolerance).tolist() == expected


@given(st.integers(1, 9), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_a_window_holds_the_last_records_and_zeros_before_the_first(records, window, data):
    weights = torch.randn(records, 3, 4)
    record, layer = data.draw(st.integers(0, records - 1)), data.draw(st.integers(0, 2))
    rows, valid = window_at(History(weights, torch.zeros(records, 3)), record, layer, window)
    times = range(record - window + 1, record + 1)
    assert valid.tolist() == [t >= 0 for t in times]
    expected = [weights[t, layer] if t >= 0 else torch.zeros(4) for t in times]
    assert torch.equal(rows, torch.stack(expected))


INTERVAL, SIZE, STEPS = 3, 8, 11


class Training:
    """A tiny model with all that recording could disturb: a norm, dropout and momentum."""

    def __init__(self, records=True):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            *(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)),
        )
        self.reference = copy.deepcopy(self.model)
        for param in self.reference.parameters():
            nn.init.normal_(param)
        self.probe = torch.randn(16, 3)
        self.optimizer = SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.recorder = HistoryRecorder(self.model, self.reference, [self.probe], INTERVAL, SIZE)
        self.freezer = Freezer(self.model, self.optimizer, self.recorder if records else None)

    def run(self, steps, before_step=lambda step: None):
        for step in steps:
            torch.manual_seed(step)
            inputs = torch.randn(8, 3)
            self.model.train()
            self.model(inputs).square().mean().backward()
            before_step(step)
            self.freezer.step()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self


def test_records_are_tailored_weights_and_cka_of_all_layers_but_the_head():
    training = Training()
    weights, cka = [], []

    def by_hand(step):
        if step % INTERVAL == 0:
            layers = training.freezer.layers[:-1]
            weights.append([tailor(layer, sample_positions(layer, SIZE)) for layer in layers])
            cka.append(layer_cka(training.model, training.reference, layers, [training.probe]))

    history = training.run(range(STEPS), by_hand).recorder.history()
    assert [layer.name for layer in training.freezer.layers] == ["0", "4", "6"]
    assert history.weights.shape == (4, 2, SIZE)
    assert torch.equal(history.weights, torch.stack([torch.stack(row) for row in weights]))
    assert torch.equal(history.cka, torch.stack(cka))
    assert (history.cka.diff(dim=0) != 0).all()


def test_recording_freezes_nothing_and_leaves_the_training_as_it_is():
    recorded, plain = Training().run(range(STEPS)), Training(records=False).run(range(STEPS))
    assert recorded.freezer.frozen == {}
    expected = plain.model.state_dict()
    for name, value in recorded.model.state_dict().items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_resumed_recording_is_that_of_an_unbroken_training(stop):
    unbroken, stopped, resumed = (Training() for _ in range(3))
    stopped.run(range(stop))
    file = io.BytesIO()
    torch.save(
        [getattr(stopped, part).state_dict() for part in ("model", "optimizer", "freezer")], file
    )
    file.seek(0)
    for part, state in zip(
        ("model", "optimizer", "freezer"), torch.load(file, weights_only=True), strict=True
    ):
        getattr(resumed, part).load_state_dict(state)
    history = resumed.run(range(stop, STEPS)).recorder.history()
    expected = unbroken.run(range(STEPS)).recorder.history()
    assert torch.equal(history.weights, expected.weights)
    assert torch.equal(history.cka, expected.cka)


def stopping_layers(seed, records=24, layers=12):
    """Layers whose weights stop moving, each at its time, and whose CKA does one record later."""
    generator = torch.Generator().manual_seed(seed)
    stops = torch.randint(2, records - 2, (layers,), generator=generator)
    moves, late = (torch.arange(records)[:, None] <= stops + lag for lag in (0, 1))
    steps = torch.randn(records, layers, 16, generator=generator) * moves[..., None]
    start = 20 * torch.randn(layers, 16, generator=generator)
    return History(start + steps.cumsum(0), (0.04 * late).cumsum(0).double())


def new_predictor():
    torch.manual_seed(0)
    return AttentionPredictor(size=16, hidden=16, features=8, head_hidden=8, window=4)


def test_learns_when_layers_stop_moving():
    predictor, losses = new_predictor(), []
    train_predictor(
        predictor,
        [stopping_layers(1), stopping_layers(2)],
        tolerance=0.01,
        steps=150,
        lr=0.05,
        on_step=lambda step, loss: losses.append(loss),
    )
    assert len(losses) == 150 and sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert not predictor.training
    assert all(param.grad is None for param in predictor.parameters())
    unseen = stopping_layers(3)
    labels = stabilised(unseen.cka, 0.01)
    assert 0.3 < labels.double().mean() < 0.7
    by_layer = unseen.weights.transpose(0, 1)
    for record in range(2, len(labels)):
        probability = predictor.freeze_probability(by_layer[:, : record + 1])
        assert torch.equal(probability > 0.5, labels[record])


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
    history = History(torch.randn(5, 2, 16), torch.full((5, 2), cka))
    with pytest.raises(ValueError, match="all records have the same label"):
        train_predictor(new_predictor(), [history], tolerance=0.1, steps=1)


def test_the_first_record_is_no_example():
    """It alone is not stable here, so that all that is left has one label."""
    cka = torch.tensor([[0.0], [0.5], [0.5]])
    with pytest.raises(ValueError, match="all records have the same label"):
        train_predictor(new_predictor(), [History(torch.randn(3, 1, 16), cka)], 0.1, steps=1)
