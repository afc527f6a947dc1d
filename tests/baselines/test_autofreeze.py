"""Tests of AutoFreeze: an example, and decisions against a naive version in double precision."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines import AutoFreeze
from baselines.autofreeze import next_start
from smartfrz import Freezer, Layer, find_layers

PREVIOUS = [10.0] * 12
CURRENT = [10.0 + 0.1 * k for k in range(1, 13)]

norms = st.floats(0.0, 1e6)


@st.composite
def intervals(draw):
    """(previous norms, current norms, start)"""
    pairs = draw(st.lists(st.tuples(norms, norms), max_size=20))
    previous, current = [p for p, _ in pairs], [c for _, c in pairs]
    return previous, current, draw(st.integers(0, len(pairs)))


@pytest.mark.parametrize("make", [list, torch.tensor, np.array])
def test_next_start_of_the_example(make):
    assert next_start(make(PREVIOUS), make(CURRENT), 0, percentile=50.0) == 6


def test_only_a_prefix_freezes():
    current = list(CURRENT)
    current[3] = 20.0
    assert next_start(PREVIOUS, current, 0) == 3
    current[0] = 20.0
    assert next_start(PREVIOUS, current, 0) == 0


def test_a_frozen_prefix_stays_and_its_norms_do_not_count():
    """The authors' code, in contrast, also searches the frozen blocks and can thaw them."""
    nan = float("nan")
    current = [nan, 1e9, 0.0, *CURRENT[3:]]
    previous = [nan, 0.0, 0.0, *PREVIOUS[3:]]
    assert next_start(previous, current, 3) == 3 + next_start(PREVIOUS[3:], CURRENT[3:], 0) == 7
    assert next_start(previous, [10.0] * 12, 12) == 12


def test_no_block_is_below_the_percentile_when_all_change_alike():
    assert next_start([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], 0) == 0
    assert next_start([5.0], [5.0], 0) == 0


def test_from_zero_to_zero_nothing_changed_and_from_zero_to_more_everything_did():
    assert next_start([0.0, 1.0, 1.0], [0.0, 1.5, 1.6], 0) == 1
    assert next_start([1.0, 0.0, 0.0, 0.0], [1.1, 0.0, 5.0, 5.0], 0, percentile=60.0) == 2
    assert next_start([0.0, 1.0, 1.0], [5.0, 1.5, 1.6], 0, percentile=90.0) == 0


def test_nothing_freezes_on_norms_that_are_no_numbers():
    assert next_start([1.0, 1.0, 1.0], [1.0, 1.5, float("nan")], 0) == 0
    assert next_start([1.0, 1.0, float("inf")], [1.0, 1.5, 2.0], 0) == 0


@given(intervals(), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_next_start_stays_in_range_and_rises_with_the_percentile(interval, one, other):
    previous, current, start = interval
    low, high = (next_start(previous, current, start, n) for n in sorted((one, other)))
    assert start <= low <= high <= len(current)
    assert next_start(previous, current, start, 0.0) == start


@given(intervals(), st.floats(0.0, 100.0))
def test_next_start_is_the_first_block_at_or_above_the_percentile(interval, percentile):
    previous, current, start = interval
    previous = [max(norm, 1e-3) for norm in previous]
    rates = [abs(p - c) / p for p, c in zip(previous, current, strict=True)][start:]
    found = next_start(previous, current, start, percentile)
    if rates:
        cut = float(np.percentile(rates, percentile))
        slack = 1e-9 * (1 + cut)
        assert all(rate < cut + slack for rate in rates[: found - start])
        assert found == len(current) or rates[found - start] >= cut - slack


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_intervals_end_at_the_floor_of_k_nths_of_the_epoch(lengths):
    steps_per_epoch, intervals_per_epoch = lengths
    policy = AutoFreeze(steps_per_epoch, intervals_per_epoch)
    ends = [step + 1 for step in range(3 * steps_per_epoch) if policy.is_due(step)]
    assert ends == [
        epoch * steps_per_epoch + k * steps_per_epoch // intervals_per_epoch
        for epoch in range(3)
        for k in range(1, intervals_per_epoch + 1)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 4), "intervals_per_epoch"), ((3, 0), "intervals_per_epoch"), ((9, 2, 101.0), "perc")],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoFreeze(*arguments)


