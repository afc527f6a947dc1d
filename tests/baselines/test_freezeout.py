"""Tests of FreezeOut: a run against manually set rates, and a given compute."""

import copy
import io
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines import FreezeOut
from baselines.freezeout import freeze_step, learning_rate, param_groups
from smartfrz import Freezer, Layer, find_layers

STEPS = 20

hows = st.sampled_from(["linear", "cubic"])


def network():
    torch.manual_seed(0)
    sizes = [6, 8, 8, 8]
    blocks = [
        nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.Tanh()) for a, b in pairwise(sizes)
    ]
    return nn.Sequential(*blocks, nn.Linear(8, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        yield (
            torch.randn(16, 6, generator=generator),
            torch.randint(3, (16,), generator=generator),
        )


def backward(model, x, y):
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()


def optimizers(groups):
    return torch.optim.SGD(groups, lr=0.2, momentum=0.9, weight_decay=1e-2)


def prepared(**options):
    model = network()
    layers = find_layers(model, torch.zeros(1, 6))
    optimizer = optimizers(param_groups(model, layers))
    policy = FreezeOut(optimizer, STEPS, **options)
    return model, optimizer, Freezer(model, optimizer, policy, layers)


def train(model, optimizer, freezer, data):
    for x, y in data:
        backward(model, x, y)
        freezer.step()
        optimizer.step()


def test_param_groups_are_the_layers_and_then_the_rest():
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.zeros(2)))
    layers = find_layers(model, torch.zeros(1, 6))
    groups = [group["params"] for group in param_groups(model, layers)]
    assert [[*map(id, group)] for group in groups[:-1]] == [
        [*map(id, layer.parameters())] for layer in layers
    ]
    assert len(groups[-1]) == 1 and groups[-1][0] is model.unused
    assert len(param_groups(network(), [])) == 1
    del model.unused
    assert len(param_groups(model, layers)) == len(layers)


@pytest.mark.parametrize("how", ["linear", "cubic"])
@pytest.mark.parametrize("scale", [False, True])
def test_a_run_matches_one_whose_rates_are_set_by_hand(how, scale):
    model, optimizer, freezer = prepared(t0=0.4, how=how, scale=scale)
    train(model, optimizer, freezer, batches())

    by_hand = network()
    plain = optimizers([{"params": list(part.parameters())} for part in by_hand])
    for step, (x, y) in enumerate(batches()):
        for i, group in enumerate(plain.param_groups):
            end = (0.4 + 0.6 * i / 3) ** (1 if how == "linear" else 3) * STEPS
            base = 0.2 * STEPS / end if scale else 0.2
            cosine = 1 + math.cos(math.pi * step / end)
            group["lr"] = 0.5 * base * cosine if step < end - 1e-9 else 0.0
        backward(by_hand, x, y)
        plain.step()

    names = [layer.name for layer in freezer.layers[:-1]]
    steps = {name: freeze_step(STEPS, i, 3, 0.4, how) for i, name in enumerate(names)}
    assert freezer.frozen == {name: step for name, step in steps.items() if step < STEPS}
    assert len(freezer.frozen) == 3
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict(), rtol=1e-6, atol=1e-7)


def test_without_freezing_the_rates_and_the_weights_are_the_same_but_all_layers_train():
    model, optimizer, freezer = prepared(t0=0.4, freeze=False)
    twin, twins_optimizer, of_twin = prepared(t0=0.4)
    for x, y in batches():
        backward(model, x, y)
        assert freezer.step() == []
        optimizer.step()
        train(twin, twins_optimizer, of_twin, [(x, y)])
        rates = [[g["lr"] for g in each.param_groups] for each in (optimizer, twins_optimizer)]
        assert rates[0] == rates[1]
    assert len(of_twin.frozen) == 3 and freezer.frozen == {}
    assert all(param.grad is not None for param in model.parameters())
    assert not any(freezer.policy.is_due(step) for step in range(STEPS))
    # Layer norms: there are no running statistics that could go on.
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)


def deep_network(layers, total_steps, **options):
    """A freezer with as many layers as are given, the head included, and its policy."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])
    found = find_layers(model, torch.zeros(1, 8))
    optimizer = torch.optim.SGD(param_groups(model, found), lr=0.1)
    policy = FreezeOut(optimizer, total_steps, **options)
    return Freezer(model, optimizer, policy, found, example_inputs=torch.zeros(1, 8)), policy


def steps_without_training(freezer, total_steps):
    """Calls the policy at every step; returns the compute as a fraction of full training's."""
    for _ in range(total_steps):
        for layer in freezer.layers:
            for param in layer.parameters():
                param.grad = torch.zeros_like(param) if param.requires_grad else None
        freezer.step()
        freezer.optimizer.step()
    return freezer.compute_spent / total_steps


