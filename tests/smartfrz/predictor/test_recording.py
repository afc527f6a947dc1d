"""Tests of recorded histories, against sums by hand."""

import copy
import dataclasses
import io
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from smartfrz import Freezer
from smartfrz.predictor.recorded import SUMS, thinned
from smartfrz.predictor.recording import HistoryRecorder
from tests.helpers.recordings import made_up
from tests.helpers.reference import layer_cka, tailored

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
        front, *rest = self.model.children()
        groups = [{"params": front.parameters()}, {"params": nn.Sequential(*rest).parameters()}]
        groups[1]["lr"] = 0.05
        self.optimizer = SGD(groups, 0.1, momentum=0.9)
        self.schedule = ExponentialLR(self.optimizer, 0.9)
        self.recorder = HistoryRecorder(
            self.model, self.probes, INTERVAL, SIZE, probe_loss=self.probe_loss
        )
        self.freezer = Freezer(self.model, self.optimizer, self.recorder if records else None)
        self.losses = []

    def probe_loss(self):
        return self.model(self.probes[0]).square().mean()

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
            self.schedule.step()
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


def test_cka_compares_every_record_with_the_last_the_first_and_the_previous_one():
    training, models = Training(), []

    def keep(step):
        if step % INTERVAL == 0:
            models.append(copy.deepcopy(training.model))

    layers = training.freezer.layers[:-1]
    for steps in (range(5), range(5, STEPS)):  # the last record so far, then of the whole run
        history = training.run(steps, keep).recorder.history()
        for found, others in (
            (history.cka, [models[-1]] * len(models)),
            (history.cka_to_first, [models[0]] * len(models)),
            (history.cka_to_previous, [models[0], *models[:-1]]),
        ):
            pairs = zip(models, others, strict=True)
            expected = [layer_cka(*pair, layers, training.probes) for pair in pairs]
            torch.testing.assert_close(found, torch.stack(expected).float())
        torch.testing.assert_close(history.cka[-1], torch.ones(2))
    assert history.cka.shape == (4, 2) and (history.cka.diff(dim=0) != 0).all()


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
    parts = [stopped.run(range(stop)).model, stopped.optimizer, stopped.schedule]
    states = [*copy.deepcopy([part.state_dict() for part in parts]), stopped.freezer.state_dict()]
    stopped.run(range(STEPS, 2 * STEPS))
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    parts = [resumed.model, resumed.optimizer, resumed.schedule, resumed.freezer]
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)
    history = vars(resumed.run(range(stop, STEPS)).recorder.history())
    expected = vars(unbroken.run(range(STEPS)).recorder.history())
    assert [name for name in expected if not torch.equal(history[name], expected[name])] == []
    assert len(expected["contribution"]) == 4


def test_steps_and_gradients_are_summed_since_the_record_before():
    """The gradient of a batch is multiplied with the step that was taken on the one before."""
    training = Training()
    weights, gradients, rates = [], [], []

    def by_hand(step):
        layers = training.freezer.layers[:-1]
        weights.append([torch.cat([p.detach().flatten() for p in x.params]) for x in layers])
        gradients.append([torch.cat([p.grad.flatten() for p in x.params]) for x in layers])
        rates.append([group["lr"] for group in training.optimizer.param_groups])

    history = training.run(range(STEPS), by_hand).recorder.history()
    for layer in range(2):
        w, g = ([each[layer].double() for each in of] for of in (weights, gradients))
        none = torch.zeros_like(g[0])
        steps = [none, *(after - before for before, after in pairwise(w))]
        assert all(step.any() for step in steps[1:])
        for record, end in enumerate(range(0, STEPS, INTERVAL)):
            since = range(max(0, end - INTERVAL + 1), end + 1)
            expected = {
                "contribution": -sum(g[t] @ steps[t] for t in since),
                "own_contribution": -sum(g[t - 1] @ steps[t] for t in since if t),
                "path": sum(steps[t] @ steps[t] for t in since),
                "displacement": sum(steps[t] for t in since).square().sum(),
                "gradient_square": sum(g[t] @ g[t] for t in since),
                "gradient_product": sum(g[t] @ (g[t - 1] if t else none) for t in since),
                "lr": torch.tensor(sum(rates[t - 1][layer] for t in since if t)).double(),
            }
            assert expected.keys() == {*SUMS, "displacement"}
            for name, value in expected.items():
                found = getattr(history, name)[record, layer].double()
                value = torch.as_tensor(value).double()
                torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-9)


