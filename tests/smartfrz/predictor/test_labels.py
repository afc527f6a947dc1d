"""Tests of labels, of recorded histories, and of training a predictor on a toy problem."""

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
from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.labels import stabilised
from smartfrz.predictor.recording import History, HistoryRecorder
from smartfrz.predictor.training import train_predictor
from tests.helpers.reference import layer_cka, tailored

# Tenths, whose differences can equal the tolerance; a value between them; NaN.
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


INTERVAL, SIZE, STEPS = 3, 8, 11


class Training:
    """A run of a tiny model with a norm, dropout and momentum, which recording could disturb."""

    def __init__(self, records=True):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            *(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)),
        )
        self.probes = [torch.randn(16, 3), torch.randn(9, 3)]
        self.optimizer = SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.recorder = HistoryRecorder(self.model, self.probes, INTERVAL, SIZE)
        self.freezer = Freezer(self.model, self.optimizer, self.recorder if records else None)
        self.losses = []

    def run(self, steps, before_step=lambda step: None):
        for step in steps:
            torch.manual_seed(step)
            inputs = torch.randn(8, 3)
            self.model.train()
            loss = self.model(inputs).square().mean()
            loss.backward()
            before_step(step)
            self.freezer.step()
            self.losses.append(loss.item())
            self.recorder.observe_loss(loss.item())
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self


def test_records_are_tailored_weights_of_all_layers_but_the_head():
    training, weights = Training(), []

    def by_hand(step):
        if step % INTERVAL == 0:
            layers = training.freezer.layers[:-1]
            weights.append([tailored(layer, SIZE) for layer in layers])

    history = training.run(range(STEPS), by_hand).recorder.history()
    assert [layer.name for layer in training.freezer.layers] == ["0", "4", "6"]
    assert history.weights.shape == (4, 2, SIZE)
    assert torch.equal(history.weights, torch.stack([torch.stack(row) for row in weights]))


def test_cka_compares_every_record_with_the_last_one():
    training, models = Training(), []

    def keep(step):
        if step % INTERVAL == 0:
            models.append(copy.deepcopy(training.model))

    layers = training.freezer.layers[:-1]
    for steps in (range(5), range(5, STEPS)):  # the last record so far, then of the whole run
        cka = training.run(steps, keep).recorder.history().cka
        expected = [layer_cka(model, models[-1], layers, training.probes) for model in models]
        torch.testing.assert_close(cka, torch.stack(expected).float())
        torch.testing.assert_close(cka[-1], torch.ones(2))
    assert cka.shape == (4, 2) and (cka.diff(dim=0) != 0).all()


@pytest.mark.parametrize(("step", "undefined"), [(0, [0]), (9, [0, 1, 2, 3])])
def test_cka_is_no_number_where_an_output_or_the_last_one_is_constant(step, undefined):
    training = Training()

    def forget(now):
        if now == step:
            nn.init.zeros_(training.model[4].weight)

    cka = training.run(range(STEPS), forget).recorder.history().cka
    assert cka.isnan().nonzero().tolist() == [[record, 1] for record in undefined]


def test_gradients_are_summed_element_by_element_since_the_record_before():
    training = Training()
    norms, since = [], []

    def by_hand(step):
        layers = training.freezer.layers[:-1]
        since.append([torch.cat([p.grad.flatten() for p in layer.params]) for layer in layers])
        if step % INTERVAL == 0:
            norms.append([sum(grads).norm(p=1) for grads in zip(*since, strict=True)])
            since.clear()

    gradient = training.run(range(STEPS), by_hand).recorder.history().gradient
    torch.testing.assert_close(gradient, torch.tensor(norms))
    assert gradient.shape == (4, 2) and (gradient > 0).all()


def test_losses_are_means_over_the_same_steps():
    training = Training().run(range(STEPS))
    x = training.losses
    expected = [x[0], sum(x[1:4]) / 3, sum(x[4:7]) / 3, sum(x[7:10]) / 3]
    torch.testing.assert_close(training.recorder.history().loss, torch.tensor(expected))
    assert len(set(x)) == STEPS


def test_the_loss_of_a_record_is_no_number_until_it_is_observed():
    training = Training()
    training.model(training.probes[0]).sum().backward()
    training.freezer.step()
    assert training.recorder.history().loss.isnan().tolist() == [True]
    training.recorder.observe_loss(0.5)
    assert training.recorder.history().loss.tolist() == [0.5]


def test_recording_freezes_nothing_and_leaves_the_run_as_it_is():
    recorded, plain = Training().run(range(STEPS)), Training(records=False).run(range(STEPS))
    assert recorded.freezer.frozen == {}
    expected = plain.model.state_dict()
    for name, value in recorded.model.state_dict().items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_resumed_recording_is_that_of_an_unbroken_run(stop):
    """From the saved state, which further steps of the stopped run must not change."""
    unbroken, stopped, resumed = (Training() for _ in range(3))
    parts = [stopped.run(range(stop)).model, stopped.optimizer]
    states = [*copy.deepcopy([part.state_dict() for part in parts]), stopped.freezer.state_dict()]
    stopped.run(range(STEPS, 2 * STEPS))
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    parts = [resumed.model, resumed.optimizer, resumed.freezer]
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    history = vars(resumed.run(range(stop, STEPS)).recorder.history())
    expected = vars(unbroken.run(range(STEPS)).recorder.history())
    assert [name for name in expected if not torch.equal(history[name], expected[name])] == []
    assert all(len(field) == 4 for field in expected.values())


def history_of(weights, cka):
    """A recording without gradients and losses, which predictors are not trained on."""
    return History(weights, cka, torch.zeros(cka.shape), torch.zeros(len(cka)))


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
