"""Common style of all figures, and saving them."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.files import replacing
from experiments.methods import METHODS, Method
from experiments.reporting.labels import rank

STYLE: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 7,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "figure.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.5",
    "axes.linewidth": 0.6,
    "xtick.color": "0.5",
    "xtick.labelcolor": "0.2",
    "ytick.color": "0.5",
    "ytick.labelcolor": "0.2",
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,
}


_MARKERS = "osD^vPXhd<>8"


MEAN_MARKER: dict[str, Any] = {"ms": 5.5, "mec": "white", "mew": 0.6}


@rc_context(STYLE)
def save(fig: Figure, path: Path) -> None:
    """Saves a figure as ``path.png`` (200 dpi) and ``path.pdf``, reproducibly to the byte.

    Args:
        fig: The figure.
        path: Path of the files without a suffix; missing folders are created.
    """
    options: dict[str, Any] = {"png": {"dpi": 200}, "pdf": {"metadata": {"CreationDate": None}}}
    for kind, how in options.items():
        with replacing(path.with_name(f"{path.name}.{kind}")) as partial:
            fig.savefig(partial, format=kind, **how)


def look(method: str) -> tuple[str, str]:
    """Returns colour and marker of a method, from the registry."""
    entry = METHODS.get(method, Method(method))
    return entry.color, entry.marker


def looks_of(runs: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Returns colour and marker of each method of the runs, the paper's methods first.

    Variants of a method have its colour, and different markers.
    """
    looks: dict[str, tuple[str, str]] = {}
    for method in sorted(runs["method"].unique(), key=lambda method: (rank(method), method)):
        color, marker = look(method.partition(" ")[0])
        taken = [shape for other, shape in looks.values() if other == color]
        free = [shape for shape in (marker, *_MARKERS) if shape not in taken]
        looks[method] = (color, free[0] if free else marker)
    return looks


def add_legend(fig: Figure, handles: list[Line2D]) -> None:
    """Adds a legend with as many columns as fit; further lines increase the figure's height."""
    widest = 0.45 + 0.055 * max(len(str(handle.get_label())) for handle in handles)
    lines = math.ceil(len(handles) / max(1, fig.get_figwidth() // widest))
    columns = math.ceil(len(handles) / lines)
    fig.set_figheight(fig.get_figheight() + 0.15 * (lines - 1))
    fig.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.0)
