"""Do 1,024 weights stand for a layer? The gradients of all of them against the sampled (Fig. 3)."""

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
    """A layer's gradient: of ``all`` its weights, ascending, and of those that are ``sampled``."""

    name: str
    all: np.ndarray
    sampled: np.ndarray


def gradients_after(config: RunConfig, epochs: int, on_step: OnStep) -> list[LayerGradient]:
    """The gradients of the next batch after some epochs of a run, of each layer but the head.

    Args:
        config: the run; the weights it starts from are in the cache.
        epochs: how many to train first.
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
    """The gradient that a layer holds, of the weights that layer tailoring samples from."""
    gradients = [param.grad for param in layer.params if param.grad is not None]
    matrices = [each for each in gradients if each.ndim >= 2] or gradients
    taken = zip(matrices, sample_positions(layer), strict=True)
    every = torch.cat([each.flatten() for each in matrices]).sort().values
    sampled = torch.cat([each.take(positions) for each, positions in taken])
    return LayerGradient(layer.name, every.float().cpu().numpy(), sampled.float().cpu().numpy())


def ks_distance(sample: np.ndarray, population: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov statistic: the largest difference of the two distributions.

    Args:
        sample: values, in any order.
        population: values, ascending.
    """
    sample = np.sort(sample)
    # The difference is largest at a value of the sample, on the one or the other side of its step.
    return max(
        np.abs(
            np.searchsorted(sample, sample, side) / len(sample)
            - np.searchsorted(population, sample, side) / len(population)
        ).max()
        for side in ("left", "right")
    )


def chance_distance(population: np.ndarray, size: int) -> float:
    """What chance gives: in 95 of 100 draws a random subset's distance is no larger.

    Args:
        population: values, ascending.
        size: of the subsets, which are drawn without replacement; a thousand of them.
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
    """One row per layer: its place, name and weights, its distance, and what chance gives."""
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
    """Shares of all and of the sampled weights in bins that leave out one in a thousand a side."""
    reach = np.abs(np.quantile(gradient.all, [0.001, 0.999])).max()
    edges = np.linspace(-reach, reach, _BINS + 1)
    shares = {
        name: np.histogram(values, edges)[0] / len(values)
        for name, values in (("all", gradient.all), ("sampled", gradient.sampled))
    }
    return pd.DataFrame({"from": edges[:-1], "to": edges[1:], **shares})


def caption(layers: pd.DataFrame, shown: int, training: str) -> str:
    """What Figure 3 shows and what comes out of it.

    Args:
        layers: from `distances`.
        shown: the number of the layer of the histogram.
        training: what was trained, and how far.
    """
    (layer,) = layers[layers["layer"] == shown].itertuples()
    larger = layers[layers["weights"] > layers["sampled"]]
    above = int((larger["distance"] > larger["chance"]).sum())
    worst = larger.loc[larger["distance"].idxmax()]
    by_chance = _at_least(above, len(larger), 1 - _QUANTILE)
    return (
        f"The gradient of one batch, {training}. Left: layer {shown} of {len(layers)}, "
        f"`{layer.name}`: all its {layer.weights:,} weights and the {layer.sampled:,} sampled; "
        f"the Kolmogorov-Smirnov distance of the two is {layer.distance:.3f}. Right: that of every "
        f"layer but the head, and what a random subset stays below in {_QUANTILE:.0%} of "
        f"{_DRAWS:,} draws without replacement. The largest distance is {worst['distance']:.3f} "
        f"(`{worst['name']}`; chance {worst['chance']:.3f}).\n\n"
        f"**Finding.** Above that level: {above} of the {len(larger)} layers with more weights "
        f"than are sampled; by chance alone at least as many in {by_chance:.0%} of cases. The "
        f"sampled weights are {'' if by_chance > 0.05 else 'not '}as good as a random draw. That a "
        "random draw is like the whole holds for any numbers; it says nothing of gradients."
    )


def _at_least(successes: int, trials: int, probability: float) -> float:
    """The chance of so many successes or more."""
    return sum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(successes, trials + 1)
    )
