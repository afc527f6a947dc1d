"""A picture of what the wandb workspace shows, drawn from run files without wandb."""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.reporting.labels import display_name, rank
from experiments.reporting.style import STYLE, add_legend, looks_of
from experiments.reporting.tables import with_ratios


@rc_context(STYLE)
def preview(frame: pd.DataFrame) -> Figure:
    """Draws the panels of the workspace for a table's first workload, in the registries' order.

    Curves and bars are means over runs, with the sample standard deviation.

    Args:
        frame: the runs of a table.

    Raises:
        ValueError: no run of the first workload is finished.
    """
    runs = with_ratios(frame[frame["status"] == "finished"])
    if runs.empty:
        raise ValueError("No run of the table is finished: there is nothing to show.")
    workloads = runs[["model", "dataset"]].itertuples(index=False, name=None)
    model, dataset = min(workloads, key=lambda names: [rank(name) for name in names])
    runs = runs[(runs["model"] == model) & (runs["dataset"] == dataset)]
    runs = runs.sort_values("method", key=lambda names: names.map(rank), kind="stable")
    looks = looks_of(runs)
    colors = {method: color for method, (color, _) in looks.items()}
    fig = Figure(figsize=(7, 4.2), layout="constrained")
    axes = fig.subplots(2, 3)
    _final_accuracies(axes[0, 0], runs, looks)
    for ax, (column, title, scale) in zip(axes.flat[1:4], _CURVES, strict=True):
        _curves(ax, runs, column, scale, colors)
        ax.set_title(title)
    _computes(axes[1, 1], runs, colors)
    _layers(axes[1, 2], runs, colors)
    workload = f"{display_name(model)} on {display_name(dataset)}"
    fig.supxlabel(f"{workload}; drawn from run files with matplotlib, not by wandb")
    handles = [Line2D([], [], color=c, label=display_name(method)) for method, c in colors.items()]
    add_legend(fig, handles)
    return fig


_CURVES = (
    ("accuracy", "Accuracy (%)", 100.0),
    ("frozen_fraction", "Layers frozen (%)", 100.0),
    ("loss", "Training loss", 1.0),
)


def _final_accuracies(ax: Axes, runs: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    for method, of in runs.groupby("method", sort=False):
        color, marker = looks[str(method)]
        x, y = of["compute_ratio"], 100 * of["final_accuracy"]
        ax.plot(x, y, marker, color=color, ms=4, mew=0.5, mec="white")
    ax.set_title("Accuracy (%) against compute")


def _curves(
    ax: Axes, runs: pd.DataFrame, column: str, scale: float, colors: dict[str, str]
) -> None:
    for method, of in runs.groupby("method", sort=False):
        curves = [(np.array(x) / x[-1], scale * np.array(y)) for x, y in _points(of, column)]
        grid = np.linspace(max(x[0] for x, _ in curves), 1, 100)
        values = np.array([np.interp(grid, x, y) for x, y in curves])
        mean, color = values.mean(axis=0), colors[str(method)]
        ax.plot(grid, mean, color=color, lw=1.1)
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
        ax.fill_between(grid, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
    ax.set_xlabel("Progress through the run")


def _points(runs: pd.DataFrame, column: str) -> Iterator[tuple[list[int], list[float]]]:
    for steps, values in zip(runs["eval_steps"], runs[column], strict=True):
        yield json.loads(steps), json.loads(values)


def _computes(ax: Axes, runs: pd.DataFrame, colors: dict[str, str]) -> None:
    computes = runs.groupby("method", sort=False)["compute_ratio"].mean()
    names = [str(method) for method in computes.index]
    ax.bar(range(len(names)), computes, color=[colors[name] for name in names], width=0.7)
    ax.set_xticks([])
    ax.set_title("Compute, fraction of full training's")


def _layers(ax: Axes, runs: pd.DataFrame, colors: dict[str, str]) -> None:
    """Draws which layers of one run froze when: SmartFRZ's if there is one."""
    own = runs[runs["method"].str.startswith("smartfrz")]
    run = (own if len(own) else runs).iloc[0]
    layers, frozen = json.loads(run["layers"]), json.loads(run["frozen"])
    trained = [frozen.get(name, run["steps"]) for name in layers]
    rows = range(1, len(layers) + 1)
    ax.barh(rows, trained, height=1.0, color=colors[run["method"]], lw=0)
    ax.barh(rows, run["steps"] - np.array(trained), left=trained, height=1.0, color="0.88", lw=0)
    ax.set(ylim=(len(layers) + 0.5, 0.5), xlim=(0, run["steps"]), xlabel="Step")
    ax.set_title(f"Layers of {display_name(run['method'])}, frozen: grey")
    ax.grid(visible=False)
