"""Gradients of all weights of a layer compared with those of the sampled weights (Fig. 3)."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from experiments.config import RunConfig
from experiments.runs.setup import prepare
from experiments.runs.training_loop import Curves, OnStep, train_epoch
from smartfrz.layers import Layer
from smartfrz.predictor import sample_positions

_DRAWS, _QUANTILE, _BINS = 1000, 0.95, 41


@dataclass(frozen=True)
class LayerGradient:
    """A layer's gradient.

    Attributes:
        name: the layer's name.
        all: gradient of all its weights, ascending.
        sampled: gradient of the sampled weights.
    """

    name: str
    all: np.ndarray
    sampled: np.ndarray


def gradients_after(config: RunConfig, epochs: int, on_step: OnStep) -> list[LayerGradient]:
    """Computes the gradients of each layer but the head, for the next batch after some epochs.

    Args:
        config: the run; its initial weights must be in the cache.
        epochs: number of epochs to train first.
        on_step: called after every step.
    """
    run, curves = prepare(config), Curves()
    for _ in range(epochs):
        train_epoch(run, curves, on_step)
    images, labels, _ = next(run.batches.epoch(config.seed, epochs))
    run.model.train()
    with run.autocast():
        loss = F.cross_entropy(run.model(images), labels)
    loss.backward()
    return [layer_gradient(layer) for layer in run.freezer.layers if not layer.is_head]


def layer_gradient(layer: Layer) -> LayerGradient:
    """Returns a layer's current gradient, for the weights from which layer tailoring samples."""
    gradients = [param.grad for param in layer.params if param.grad is not None]
    matrices = [each for each in gradients if each.ndim >= 2] or gradients
    matrices = [torch.view_as_real(g) if g.is_complex() else g for g in matrices]
    taken = zip(matrices, sample_positions(layer), strict=True)
    every = torch.cat([each.flatten() for each in matrices]).sort().values
    sampled = torch.cat([each.take(positions) for each, positions in taken])
    return LayerGradient(layer.name, every.float().cpu().numpy(), sampled.float().cpu().numpy())


def ks_distance(sample: np.ndarray, population: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov statistic: the largest difference of the distributions.

    Args:
        sample: values, in any order.
        population: values, ascending.
    """
    sample = np.sort(sample)
    # The difference is largest at a value of the sample, on one of the two sides of its step.
    return max(
        np.abs(
            np.searchsorted(sample, sample, side) / len(sample)
            - np.searchsorted(population, sample, side) / len(population)
        ).max()
        for side in ("left", "right")
    )


def chance_distance(population: np.ndarray, size: int) -> float:
    """Returns the 95% quantile of a random subset's distance, over 1,000 draws.

    Args:
        population: values, ascending.
        size: size of the subsets, which are drawn without replacement.
    """
    if len(population) <= size:
        return 0.0
    rng = np.random.default_rng(0)
    distances = [
        ks_distance(population[rng.choice(len(population), size, False, shuffle=False)], population)
        for _ in range(_DRAWS)
    ]
    return float(np.quantile(distances, _QUANTILE))


def distances(gradients: list[LayerGradient]) -> pd.DataFrame:
    """Returns a row per layer: position, name, number of weights, distance and chance level."""
    return pd.DataFrame(
        [
            {
                "layer": number,
                "name": each.name,
                "weights": len(each.all),
                "sampled": len(each.sampled),
                "distance": ks_distance(each.sampled, each.all),
                "chance": chance_distance(each.all, len(each.sampled)),
            }
            for number, each in enumerate(gradients, start=1)
        ]
    )


def histogram(gradient: LayerGradient) -> pd.DataFrame:
    """Returns the fractions of all and of the sampled weights per bin, without the outer 0.1%."""
    reach = np.abs(np.quantile(gradient.all, [0.001, 0.999])).max()
    edges = np.linspace(-reach, reach, _BINS + 1)
    shares = {
        name: np.histogram(values, edges)[0] / len(values)
        for name, values in (("all", gradient.all), ("sampled", gradient.sampled))
    }
    return pd.DataFrame({"from": edges[:-1], "to": edges[1:], **shares})


def caption(layers: pd.DataFrame, shown: int, training: str) -> str:
    """Returns the caption of Figure 3, with its finding.

    Args:
        layers: from `distances`.
        shown: number of the layer of the histogram.
        training: network, data set and number of epochs of the run.
    """
    (layer,) = layers[layers["layer"] == shown].itertuples()
    larger = layers[layers["weights"] > layers["sampled"]]
    above = int((larger["distance"] > larger["chance"]).sum())
    worst = larger.loc[larger["distance"].idxmax()]
    by_chance = _at_least(above, len(larger), 1 - _QUANTILE)
    return (
        f"Gradient of one batch, {training}. Left: layer {shown} of {len(layers)}, "
        f"`{layer.name}`: all {layer.weights:,} weights and the {layer.sampled:,} sampled ones, at "
        f"a Kolmogorov-Smirnov distance of {layer.distance:.3f}. Right: distance for every layer "
        f"but the head, and the chance level: the {_QUANTILE:.0%} quantile for random subsets, "
        f"over {_DRAWS:,} draws without replacement. The largest distance is "
        f"{worst['distance']:.3f} (`{worst['name']}`; chance level {worst['chance']:.3f}).\n\n"
        f"**Finding.** {above} of the {len(larger)} layers with more weights than are sampled "
        f"exceed the chance level; by chance alone, at least as many would in {by_chance:.0%} of "
        f"cases. The sampled weights are {'' if by_chance > 0.05 else 'not '}as representative as "
        "a random draw. A random draw is representative of any set of numbers; this result is not "
        "specific to gradients."
    )


def _at_least(successes: int, trials: int, probability: float) -> float:
    """Returns the binomial probability of at least this many successes."""
    return sum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(successes, trials + 1)
    )
