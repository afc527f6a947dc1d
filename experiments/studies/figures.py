"""Figures of single layers: gradients, CKA, costs of freezing, memory, overhead and attention."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.reporting.labels import display_name
from experiments.reporting.style import STYLE, look

# Ordered from dark to light, from the front of a network to its back; distinguishable in grey.
_DEPTHS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00")
_MARKERS = ("s", "^", "v", "o", "D")
_OURS, _GREY = look("smartfrz")[0], "0.6"
_SEED_LOOKS = (("#CC79A7", "v"), ("#56B4E9", "P"), ("#D55E00", "X"), ("#F0E442", "h"))
_DOT: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 3.2, "mew": 0}


def shown_layers(count: int) -> list[int]:
    """Returns layers at the relative depths of the paper's figures: 10, 20, ..., 50 of 53."""
    numbers = [max(1, round(10 * i * count / 53)) for i in range(1, 6)]
    return list(dict.fromkeys(numbers))


@rc_context(STYLE)
def sampled_gradients(layers: pd.DataFrame, histogram: pd.DataFrame, title: str) -> Figure:
    """Draws the histogram of one layer's gradient, and the distances of all layers' samples.

    Args:
        layers: from `distances`.
        histogram: from `histogram`.
        title: title of the histogram, which names the layer.
    """
    fig, (left, right) = _row(2)
    edges = [*histogram["from"], histogram["to"].iloc[-1]]
    left.stairs(100 * histogram["all"], edges, fill=True, color="0.82", label="All weights")
    left.stairs(100 * histogram["sampled"], edges, color=_OURS, lw=1, label="Sampled")
    left.set(title=title, xlabel="Gradient", ylabel="Weights (%)")
    left.ticklabel_format(axis="x", scilimits=(-2, 2))
    left.legend(loc="upper right", fontsize=6)

    right.plot(layers["layer"], layers["chance"], "_", color="0.4", ms=4, label="Chance, 95%")
    right.plot(layers["layer"], layers["distance"], **_DOT, color=_OURS, label="Sampled")
    right.set(title="All layers", xlabel="Layer, in execution order", ylabel="Distance (KS)")
    right.set_ylim(0, 1.35 * layers[["distance", "chance"]].max().max())
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(loc="upper right", fontsize=6, ncols=2)
    return fig


