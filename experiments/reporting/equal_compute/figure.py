"""The figure of a table of methods at several computes."""

from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.reporting.equal_compute.rows import method_and_compute
from experiments.reporting.figures import caveats, panels, remark
from experiments.reporting.labels import display_name
from experiments.reporting.style import STYLE, add_legend, looks_of
from experiments.reporting.tables import with_ratios

OURS = "smartfrz"
_SPREAD = 7.5
"""Width, in percent of full training's compute, over which methods at one compute are spread."""
_FULL: dict[str, dict[str, Any]] = {
    "full": {"color": "0.25", "lw": 0.9, "ls": (0, (4, 2))},
    "full same rate": {"color": "0.25", "lw": 0.9, "ls": (0, (1, 1.5))},
}


@rc_context(STYLE)
def accuracy_at_several_computes(frame: pd.DataFrame) -> Figure:
    """Draws the mean accuracy of each method against its compute, a panel per workload.

    A line joins a method's means; methods at the same compute stand side by side. SmartFRZ is
    thick, with the sample standard deviation. Horizontal lines are means of full training.

    Raises:
        ValueError: The frame is empty or contains a cell twice.
    """
    runs = with_ratios(frame)
    split = [method_and_compute(row) for row in runs["method"]]
    runs["method"], runs["target"] = zip(*split, strict=True)
    looks = {name: look for name, look in looks_of(runs).items() if name not in _FULL}
    looks = {name: looks[name] for name in sorted(looks, key=lambda name: name != OURS)}
    shifts = _shifts(list(looks))
    fig, drawn = panels(runs, width=2.3, sharex=True)
    for ax, group in drawn:
        remark(ax, caveats(group))
        placed = group.dropna(subset=["compute_ratio"])
        for name, style in _FULL.items():
            if (of := placed[placed["method"] == name]).size:
                ax.axhline(100 * of["final_accuracy"].mean(), **style, zorder=1.5)
        for name, look in looks.items():
            _draw(ax, placed[placed["method"] == name], shifts[name], *look)
        ax.margins(0.06, 0.1)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
        ax.set_xticks([100 * each for each in sorted(runs["target"].dropna().unique())])
        ax.grid(visible=False, axis="x")
    fig.supxlabel("Compute (% of full training; methods at the same compute side by side)")
    fig.supylabel("Accuracy (%)")
    add_legend(fig, _handles(looks, set(runs["method"])))
    return fig


def _shifts(names: list[str]) -> dict[str, float]:
    """Returns a horizontal shift for each method, so that SmartFRZ stands in the middle."""
    others = [name for name in names if name != OURS]
    middle = len(others) // 2
    # Beside SmartFRZ's large marker is a gap.
    slots = [i - middle + (1.6 if i >= middle else -0.6) for i in range(len(others))]
    step = _SPREAD / max(8, len(others))
    return {OURS: 0.0, **{name: step * slot for name, slot in zip(others, slots, strict=True)}}


def _draw(ax: Axes, runs: pd.DataFrame, shift: float, color: str, marker: str) -> None:
    if runs.empty:
        return
    name, by_compute = runs["method"].iloc[0], runs.groupby("target")
    x = 100 * by_compute["compute_ratio"].mean() + shift
    y = 100 * by_compute["final_accuracy"].mean()
    if name == OURS:
        bars = 100 * by_compute["final_accuracy"].std()
        ax.errorbar(x, y, bars, fmt="none", ecolor=color, elinewidth=1, zorder=2.9)
    ax.plot(x, y, color=color, marker=marker, label=name, **_style(name, marker))


def _handles(looks: dict[str, tuple[str, str]], names: set[str]) -> list[Line2D]:
    full = [
        Line2D([], [], **style, label=display_name(name))
        for name, style in _FULL.items()
        if name in names
    ]
    methods = [
        Line2D([], [], color=color, marker=marker, label=_label(name), **_style(name, marker))
        for name, (color, marker) in looks.items()
    ]
    return full + methods


def _label(name: str) -> str:
    return display_name(name) + (" ± standard deviation" if name == OURS else "")


def _style(name: str, marker: str) -> dict[str, Any]:
    """Returns the style of a method's line: SmartFRZ is thick and on top."""
    if name == OURS:
        return {"lw": 1.8, "ms": 6, "mec": "white", "mew": 0.7, "zorder": 3}
    if marker.startswith("$"):  # a letter, which a white edge would cover
        return {"lw": 0.6, "ms": 5.5, "mew": 0.5, "zorder": 2}
    size = 6.5 if marker == "*" else 4.2  # the star's surface is small for its diameter
    return {"lw": 0.6, "ms": size, "mec": "white", "mew": 0.3, "zorder": 2}