def make_layers(dtype=torch.float32):
    """Six layers of two parameters each, with the head between them."""
    shapes = [
        ((3, 4), (3,)),
        ((2, 2), (5,)),
        ((7,), (1,)),
        ((4, 4), (2,)),
        ((6, 2), (2,)),
        ((9,),) * 2,
    ]
    layers = [
        Layer(f"layer{i}", (), tuple(nn.Parameter(torch.zeros(s, dtype=dtype)) for s in both))
        for i, both in enumerate(shapes)
    ]
    head = Layer("head", (), (nn.Parameter(torch.zeros(3, dtype=dtype)),), is_head=True)
    return [*layers[:4], head, *layers[4:]]


def random_gradients(num_steps, seed):
    """Gradients by step and layer name, some of them None; those of the first layers vary least."""
    generator = torch.Generator().manual_seed(seed)
    layers = make_layers()
    means = {
        layer.name: [torch.randn(p.shape, generator=generator) for p in layer.params]
        for layer in layers
    }
    steps = []
    for _ in range(num_steps):
        grads = {}
        for i, layer in enumerate(layers):
            grads[layer.name] = [
                mean + 0.2 * (i + 1) * torch.randn(mean.shape, generator=generator)
                for mean in means[layer.name]
            ]
            if torch.rand((), generator=generator) < 0.1:
                grads[layer.name][-1] = None
        steps.append(grads)
    return steps


def run(policy, layers, gradients, first_step=0):
    """Calls a policy with gradients as a freezer would; the step at which each layer froze."""
    frozen = {}
    for step, grads in enumerate(gradients, start=first_step):
        for layer in layers:
            for param, grad in zip(layer.params, grads[layer.name], strict=True):
                param.grad = None if grad is None else grad.to(param.dtype)
        for layer in policy.layers_to_freeze(layers, step):
            frozen[layer.name] = step
            layers = [other for other in layers if other is not layer]
    return frozen, layers


def summed(interval, name):
    """One layer's summed gradients as a flat array; a missing one adds nothing."""
    parts = [
        sum(
            0.0 if grads[name][i] is None else grads[name][i].double().numpy() for grads in interval
        )
        for i in range(2)
    ]
    return np.concatenate([np.ravel(part) for part in parts])


def naive(gradients, steps_per_epoch, intervals_per_epoch, percentile, norm):
    """AutoFreeze according to its paper, in NumPy and double precision."""
    names = [name for name in gradients[0] if name != "head"]
    ends = [k * steps_per_epoch // intervals_per_epoch for k in range(1, intervals_per_epoch + 1)]
    frozen, start, previous, interval = {}, 0, None, []
    for step, grads in enumerate(gradients):
        interval.append(grads)
        if step % steps_per_epoch + 1 not in ends:
            continue
        scores = [np.linalg.norm(summed(interval, name), norm) for name in names]
        if previous is not None:
            rates = [abs(p - c) / p for p, c in zip(previous, scores, strict=True)]
            cut = np.percentile(rates[start:], percentile)
            while start < len(names) and rates[start] < cut:
                frozen[names[start]] = step
                start += 1
        previous, interval = scores, []
    return frozen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("percentile", "norm"), [(50.0, 1.0), (50.0, 2.0), (80.0, 1.0)])
def test_decisions_match_a_naive_version(seed, percentile, norm):
    gradients = random_gradients(66, seed)
    frozen, _ = run(AutoFreeze(11, 4, percentile, norm), make_layers(), gradients)
    assert frozen == naive(gradients, 11, 4, percentile, norm)
    assert frozen


def test_nothing_freezes_in_the_first_interval_and_never_the_head():
    layers = make_layers()
    gradients = random_gradients(40, seed=0)
    frozen, active = run(AutoFreeze(1, 1, percentile=100.0), layers, gradients)
    assert min(frozen.values()) >= 1
    assert layers[4] in active and len(active) >= 2