@rc_context(STYLE)
def cka_while_training(curves: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Draws the CKA of five layers, first seed, and the epoch at which each layer became stable.

    Args:
        curves: from `cka_curves`, for one or more seeds.
        layers: from `stable_epochs`, for the same seeds.
    """
    fig, (left, right) = _row(2)
    seeds = list(layers["seed"].unique())
    of_seed = curves[curves["seed"] == seeds[0]]
    looks = zip(shown_layers(layers["layer"].max()), _DEPTHS, _MARKERS, strict=False)
    for number, color, marker in looks:
        curve = of_seed[of_seed["layer"] == number].set_index("epoch")["cka"]
        left.plot(curve.index, curve, color=color, lw=1, label=f"Layer {number}")
        stable = layers[(layers["seed"] == seeds[0]) & (layers["layer"] == number)]["epoch"].item()
        if not np.isnan(stable):
            left.plot(stable, curve[stable], marker, color=color, ms=4.5, mec="white", mew=0.6)
    left.set(title="CKA to the final model", xlabel="Epoch", ylabel="CKA")
    left.legend(loc="lower right", fontsize=6)

    end = curves["epoch"].max()
    for seed, (color, marker) in zip(seeds, _SEED_LOOKS, strict=False):
        moments = layers[layers["seed"] == seed]
        dots: dict[str, Any] = {**_DOT, "marker": marker, "color": color, "clip_on": False}
        right.plot(moments["layer"], moments["epoch"], **dots, alpha=0.7, label=f"Seed {seed}")
        never = moments["epoch"].isna().map({True: end, False: np.nan})
        right.plot(moments["layer"], never, **dots | {"mfc": "white", "mew": 0.7})
    right.set(title="Stable from", xlabel="Layer, in execution order", ylabel="Epoch")
    right.set_ylim(0, end)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(seeds) > 1:
        right.legend(loc="upper left", fontsize=6)
    return fig


@rc_context(STYLE)
def counterfactual_costs(panels: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """Draws what freezing each group costs against the moment, a panel per workload.

    Args:
        panels: names and rows of the workloads, from `counterfactual.workloads`.
    """
    fig, axes = _row(len(panels))
    for ax, (name, of_workload) in zip(axes, panels, strict=True):
        groups = of_workload.groupby("group")
        for (group, of_group), color, marker in zip(groups, _DEPTHS, _MARKERS, strict=False):
            line: dict[str, Any] = {"color": color, "marker": marker, "ms": 3.5, "mew": 0, "lw": 1}
            ax.plot(of_group["at"], of_group["loss"], **line, label=f"Group {group}")
        ax.axhline(0, color=_GREY, lw=0.7, ls=(0, (4, 3)), zorder=0.9)
        ax.set_title(name.replace(", ", "\n"), fontsize=6.5)
        ax.set(xlabel="Frozen after (of the run)")
    axes[0].set_ylabel("Increase of the loss")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return fig


@rc_context(STYLE)
def memory(frame: pd.DataFrame) -> Figure:
    """Draws the memory of a step as layers freeze, relative to full training, a panel per model.

    Args:
        frame: from `memory_over_time`, for one or more runs.
    """
    models = list(frame["model"].unique())
    fig, axes = _row(len(models))
    looks = {"stock": ("PyTorch's freezing", "#0072B2"), "saved": ("With save_memory", _OURS)}
    for ax, model in zip(axes, models, strict=True):
        of_model = frame[frame["model"] == model]
        for column, (label, color) in looks.items():
            for seed, run in of_model.groupby("seed"):
                share = 100 * run[column] / run["stock"].iloc[0]
                is_first = seed == of_model["seed"].min()
                line: dict[str, Any] = {"lw": 1.3 if is_first else 0.6, "color": color}
                ax.step(run["epoch"], share, **line, where="post", label=label if is_first else "")
        ax.axhline(100, color=_GREY, lw=0.7, ls=(0, (4, 3)), zorder=0.9)
        ax.set(title=display_name(model), xlabel="Epoch", ylim=(0, 105))
    axes[0].set_ylabel("Memory (% of full)")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=2)
    return fig


@rc_context(STYLE)
def time_by_layers(times: pd.DataFrame) -> Figure:
    """Draws the time to record and to decide against the number of layers, on logarithmic axes.

    Args:
        times: from `time_by_layers`.
    """
    fig, (ax,) = _row(1)
    looks = {
        "from_scratch_ms": ("Decide, from scratch", "#E69F00", "D"),
        "record_ms": ("Record", _OURS, "o"),
        "decide_ms": ("Decide, cached keys and values", "#0072B2", "^"),
    }
    for name, (label, color, marker) in looks.items():
        ax.plot(times["layers"], times[name], color=color, marker=marker, ms=4, lw=1, label=label)
        linear = times[name].iloc[-1] * times["layers"] / times["layers"].iloc[-1]
        ax.plot(times["layers"], linear, color=_GREY, lw=0.7, ls=(0, (4, 3)), zorder=0.9)
    ax.set(xscale="log", yscale="log", xlabel="Layers", ylabel="Milliseconds")
    ax.plot([], [], color=_GREY, lw=0.7, ls=(0, (4, 3)), label="Linear in the layers")
    fig.legend(loc="outside upper center", fontsize=6, ncols=2)
    return fig


@rc_context(STYLE)
def attention(
    ages: pd.DataFrame, example: pd.DataFrame, runs: pd.DataFrame, interval: tuple[float, float]
) -> Figure:
    """Draws attention by age, one run's loss and attention, and the effect of a rise in the loss.

    Args:
        ages: ``age``, ``mean``, ``low`` and ``high``.
        example: ``epoch``, ``loss`` and ``attention``, relative to records of the same ages.
        runs: a row per run: ``rise_effect`` and ``rise_effect_same_epoch``, fractions.
        interval: interval of the mean ``rise_effect``.
    """
    fig, (left, middle, right) = _row(3)
    left.fill_between(ages["age"], 100 * ages["low"], 100 * ages["high"], color=_OURS, alpha=0.2)
    left.plot(ages["age"], 100 * ages["mean"], color=_OURS, lw=1.3)
    left.axhline(100 / len(ages), color=_GREY, lw=0.7, ls=(0, (4, 3)))
    left.set(title="Attention by age", xlabel="Age (records)", ylabel="Attention (%)")
    left.set_ylim(bottom=0)

    middle.plot(example["epoch"], example["loss"], color="black", lw=0.8)
    middle.set(title="Loss and attention", xlabel="Epoch", ylabel="Training loss (black)")
    other = middle.twinx()
    other.plot(example["epoch"], example["attention"], color=_OURS, lw=0.8)
    other.set_ylabel("Relative attention", color=_OURS)
    other.grid(visible=False)

    effects = 100 * runs[["rise_effect", "rise_effect_same_epoch"]].sort_values("rise_effect")
    rows = range(1, len(effects) + 1)
    right.axvline(0, color=_GREY, lw=0.7, ls=(0, (4, 3)), zorder=0.9)
    hollow: dict[str, Any] = {"mfc": "white", "mew": 0.7}
    right.plot(effects["rise_effect_same_epoch"], rows, **_DOT | hollow, color=_OURS)
    right.plot(effects["rise_effect"], rows, **_DOT, color=_OURS)
    right.axvline(effects["rise_effect"].mean(), color=_OURS, lw=1)
    if not np.isnan(interval).any():
        right.axvspan(*(100 * end for end in interval), color=_OURS, alpha=0.15, lw=0)
    right.set(title="Effect of a rise in loss", xlabel="Change of attention (%)", ylabel="Run")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def _row(panels: int) -> tuple[Figure, list[Axes]]:
    fig = Figure(figsize=(3.4 if panels == 1 else 7, 2.2), layout="constrained")
    return fig, list(fig.subplots(1, panels, squeeze=False).flat)
