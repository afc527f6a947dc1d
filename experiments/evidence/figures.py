"""Figures of the comparison of convergence predictors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.evidence.scores import BUNDLED
from experiments.evidence.simple_predictors import REGRESSIONS
from experiments.predictor.metrics import BINS
from experiments.reporting.style import STYLE, look

_FAMILY_LOOKS = (
    *(("#0072B2", "^"), ("#E69F00", "D"), ("#CC79A7", "v"), ("#56B4E9", "s")),
    *(("#D55E00", "P"), ("#F0E442", "X")),
)
_OURS, _GREY = look("smartfrz")[0], "0.6"
_DASHED: dict[str, Any] = {"color": _GREY, "lw": 0.7, "ls": (0, (4, 3)), "zorder": 0.9}
_SHOWN = {
    BUNDLED: (_OURS, "o"),
    **dict(zip(REGRESSIONS, map(look, ("random", "linear", "autofreeze", "paced")), strict=True)),
    "last displacement": look("displacement"),
}
"""Candidates in the figure of tolerances, with colour and marker."""


@rc_context(STYLE)
def by_candidate(candidates: pd.DataFrame, families: Sequence[str], metric: str) -> Figure:
    """Draws each candidate's metric per family; below in black, the mean and its interval.

    Args:
        candidates: from `Comparison.candidates`.
        families: families in the order of the legend.
        metric: the metric's name, an AUROC or a concordance.
    """
    fig = Figure(figsize=(5.2, 0.75 + 0.24 * len(candidates)), layout="constrained")
    ax = fig.subplots()
    rows = np.arange(len(candidates))
    for family, (color, marker) in zip(families, _FAMILY_LOOKS, strict=False):
        look: dict[str, Any] = {"ls": "none", "marker": marker, "color": color, "mew": 0}
        ax.plot(candidates[family], rows - 0.12, **look, ms=4, alpha=0.8, label=family)
    mean, half = candidates["mean"], candidates["interval"].fillna(0)
    black: dict[str, Any] = {"color": "black", "ls": "none", "marker": "d", "ms": 3, "mew": 0}
    ax.errorbar(mean, rows + 0.26, xerr=half, **black, elinewidth=0.9, label="Mean, 95% interval")
    ax.axvline(0.5, **_DASHED)
    ax.set(xlabel=metric, xlim=(None, 1), ylim=(len(rows) - 0.4, -0.6), yticks=rows)
    ax.set_yticklabels(candidates["candidate"])
    _legend(fig, ax.get_legend_handles_labels()[0])
    return fig


@rc_context(STYLE)
def tolerances(by_tolerance: pd.DataFrame, families: Sequence[str], bundled: float) -> Figure:
    """Draws the AUROC and the rate of the label "freeze" against the label's tolerance.

    Args:
        by_tolerance: from `Comparison.tolerances`.
        families: families over which the means are taken.
        bundled: tolerance of the bundled predictor.
    """
    fig = Figure(figsize=(5.6, 2.4), layout="constrained")
    left, right = fig.subplots(1, 2)
    for name, (color, marker) in _SHOWN.items():
        rows = by_tolerance[by_tolerance["candidate"] == name]
        line: dict[str, Any] = {"color": color, "marker": marker, "ms": 4, "mec": "white"}
        left.plot(rows["tolerance"], rows["mean"], **line, mew=0.5, lw=1.2, label=name)
    rule = by_tolerance[by_tolerance["candidate"] == "last displacement"]
    rate = 100 * rule["positive_rate"]
    right.plot(rule["tolerance"], rate, color="black", marker="o", ms=3, lw=1.2)
    for ax in (left, right):
        ax.axvline(bundled, **_DASHED)
        ax.set(xscale="log", xlabel="Tolerance of the label", xticks=rule["tolerance"])
        ax.set_xticklabels([f"{each:g}" for each in rule["tolerance"]])
        ax.minorticks_off()
    left.set(title=f"Mean over {len(families)} families", ylabel="AUROC")
    right.set(title='Labelled "freeze"', ylabel="Examples (%)", ylim=(0, 100))
    _legend(fig, left.get_legend_handles_labels()[0])
    return fig


@rc_context(STYLE)
def reliability(
    bins: Mapping[str, Sequence[tuple[int, float, float]]], errors: Mapping[str, float]
) -> Figure:
    """Draws reliability diagrams of the bundled predictor, one panel per family.

    Args:
        bins: bins of each family, see `experiments.predictor.metrics.reliability`.
        errors: calibration error of each family.
    """
    fig = Figure(figsize=(max(3.4, 1.75 * len(bins)), 2.3), layout="constrained")
    panels = fig.subplots(1, len(bins), squeeze=False, sharex=True, sharey=True).flat
    for ax, (family, found) in zip(panels, bins.items(), strict=True):
        ax.plot([0, 1], [0, 1], **_DASHED)
        if found:
            count, probability, rate = np.array(found, dtype=float).T
            middles = ((probability * BINS).astype(int).clip(max=BINS - 1) + 0.5) / BINS
            ax.bar(middles, count / count.sum(), 0.8 / BINS, color="0.82", label="Examples")
            line: dict[str, Any] = {"marker": "o", "ms": 3.5, "mec": "white", "mew": 0.5}
            label = 'Labelled "freeze"'
            ax.plot(probability, rate, color=_OURS, **line, lw=1, clip_on=False, label=label)
        ax.set_title(f"{family}: error {errors[family]:.3f}" if found else f"{family}: not run")
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_xticklabels(["0", "0.5", "1"])
    fig.supxlabel('Probability of "freeze"')
    fig.supylabel("Share")
    _legend(fig, next((x for ax in fig.axes if (x := ax.get_legend_handles_labels()[0])), []))
    return fig


def _legend(fig: Figure, handles: Sequence[Any]) -> None:
    if handles:
        columns = min(len(handles), 4)
        fig.legend(handles=list(handles), loc="outside upper center", ncols=columns)