@pytest.mark.parametrize("how", ["linear", "cubic"])
@pytest.mark.parametrize("compute", [0.75, 0.9, 0.99])
def test_a_given_compute_is_spent(how, compute):
    freezer, policy = deep_network(12, 300, how=how, compute=compute)
    assert steps_without_training(freezer, 300) == pytest.approx(compute, abs=0.01)
    steps = [freeze_step(300, i, 11, policy.t0, how) for i in range(11)]
    names = [layer.name for layer in freezer.layers[:-1]]
    assert freezer.frozen == {n: s for n, s in zip(names, steps, strict=True) if s < 300}


def test_all_of_the_compute_freezes_nothing_and_the_rates_are_those_of_the_head():
    freezer, policy = deep_network(5, 50, compute=1.0)
    assert policy.t0 == pytest.approx(1)
    assert steps_without_training(freezer, 50) == 1
    assert freezer.frozen == {}


def test_a_twin_without_freezing_has_the_rates_of_the_run_that_spends_the_compute():
    _, policy = deep_network(12, 300, compute=0.8)
    freezer, twin = deep_network(12, 300, compute=0.8, freeze=False)
    assert twin.t0 == policy.t0
    assert steps_without_training(freezer, 300) == 1


@pytest.mark.parametrize("how", ["linear", "cubic"])
def test_a_compute_below_the_least_is_an_error_that_names_it(how):
    with pytest.raises(ValueError, match=r"compute=0\.4 cannot be reached") as error:
        deep_network(12, 300, how=how, compute=0.4)
    (least,) = re.findall(r"still spends (0\.\d+)", str(error.value))
    freezer, policy = deep_network(12, 300, how=how, compute=float(least))
    assert steps_without_training(freezer, 300) == pytest.approx(float(least), abs=2e-3)
    assert policy.t0 < 0.1


@pytest.mark.parametrize("compute", [0.0, 75.0])
def test_a_compute_is_a_fraction(compute):
    with pytest.raises(ValueError, match=f"compute={compute}"):
        deep_network(3, 10, compute=compute)


def test_without_a_freezer_there_is_no_schedule_for_a_compute():
    freezer, policy = deep_network(3, 10)
    policy = FreezeOut(freezer.optimizer, 10, compute=0.9)
    with pytest.raises(ValueError, match="Freezer"):
        policy.layers_to_freeze(freezer.layers, 0)


@pytest.mark.parametrize("options", [{"t0": 0.3}, {"compute": 0.8}])
def test_a_resumed_run_ends_with_the_same_weights(options):
    data = list(batches())
    whole = prepared(**options)
    train(*whole, data)

    model, optimizer, freezer = prepared(**options)
    train(model, optimizer, freezer, data[:13])
    assert 0 < len(freezer.frozen) < 3
    checkpoint = io.BytesIO()
    states = [each.state_dict() for each in (model, optimizer, freezer)]
    torch.save(states, checkpoint)

    for reload_optimizer_last in (False, True):
        checkpoint.seek(0)
        for_model, for_optimizer, for_freezer = torch.load(checkpoint, weights_only=True)
        model, optimizer, freezer = prepared(**options)
        model.load_state_dict(for_model)
        if reload_optimizer_last:
            freezer.load_state_dict(for_freezer)
            optimizer.load_state_dict(for_optimizer)
        else:
            optimizer.load_state_dict(for_optimizer)
            freezer.load_state_dict(for_freezer)
        train(model, optimizer, freezer, data[13:])
        assert freezer.frozen == whole[2].frozen
        torch.testing.assert_close(model.state_dict(), whole[0].state_dict(), rtol=0, atol=0)
        assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in whole[1].param_groups]


def linear_layers(num, head):
    modules = [nn.Linear(2, 2) for _ in range(num)]
    return [
        Layer(f"layer{i}", (module,), tuple(module.parameters()), is_head=i == head)
        for i, module in enumerate(modules)
    ]


