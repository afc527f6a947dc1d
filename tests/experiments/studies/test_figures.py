"""Tests of the figures of single layers."""

import numpy as np
import pandas as pd
import pytest

from experiments.studies import figures
from tests.helpers.drawn import assert_reproducible


def gradients():
    layers = pd.DataFrame({"layer": [1, 2, 3], "distance": [0.01, 0.03, 0.0], "chance": 0.02})
    edges = np.linspace(-1, 1, 5)
    bins = {"from": edges[:-1], "to": edges[1:], "all": [0.1, 0.4, 0.4, 0.1], "sampled": 0.25}
    return figures.sampled_gradients(layers, pd.DataFrame(bins), "Layer 2 of 3")


def cka(seeds=(0, 1), layers=53):
    numbers, epochs = range(1, layers + 1), (0.0, 0.5, 1.0)
    curves = [(s, e, n, e * n / layers) for s in seeds for e in epochs for n in numbers]
    moments = [(s, n, "x", np.nan if n % 2 else 0.5) for s in seeds for n in numbers]
    return figures.cka_while_training(
        pd.DataFrame(curves, columns=["seed", "epoch", "layer", "cka"]),
        pd.DataFrame(moments, columns=["seed", "layer", "name", "epoch"]),
    )


def counterfactual():
    frame = {"group": [1, 2, 1, 2], "at": [0.1, 0.1, 0.5, 0.5], "loss": [0.3, 0.2, 0.1, -0.1]}
    return figures.counterfactual_costs([("Net on data, from scratch", pd.DataFrame(frame))])


def times():
    frame = {"layers": [10, 100], "record_ms": [1.0, 9.0], "decide_ms": 2.0, "from_scratch_ms": 3.0}
    return figures.time_by_layers(pd.DataFrame(frame))


def attention(interval=(-0.1, 0.3)):
    ages = pd.DataFrame({"age": [0, 1], "mean": [0.7, 0.3], "low": [0.5, 0.2], "high": [0.8, 0.5]})
    example = {"epoch": [0.0, 0.1], "loss": [2.0, 1.0], "attention": [np.nan, 1.2]}
    runs = pd.DataFrame({"rise_effect": [0.2, -0.1, 0.2], "rise_effect_same_epoch": 0.0})
    return figures.attention(ages, pd.DataFrame(example), runs, interval)


def points(ax, index):
    return ax.lines[index].get_xydata()


@pytest.mark.parametrize(
    ("count", "shown"),
    [(53, [10, 20, 30, 40, 50]), (9, [2, 3, 5, 7, 8]), (2, [1, 2]), (1, [1])],
)
def test_layers_are_as_deep_as_the_paper_s(count, shown):
    assert figures.shown_layers(count) == shown


def test_gradients_are_a_histogram_and_distances_beside_chance():
    left, right = gradients().axes
    np.testing.assert_allclose(left.patches[0].get_data().values, [10, 40, 40, 10])
    np.testing.assert_allclose(left.patches[1].get_data().values, 25)
    np.testing.assert_allclose(points(right, 0)[:, 1], 0.02)
    np.testing.assert_allclose(points(right, 1), [[1, 0.01], [2, 0.03], [3, 0]])


def test_curves_are_the_first_seed_s_and_end_where_they_may_be_frozen():
    left, right = cka().axes
    curves = [line for line in left.lines if line.get_label().startswith("Layer")]
    assert [line.get_label() for line in curves] == [f"Layer {n}" for n in (10, 20, 30, 40, 50)]
    np.testing.assert_allclose(curves[0].get_xydata(), [[0, 0], [0.5, 5 / 53], [1, 10 / 53]])
    marks = [line.get_xydata() for line in left.lines if len(line.get_xydata()) == 1]
    np.testing.assert_allclose(marks[0], [[0.5, 5 / 53]])
    stable, never = points(right, 0), points(right, 1)
    np.testing.assert_equal(stable[:2, 1], [np.nan, 0.5])
    np.testing.assert_equal(never[:2, 1], [1.0, np.nan])


def test_costs_are_a_line_for_each_group_over_its_moments():
    (ax,) = counterfactual().axes
    np.testing.assert_allclose(points(ax, 0), [[0.1, 0.3], [0.5, 0.1]])
    np.testing.assert_allclose(points(ax, 1), [[0.1, 0.2], [0.5, -0.1]])
    assert ax.lines[0].get_label() == "Group 1"


def test_times_are_beside_what_would_be_in_proportion():
    (ax,) = times().axes
    np.testing.assert_allclose(points(ax, 2), [[10, 1], [100, 9]])
    np.testing.assert_allclose(points(ax, 3), [[10, 0.9], [100, 9]])


def test_attention_is_by_age_beside_the_loss_and_by_run():
    left, middle, right, beside = attention().axes
    np.testing.assert_allclose(points(left, 0), [[0, 70], [1, 30]])
    np.testing.assert_allclose(points(left, 1)[:, 1], 50)  # uniform attention
    np.testing.assert_allclose(points(middle, 0), [[0, 2], [0.1, 1]])
    np.testing.assert_allclose(points(beside, 0)[1], [0.1, 1.2])
    np.testing.assert_allclose(points(right, 1)[:, 0], 0)
    np.testing.assert_allclose(points(right, 2)[:, 0], [-10, 20, 20])
    np.testing.assert_allclose(points(right, 3)[:, 0], 10)
    assert len(right.patches) == 1
    assert not attention((np.nan, np.nan)).axes[2].patches


@pytest.mark.parametrize("draw", [gradients, cka, counterfactual, times, attention])
def test_files_are_the_same_bytes_each_time(tmp_path, draw):
    assert_reproducible(draw, tmp_path)