def test_a_layer_that_trains_again_is_scored_twice_before_anything_freezes():
    layers, gradients = make_layers(), random_gradients(8, seed=0)
    policy = AutoFreeze(1, 1)
    frozen, active = run(policy, layers, gradients[:4])
    assert frozen
    back = next(layer for layer in layers if layer.name in frozen)
    active = [layer for layer in layers if layer is back or layer in active]
    again, _ = run(policy, active, gradients[4:5], first_step=4)
    assert again == {}
    run(policy, active, gradients[5:], first_step=5)


def test_norms_disagree_where_they_should():
    """From one large entry to many small ones: the same L1 norm, but another L2 norm."""
    layers = make_layers()
    spread = {layer.name: [torch.ones_like(p) for p in layer.params] for layer in layers}
    gathered = {name: [torch.zeros_like(g) for g in grads] for name, grads in spread.items()}
    for name, grads in gathered.items():
        grads[0].view(-1)[0] = sum(g.numel() for g in spread[name])
    for name in ("layer1", "layer2", "layer3", "layer4", "layer5"):
        gathered[name] = [1.5 * g for g in spread[name]]
    first, second = (
        run(AutoFreeze(1, 1, 60.0, n), layers, [spread, gathered])[0] for n in (1.0, 2.0)
    )
    assert list(first) == ["layer0"]
    assert not second


def test_half_precision_gradients_are_summed_in_single_precision():
    """256 + 1 is 256 in bfloat16, in which the sums would not have changed."""
    layers = make_layers(torch.bfloat16)

    def gradients(first, others):
        sizes = {layer.name: first if layer.name == "layer0" else others for layer in layers}
        return {
            layer.name: [torch.full(p.shape, sizes[layer.name]) for p in layer.params]
            for layer in layers
        }

    big = gradients(256.0, 256.0)
    first = [big, *[gradients(0.0, 0.0)] * 4]
    second = [big, *[gradients(0.5, 1.0)] * 4]
    assert run(AutoFreeze(5, 1, 80.0), layers, first + second)[0] == {"layer0": 9}


@pytest.mark.parametrize("cut", [1, 10, 13, 21, 30])
def test_a_resumed_policy_decides_the_same(cut):
    gradients = random_gradients(66, seed=1)
    whole, _ = run(AutoFreeze(11, 3), make_layers(), gradients)
    before, after = AutoFreeze(11, 3), AutoFreeze(11, 3)
    frozen, active = run(before, make_layers(), gradients[:cut])
    saved = io.BytesIO()
    torch.save(before.state_dict(), saved)
    saved.seek(0)
    after.load_state_dict(torch.load(saved, weights_only=True))
    again = AutoFreeze(11, 3)
    again.load_state_dict(copy.deepcopy(after.state_dict()))
    for policy in (after, again):
        assert frozen | run(policy, active, gradients[cut:], first_step=cut)[0] == whole


def test_sums_of_frozen_layers_are_dropped():
    policy = AutoFreeze(3, 3)
    _, active = run(policy, make_layers(), random_gradients(12, seed=1))
    assert len(active) < 7
    assert set(policy.state_dict()["sums"]) == {layer.name for layer in active if not layer.is_head}


def test_a_model_trains_and_freezes_in_order_and_resumes():
    def prepared():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(5)), nn.Linear(8, 2)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        layers = find_layers(model, torch.zeros(1, 8))
        return model, optimizer, Freezer(model, optimizer, AutoFreeze(6, 2), layers)

    def train(model, optimizer, freezer, data):
        for x in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long()).backward()
            freezer.step()
            optimizer.step()

    data = torch.randn(40, 16, 8, generator=torch.Generator().manual_seed(2))
    whole = prepared()
    train(*whole, data)
    names = [layer.name for layer in whole[2].layers]
    frozen = whole[2].frozen
    assert frozen and list(frozen) == names[: len(frozen)]
    assert all(step >= 5 and step % 3 == 2 for step in frozen.values())

    first, second = prepared(), prepared()
    train(*first, data[:16])
    for new, old in zip(second, first, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    train(*second, data[16:])
    assert second[2].frozen == frozen
    torch.testing.assert_close(second[0].state_dict(), whole[0].state_dict(), rtol=0, atol=0)