def test_rates_warm_up_to_those_of_the_schedule():
    rates = []
    for warmup_steps in (0, 4):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        layers = find_layers(model)
        optimizer = torch.optim.SGD(param_groups(model, layers), lr=0.1)
        policy = FreezeOut(optimizer, 20, warmup_steps=warmup_steps)
        rates.append([])
        for step in range(20):
            policy.layers_to_freeze(layers, step)
            rates[-1].append([group["lr"] for group in optimizer.param_groups])
    cold, warm = torch.tensor(rates[0]), torch.tensor(rates[1])
    factors = torch.tensor([0.2, 0.4, 0.6, 0.8] + [1.0] * 16)
    torch.testing.assert_close(warm, factors[:, None] * cold)


def test_a_head_that_comes_first_anneals_over_the_whole_run():
    layers = linear_layers(3, head=0)
    rest = nn.Parameter(torch.zeros(1))
    groups = [{"params": layer.parameters()} for layer in layers] + [{"params": [rest]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    policy = FreezeOut(optimizer, 100, t0=0.5)
    assert policy.layers_to_freeze(layers, 25) == []
    rates = [group["lr"] for group in optimizer.param_groups]
    expected = [learning_rate(0.1, 25, 100, i, 2, t0=0.5) for i in (2, 0, 1, 2)]
    assert rates == pytest.approx(expected)
    assert policy.layers_to_freeze(layers, 1000) == layers[1:]


def test_of_several_heads_all_anneal_over_the_whole_run():
    layers = [replace(layer, is_head=i in (1, 3)) for i, layer in enumerate(linear_layers(4, 3))]
    optimizer = torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=0.1)
    policy = FreezeOut(optimizer, 100, t0=0.5)
    policy.layers_to_freeze(layers, 25)
    resumed = FreezeOut(optimizer, 100, t0=0.5)
    resumed.load_state_dict(policy.state_dict())
    for each in (policy, resumed):
        each.layers_to_freeze(layers, 25)
        rates = [group["lr"] for group in optimizer.param_groups]
        expected = [learning_rate(0.1, 25, 100, i, 2, t0=0.5) for i in (0, 2, 1, 2)]
        assert rates == pytest.approx(expected)
        assert each.layers_to_freeze(layers, 1000) == [layers[0], layers[2]]


def test_groups_keep_their_own_base_rates_and_a_layer_may_have_several():
    layers = linear_layers(3, head=2)
    decayed, plain = zip(*(layer.parameters() for layer in layers), strict=True)
    groups = [{"params": [w], "lr": 10.0 * (i + 1)} for i, w in enumerate(decayed)]
    groups += [{"params": [b], "lr": 1.0 * (i + 1)} for i, b in enumerate(plain)]
    optimizer = torch.optim.SGD(groups)
    FreezeOut(optimizer, 100).layers_to_freeze(layers, 30)
    expected = [
        learning_rate(base * (i + 1), 30, 100, i, 2, t0=0.5) for base in (10, 1) for i in range(3)
    ]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)


def test_a_group_that_spans_layers_is_refused():
    layers = linear_layers(3, head=2)
    params = [param for layer in layers for param in layer.parameters()]
    policy = FreezeOut(torch.optim.SGD(params, lr=0.1), 10)
    with pytest.raises(ValueError, match="param_groups"):
        policy.layers_to_freeze(layers, 0)


@given(st.lists(st.integers(0, 30), min_size=1, unique=True).map(sorted), hows)
def test_is_due_says_when_something_freezes_also_when_steps_are_skipped(steps, how):
    layers = linear_layers(4, head=3)
    groups = [{"params": layer.parameters()} for layer in layers]
    policy = FreezeOut(torch.optim.SGD(groups, lr=0.1), 20, how=how)
    active = list(layers)
    policy.layers_to_freeze(active, 0)
    for step in steps:
        resumed = FreezeOut(policy.optimizer, 20, how=how)
        resumed.load_state_dict(copy.deepcopy(policy.state_dict()))
        asked_before = policy.is_due(step), resumed.is_due(step)
        frozen = policy.layers_to_freeze(active, step)
        active = [layer for layer in active if layer not in frozen]
        assert (*asked_before, policy.is_due(step)) == (bool(frozen),) * 3


def test_a_model_that_is_all_head_is_annealed_over_the_whole_run():
    model = nn.Sequential(nn.Linear(4, 2))
    layers = find_layers(model)
    optimizer = torch.optim.SGD(param_groups(model, layers), lr=0.1)
    freezer = Freezer(model, optimizer, FreezeOut(optimizer, total_steps=10), layers)
    rates = []
    for _ in range(10):
        model(torch.ones(1, 4)).sum().backward()
        assert freezer.step() == []
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 10)) for t in range(10)])
