"""Tests of the displacement rule: an example, and decisions against a naive version."""

import io
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from baselines import DisplacementRule
from smartfrz import Layer
from smartfrz.predictor.tailoring import sample_indices


def make_layers(sizes=(30, 2000, 7), dtype=torch.float32):
    """Layers of the given numbers of random weights, and a head."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        Layer(
            f"layer{i}",
            (nn.Identity(),),
            (nn.Parameter(torch.randn(1, n, generator=generator).to(dtype)),),
        )
        for i, n in enumerate(sizes)
    ]
    return [
        *layers,
        Layer("head", (nn.Identity(),), (nn.Parameter(torch.ones(1, 3)),), is_head=True),
    ]


def shift(layer, by):
    with torch.no_grad():
        layer.params[0].add_(by)


def walk(layers, num_steps, seed=1):
    """Moves the weights at random by smaller and smaller steps; yields them by layer name."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(num_steps):
        yield step, {layer.name: layer.params[0].detach().clone().flatten() for layer in layers}
        for layer in layers:
            noise = torch.randn(layer.params[0].shape, generator=generator)
            shift(layer, noise * torch.rand((), generator=generator) * 0.9**step)


def run(policy, layers, steps):
    """Calls a policy at every step as a freezer would; the step at which each layer froze."""
    frozen = {}
    for step, _ in steps:
        for layer in policy.layers_to_freeze(layers, step):
            frozen[layer.name] = step
            layers = [other for other in layers if other is not layer]
    return frozen


def naive(steps, interval, threshold, size):
    """The rule in NumPy and double precision."""
    frozen, previous = {}, {}
    for step, weights in steps:
        if step % interval:
            continue
        for name in weights.keys() - {"head"} - frozen.keys():
            index = sample_indices(name, weights[name].numel(), size)
            now = weights[name][index].double().numpy()
            if name in previous:
                moved = np.linalg.norm(now - previous[name]) / np.linalg.norm(now)
                if 0 < moved < threshold:
                    frozen[name] = step
            previous[name] = now
    return frozen


@pytest.mark.parametrize(("interval", "threshold"), [(1, 0.05), (3, 0.2), (4, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_match_a_naive_version(interval, threshold, seed):
    layers, twins = make_layers(), make_layers()
    frozen = run(DisplacementRule(interval, threshold, size=64), layers, walk(layers, 40, seed))
    assert frozen == naive(walk(twins, 40, seed), interval, threshold, 64)
    assert frozen


def test_freezes_below_the_threshold_and_not_at_it():
    """From (3, 0) to (3, 4), the relative displacement is exactly 4 / 5."""
    for threshold, is_frozen in ((0.8, False), (0.800001, True)):
        layer, head = (make_layers(sizes=(2,))[i] for i in (0, -1))
        layer.params[0].data = torch.tensor([[3.0, 0.0]])
        policy = DisplacementRule(5, threshold, size=2)
        assert policy.layers_to_freeze([layer, head], 0) == []
        shift(layer, torch.tensor([[0.0, 4.0]]))
        assert policy.layers_to_freeze([layer, head], 4) == []
        assert policy.layers_to_freeze([layer, head], 5) == ([layer] if is_frozen else [])


def test_a_layer_that_has_not_moved_or_is_no_number_goes_on():
    layers = make_layers(sizes=(5, 5, 5))
    policy = DisplacementRule(1, threshold=1.0)
    assert policy.layers_to_freeze(layers, 0) == []
    shift(layers[1], 1e-3)
    shift(layers[2], float("nan"))
    assert policy.layers_to_freeze(layers, 1) == [layers[1]]


@pytest.mark.parametrize("cut", [1, 4, 10])
def test_a_resumed_policy_decides_the_same(cut):
    layers, saved = make_layers(), io.BytesIO()
    steps = walk(layers, 40)
    before, after = (DisplacementRule(3, 0.2, size=64) for _ in range(2))
    frozen = run(before, layers, islice(steps, cut))
    torch.save(before.state_dict(), saved)
    saved.seek(0)
    after.load_state_dict(torch.load(saved, weights_only=True))
    frozen |= run(after, [layer for layer in layers if layer.name not in frozen], steps)
    assert frozen == naive(walk(make_layers(), 40), 3, 0.2, 64)
    assert max(frozen.values()) > cut


def test_an_interval_is_at_least_one_step():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        DisplacementRule(0, 0.001)