def test_contributions_to_the_loss_on_held_out_examples_follow_the_trapezoidal_rule():
    training, gradients, weights = Training(), [], []

    def by_hand(step):
        if step % INTERVAL == 0:
            model = copy.deepcopy(training.model).eval()
            model[1].train()
            layers = [[*model[:2].parameters()], [*model[4].parameters()]]
            loss = model(training.probes[0]).square().mean()
            flat = [param for layer in layers for param in layer]
            found = iter(torch.autograd.grad(loss, flat))
            gradients.append([torch.cat([next(found).flatten() for _ in x]) for x in layers])
            weights.append([torch.cat([p.detach().flatten() for p in x]) for x in layers])

    found = training.run(range(STEPS), by_hand).recorder.history().probe_contribution
    for record in range(1, len(found)):
        for layer in range(2):
            move = weights[record][layer] - weights[record - 1][layer]
            mean = (gradients[record][layer] + gradients[record - 1][layer]) / 2
            torch.testing.assert_close(found[record, layer], -mean @ move)
    assert found[0].eq(0).all()


def test_contributions_add_up_to_the_fall_of_the_loss_in_spite_of_norms_that_cancel_scale():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    inputs = torch.randn(64, 3)
    targets = inputs.prod(dim=1, keepdim=True)
    optimizer = SGD([{"params": model[:2].parameters()}, {"params": model[3].parameters()}], 0.05)
    optimizer.param_groups[1]["lr"] = 0.0
    optimizer.param_groups[0]["weight_decay"] = 0.5

    def loss():
        return (model(inputs) - targets).square().mean()

    recorder = HistoryRecorder(model, [inputs], 1, SIZE, probe_loss=loss)
    freezer, losses = Freezer(model, optimizer, recorder), []
    for _ in range(60):
        losses.append(loss())
        losses[-1].backward()
        freezer.step()
        recorder.observe_loss(losses[-1].item())
        optimizer.step()
        optimizer.zero_grad()
    found = recorder.history().probe_contribution.sum().item()
    fall = (losses[0] - losses[-1]).item()
    assert fall > 0.05 and abs(found - fall) < 0.1 * fall


def test_what_is_known_of_a_run_is_recorded_with_it():
    training = Training()
    history = training.run(range(STEPS)).recorder.history()
    torch.testing.assert_close(history.progress, torch.tensor([0, 3, 6, 9]) / STEPS)
    costs = training.freezer.costs
    torch.testing.assert_close(history.cost, torch.tensor([1 - costs(["0"]), 1 - costs(["4"])]))
    assert history.numel.tolist() == [3 * 4 + 4 + 2 * 4, 4 * 6 + 6]
    assert history.is_pretrained.item() is False
    recorder = HistoryRecorder(
        training.model, training.probes, 1, probe_loss=training.probe_loss, is_pretrained=True
    )
    Freezer(training.model, training.optimizer, recorder)
    training.model(training.probes[0]).sum().backward()
    recorder.layers_to_freeze(training.freezer.layers, 0)
    assert recorder.history().is_pretrained.item() is True


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_thinned_history_is_one_that_was_recorded_less_often(stride):
    """With all weights tailored, even the displacement is exact: the square of the net change."""
    weights = torch.randn(11, 2, 8).cumsum(dim=0)
    displacement = weights.diff(dim=0, prepend=weights[:1]).square().sum(dim=2)
    sums = {name: torch.rand(11, 2) for name in (*SUMS, "probe_contribution")}
    whole = made_up(records=11, layers=2, **sums, displacement=displacement, loss=torch.rand(11))
    whole = dataclasses.replace(whole, weights=weights)
    thin, kept = thinned(whole, stride), range(0, 11, stride)
    for name in ("weights", "cka", "cka_to_first", "gradient", "progress"):
        assert torch.equal(getattr(thin, name), getattr(whole, name)[::stride])
    for row, record in enumerate(kept):
        since = range(max(0, record - stride + 1), record + 1)
        for name, values in sums.items():
            expected = values[list(since)].sum(dim=0)
            torch.testing.assert_close(getattr(thin, name)[row], expected)
        torch.testing.assert_close(thin.loss[row], whole.loss[list(since)].mean())
        before = max(0, record - stride)
        moved = (weights[record] - weights[before]).square().sum(dim=1)
        torch.testing.assert_close(thin.displacement[row], moved)
        assert torch.equal(thin.cka_to_previous[row], whole.cka_between[record, before])


def test_a_layer_that_stands_still_has_no_displacement():
    still = made_up(records=5)
    still.weights[:] = still.weights[:1].clone()
    assert thinned(still, 2).displacement.eq(0).all()
