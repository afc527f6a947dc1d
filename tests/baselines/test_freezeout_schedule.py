"""Tests of FreezeOut's schedule: an example and its properties."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines import FreezeOut
from baselines.freezeout import freeze_step, learning_rate

t0s = st.floats(0.05, 1.0)
hows = st.sampled_from(["linear", "cubic"])


@st.composite
def layers_of_a_network(draw):
    """(layer, num_layers)"""
    num_layers = draw(st.integers(1, 60))
    return draw(st.integers(0, num_layers)), num_layers


@pytest.mark.parametrize(
    ("layer", "at_1000", "at_5000"),
    [
        (0, 0.090451, 0.0),
        (1, 0.091824, 0.001453),
        (5, 0.095162, 0.019868),
        (12, 0.097553, 0.05),
    ],
)
def test_learning_rates_of_the_example(layer, at_1000, at_5000):
    rates = [learning_rate(0.1, step, 10_000, layer, 12, t0=0.5) for step in (0, 1000, 5000)]
    assert rates == pytest.approx([0.1, at_1000, at_5000], abs=5e-7)


def test_freeze_steps_of_the_example():
    assert [freeze_step(10_000, layer, 12, t0=0.5) for layer in range(3)] == [5001, 5417, 5834]
    assert freeze_step(10_000, 12, 12, t0=0.5) == 10_001


@pytest.mark.parametrize(
    ("total_steps", "t0", "how", "expected"),
    [
        (10, 0.7, "linear", 8),
        (10, 0.3, "linear", 4),
        (1000, 0.7, "cubic", 344),  # 0.7 ** 3 * 1000 is 342.99999999999994
        (10_000, 0.55, "linear", 5501),  # 0.55 * 10_000 is 5500.000000000001
        (15, 0.5, "linear", 8),
    ],
)
def test_a_layer_freezes_strictly_past_its_end_whatever_the_rounding(
    total_steps, t0, how, expected
):
    assert freeze_step(total_steps, 0, 5, t0, how) == expected


@given(layers_of_a_network(), t0s, hows, st.booleans(), st.integers(1, 500))
def test_a_rate_starts_at_its_base_never_rises_and_ends_at_zero(place, t0, how, scale, total_steps):
    layer, num_layers = place
    end = freeze_step(total_steps, layer, num_layers, t0, how)
    rates = [
        learning_rate(0.1, step, total_steps, layer, num_layers, t0, how, scale)
        for step in range(end + 1)
    ]
    assert all(earlier >= later for earlier, later in pairwise(rates))
    assert rates[0] >= 0.1 * (1 - 1e-12)
    assert rates[end] == 0
    assert all(rate > 0 for rate in rates[: end - 1])


@given(st.integers(1, 60), t0s, hows, st.integers(1, 100_000))
def test_layers_freeze_in_order_and_the_head_outlasts_the_run(num_layers, t0, how, total_steps):
    steps = [freeze_step(total_steps, i, num_layers, t0, how) for i in range(num_layers + 1)]
    assert steps == sorted(steps)
    assert steps[-1] == total_steps + 1


@given(layers_of_a_network(), t0s)
def test_the_cubic_end_is_the_linear_end_cubed_whole(place, t0):
    many = 10**6
    linear = freeze_step(many, *place, t0, "linear") / many
    assert freeze_step(many, *place, t0, "cubic") / many == pytest.approx(linear**3, abs=5e-6)


@given(layers_of_a_network(), st.floats(0.2, 1.0), hows)
def test_scaling_keeps_the_area_under_the_rate(place, t0, how):
    total_steps = 2000
    rates = [
        learning_rate(0.1, step + 0.5, total_steps, *place, t0, how, scale=True)
        for step in range(total_steps)
    ]
    assert sum(rates) == pytest.approx(0.1 * total_steps / 2, rel=1e-2)


@pytest.mark.parametrize(("t0", "how"), [(0.5, "square"), (0.0, "linear"), (1.5, "cubic")])
def test_a_schedule_that_makes_no_sense_is_refused(t0, how):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="how=" if how == "square" else "t0="):
        learning_rate(0.1, 0, 10, 0, 2, t0, how)
    with pytest.raises(ValueError, match="how=" if how == "square" else "t0="):
        freeze_step(10, 0, 2, t0, how)
    with pytest.raises(ValueError, match="how=" if how == "square" else "t0="):
        FreezeOut(optimizer, 10, t0, how)
