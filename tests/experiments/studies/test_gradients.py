"""Tests of Figure 3: distances between sampled and all gradients, and their chance level."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from experiments.studies.gradients import (
    LayerGradient,
    caption,
    chance_distance,
    distances,
    gradients_after,
    histogram,
    ks_distance,
    layer_gradient,
)
from smartfrz import find_layers
from smartfrz.predictor.tailoring import sample_indices
from tests.helpers.digits import ignore, tiny_run


@pytest.mark.parametrize("ties", [False, True])
def test_distance_is_that_of_scipy(ties):
    rng = np.random.default_rng(0)
    population, sample = np.sort(rng.normal(size=500)), rng.normal(0.3, 1, 90)
    if ties:
        population, sample = population.round(), sample.round()
    expected = stats.ks_2samp(sample, population).statistic
    assert ks_distance(sample, population) == pytest.approx(expected)
    assert ks_distance(population, population) == 0


def test_chance_holds_for_random_subsets_and_not_for_others():
    rng = np.random.default_rng(1)
    population = np.sort(rng.normal(size=4000))
    chance = chance_distance(population, 200)
    above = [
        ks_distance(rng.choice(population, 200, replace=False), population) > chance
        for _ in range(400)
    ]
    assert 0.02 < np.mean(above) < 0.09
    assert ks_distance(population[:2000:10], population) > chance
    assert chance_distance(population, 2000) < chance
    assert chance_distance(population[:200], 200) == 0


def test_the_sampled_gradients_are_those_of_the_sampled_weights():
    model = nn.Sequential(nn.Conv2d(3, 64, 5, bias=True), nn.BatchNorm2d(64), nn.Flatten())
    model.append(nn.Linear(64, 2))
    layer, _ = find_layers(model, torch.randn(2, 3, 5, 5))
    for param in layer.params:
        param.grad = torch.randn_like(param)
    weight = model[0].weight.grad.flatten()
    gradient = layer_gradient(layer)
    np.testing.assert_array_equal(gradient.all, weight.sort().values)
    np.testing.assert_array_equal(
        gradient.sampled, weight[sample_indices(layer.name, len(weight), 1024)]
    )


def test_gradients_are_those_of_the_next_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    config = tiny_run(train_images=64)
    once, again = (gradients_after(config, 1, ignore) for _ in range(2))
    before = gradients_after(config, 0, ignore)
    assert len(once) == 9  # ten layers without the head
    for a, b, c in zip(once, again, before, strict=True):
        np.testing.assert_array_equal(a.all, b.all)
        assert len(a.sampled) == 1024
        assert not np.array_equal(a.all, c.all)


def test_a_row_a_layer_and_a_sentence_about_all():
    rng = np.random.default_rng(0)
    values = np.sort(rng.normal(size=3000))
    fair = LayerGradient("fair", values, rng.choice(values, 1024, replace=False))
    unfair = LayerGradient("unfair", values, values[:1024])
    small = LayerGradient("small", values[:100], values[:100])
    layers = distances([fair, unfair, small])
    assert list(layers["layer"]) == [1, 2, 3]
    assert list(layers["distance"] > layers["chance"]) == [False, True, False]
    text = caption(layers, 1, "after nothing")
    assert "`fair`: all 3,000 weights and the 1,024 sampled" in text
    assert "1 of the 2 layers with more weights than are sampled exceed the chance level" in text
    assert "as many would in 10% of cases" in text
    assert "sampled weights are as representative as a random draw" in text
    four = pd.concat([layers[1:2]] * 4, ignore_index=True).assign(layer=range(1, 5))
    assert "weights are not as representative as a random draw" in caption(four, 1, "")


def test_histogram_shares_bins_and_leaves_out_next_to_nothing():
    values = np.sort(np.random.default_rng(0).normal(size=5000))
    bins = histogram(LayerGradient("layer", values, values[::5]))
    assert (bins["from"][1:].to_numpy() == bins["to"][:-1].to_numpy()).all()
    assert bins["from"].iloc[0] == -bins["to"].iloc[-1]
    assert (bins[["all", "sampled"]].sum() > 0.997).all()
    assert (bins["all"] - bins["sampled"]).abs().max() < 0.01
