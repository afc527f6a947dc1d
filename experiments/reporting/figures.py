"""Figures of runs, as pure functions of the frame of runs."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.reporting.labels import display_name, rank
from experiments.reporting.style import MEAN_MARKER, STYLE, add_legend, look, looks_of
from experiments.reporting.tables import with_ratios


@rc_context(STYLE)
def accuracy_against_compute(frame: pd.DataFrame) -> Figure:
    """Draws final accuracy against compute relative to full training, a panel per workload.

    Small dots are runs, large markers their mean with the sample standard deviation; the dashed
    line is the mean of full training. Runs that cannot be placed are listed under a panel's title.

    Raises:
        ValueError: The frame is empty or contains a cell twice.
    """
    runs = with_ratios(frame)
    looks = looks_of(runs)
    fig, drawn = panels(runs, sharex=True)
    for ax, group in drawn:
        remark(ax, caveats(group))
        placed = group.dropna(subset=["compute_ratio"])
        covering = _covering(placed)
        for method, of_method in _by_method(placed):
            color, marker = looks[method]
            x, y = 100 * of_method["compute_ratio"], 100 * of_method["final_accuracy"]
            if method == "full":
                ax.axhline(y.mean(), color="0.6", lw=0.7, ls=(0, (4, 3)), zorder=0.9)
            ax.plot(x, y, ".", color=color, alpha=0.5, ms=4, mew=0, label=f"_{method} runs")
            style: dict[str, Any] = {
                **{"xerr": x.std(), "yerr": y.std(), "elinewidth": 0.9, "label": method},
                **MEAN_MARKER,
            }
            if above := covering[method]:  # a ring around the markers that cover it
                size = MEAN_MARKER["ms"] + 3.5 * above
                style |= {"ms": size, "mfc": "none", "mec": color, "mew": 1.1}
            ax.errorbar(x.mean(), y.mean(), fmt=marker, color=color, **style)
        ax.margins(0.12)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
    fig.supxlabel("Compute (% of full training)")
    fig.supylabel("Accuracy (%)")
    add_legend(fig, _method_handles(looks, ls="none"))
    return fig


@rc_context(STYLE)
def layers_frozen_over_time(frame: pd.DataFrame) -> Figure:
    """Draws the fraction of frozen layers against progress through the run, a panel per workload.

    Thin lines are runs, the thick line is their mean. Diverged runs are left out.

    Raises:
        ValueError: The frame contains no finished run.
    """
    runs = frame[frame["status"] == "finished"]
    looks = looks_of(runs)
    fig, drawn = panels(runs, sharex=True, sharey=True)
    for ax, group in drawn:
        for method, of_method in _by_method(group):
            color, marker = looks[method]
            moments = [np.sort(_frozen_steps(run) / run["steps"]) for run in _rows(of_method)]
            layers = [len(json.loads(text)) for text in of_method["layers"]]
            grid = np.unique(np.concatenate([[0.0, 1.0], *moments]))
            shares = [
                100 * np.searchsorted(times, grid, side="right") / count
                for times, count in zip(moments, layers, strict=True)
            ]
            step: dict[str, Any] = {"color": color, "drawstyle": "steps-post", "clip_on": False}
            for share in shares:
                ax.plot(grid, share, **step, lw=0.6, alpha=0.4, label=f"_{method} run")
            mean: dict[str, Any] = {"lw": 1.3, "marker": marker, "markevery": [-1], **MEAN_MARKER}
            ax.plot(grid, np.mean(shares, axis=0), **step, **mean, label=method)
        ax.set(xlim=(0, 1), ylim=(0, 100), xticks=[0, 0.5, 1], yticks=[0, 25, 50, 75, 100])
        ax.set_xticklabels(["0", "0.5", "1"])
    fig.supxlabel("Progress through the run")
    fig.supylabel("Layers frozen (%)")
    add_legend(fig, _method_handles(looks, ls="-"))
    return fig


@rc_context(STYLE)
def frozen_moments(frame: pd.DataFrame) -> Figure:
    """Draws the epoch at which SmartFRZ froze each layer (the paper's Fig. 5b), by workload.

    A bar is the time for which a layer trained, mean over runs. Filled dots are the epochs at which
    single runs froze the layer; hollow dots, at the end of a run, mark layers never frozen.

    Raises:
        ValueError: The frame contains no finished run of SmartFRZ.
    """
    runs = frame[(frame["status"] == "finished") & (frame["method"] == "smartfrz")]
    fig, drawn = panels(runs, width=3.4)
    color, marker = look("smartfrz")
    for ax, group in drawn:
        ends = group["steps"] / group["steps_per_epoch"]
        epochs = np.array([_frozen_epochs(run) for run in _rows(group)])
        trained = np.where(np.isnan(epochs), ends.to_numpy()[:, None], epochs)
        layers = 1 + np.arange(epochs.shape[1])
        ax.bar(layers, trained.mean(axis=0), width=0.75, color=color, alpha=0.22, lw=0)
        dots: dict[str, Any] = {
            "ls": "none",
            "marker": marker,
            "ms": 2.6,
            "color": color,
            "mew": 0.6,
        }
        for frozen, last in zip(epochs, ends, strict=True):
            never = np.where(np.isnan(frozen), last, np.nan)
            ax.plot(layers, frozen, **dots, alpha=0.75, mec="none", label="_frozen")
            ax.plot(layers, never, **dots, mfc="white", clip_on=False, label="_never frozen")
        ax.set(xlim=(0.25, len(layers) + 0.75), ylim=(0, ends.max()))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=3))
        ax.grid(visible=False, axis="x")
    fig.supxlabel("Layer, in execution order")
    fig.supylabel("Epoch")
    mean = Line2D([], [], color=color, alpha=0.22, lw=4, label="Trains (mean)")
    once = Line2D([], [], **dots | {"ms": 4}, mec="none", label="Frozen")
    never_once = Line2D([], [], **dots | {"ms": 4}, mfc="white", label="Never frozen")
    add_legend(fig, [mean, once, never_once])
    return fig


def panels(
    runs: pd.DataFrame, width: float = 1.75, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Returns a figure with a titled panel for each workload, at most 7 inches wide in total."""
    if runs.empty:
        raise ValueError("There are no runs to draw: run some of the table's cells first.")
    groups = list(runs.groupby(["model", "dataset"], sort=False))
    groups.sort(key=lambda group: [rank(name) for name in group[0]])
    count = len(groups)
    widest = int(7 // width)
    columns = min(widest, count if count <= 3 else math.ceil(count / 2))
    rows = math.ceil(count / columns)
    size = (max(3.4, width * columns), 0.6 + 1.45 * rows + (0.6 if count == 1 else 0))
    fig = Figure(figsize=size, layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).flat
    panels = []
    for index, (ax, (benchmark, group)) in enumerate(zip(axes, groups, strict=False)):
        ax.set_title(_title(benchmark, size[0] / columns))
        if index + columns >= count:
            ax.tick_params(labelbottom=True)
        panels.append((ax, group))
    for ax in axes[count:]:
        ax.remove()
    return fig, panels


def _title(benchmark: tuple[str, str], width: float) -> str:
    """Returns model and dataset, on two lines if one line of ``width`` inches is too short."""
    one_line = " · ".join(map(display_name, benchmark))
    return one_line if len(one_line) <= 14 * width else one_line.replace(" · ", "\n")


def _covering(group: pd.DataFrame) -> dict[str, int]:
    """Returns for each method how many later ones are drawn where it is."""
    columns = ["compute_ratio", "final_accuracy"]
    means = {method: of[columns].mean().to_numpy() for method, of in _by_method(group)}
    extent = np.ptp(np.array([*means.values()]), axis=0) if means else 0
    near = 0.03 * np.maximum(extent, 0.01)
    order = list(means)
    return {
        method: sum(bool((abs(means[m] - means[method]) <= near).all()) for m in order[i + 1 :])
        for i, method in enumerate(order)
    }


def _by_method(group: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for method in looks_of(group):
        yield method, group[group["method"] == method]


def caveats(group: pd.DataFrame) -> list[str]:
    """Returns remarks on a panel: a metric other than accuracy, and runs that cannot be placed."""
    metrics = [name for name in group["metric"].unique() if name != "accuracy"]
    remarks = [f"Metric: {display_name(name)}" for name in metrics]
    for method, of_method in _by_method(group):
        diverged = (of_method["status"] == "diverged").sum()
        if diverged:
            remarks.append(f"{display_name(method)}: {diverged}/{len(of_method)} diverged")
    alone = group["compute_ratio"].isna() & (group["status"] != "diverged")
    if alone.any():
        remarks.append(f"Without full training: {alone.sum()}/{len(group)}")
    return remarks


def remark(ax: Axes, lines: list[str]) -> None:
    """Adds small lines of text between a panel and its title."""
    ax.set_title(ax.get_title(loc="left"), pad=4 + 7.5 * len(lines))
    place: dict[str, Any] = {
        "xy": (0, 1),
        "xycoords": "axes fraction",
        "textcoords": "offset points",
    }
    ax.annotate("\n".join(lines), **place, xytext=(0, 3), fontsize=6, color="0.35")


def _rows(runs: pd.DataFrame) -> list[pd.Series]:
    return [run for _, run in runs.iterrows()]


def _frozen_steps(run: pd.Series) -> np.ndarray:
    return np.array(list(json.loads(run["frozen"]).values()), dtype=float)


def _frozen_epochs(run: pd.Series) -> list[float]:
    """Returns the epoch at which each layer was frozen, NaN if it never was."""
    frozen = json.loads(run["frozen"])
    steps = [frozen.get(layer, math.nan) for layer in json.loads(run["layers"])]
    return [step / run["steps_per_epoch"] for step in steps]


def _method_handles(looks: dict[str, tuple[str, str]], ls: str) -> list[Line2D]:
    return [
        Line2D([], [], color=color, marker=marker, ls=ls, label=display_name(name), **MEAN_MARKER)
        for name, (color, marker) in looks.items()
    ]
