"""Figures of the benchmarks."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.reporting.labels import display_name
from experiments.reporting.style import STYLE, look

_KINDS = [("0.55", "o"), *(look(name) for name in ("linear", "autofreeze", "smartfrz", "random"))]
"""Colours and markers of the kinds of steps."""

_OURS, _LEAN, _STOCK = look("smartfrz")[0], look("linear")[0], "0.55"


@rc_context(STYLE)
def time_against_compute(frame: pd.DataFrame) -> Figure:
    """Draws step time against compute, both relative to full training; dashed: equal savings.

    Args:
        frame: from `benchmarks.step_time.measure`.
    """
    models = list(dict.fromkeys(frame["model"]))
    fig = Figure(figsize=(7, 1.9), layout="constrained")
    axes = fig.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
    for ax, model in zip(axes, models, strict=True):
        ax.plot([0.4, 1], [0.4, 1], "--", color="0.7", lw=0.8)
        for layout, marker in (("prefix", "o"), ("scattered", "^")):
            rows = frame[(frame["model"] == model) & (frame["layout"] == layout)]
            for name, colour in (("stock", _STOCK), ("ours", _OURS)):
                label = f"{'PyTorch' if name == 'stock' else 'Ours'}, {layout}"
                times = rows[f"{name}_over_full"]
                ax.plot(rows["compute"], times, marker, color=colour, ms=3.5, label=label)
        ax.set_title(display_name(model))
    fig.supxlabel("Compute / full training")
    fig.supylabel("Step time / full training")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=4)
    return fig


@rc_context(STYLE)
def time_by_kind(frame: pd.DataFrame) -> Figure:
    """Draws step time against compute for each kind of step, both relative to nothing frozen.

    Args:
        frame: from `benchmarks.compiled_steps.measure`.
    """
    models, sizes = (list(dict.fromkeys(frame[name])) for name in ("model", "batch_size"))
    fig = Figure(figsize=(7, 1.6 * len(sizes) + 0.3), layout="constrained")
    grid = fig.subplots(len(sizes), len(models), sharex=True, sharey=True, squeeze=False)
    kinds = list(dict.fromkeys(frame["kind"]))
    for (size, model), ax in zip(product(sizes, models), grid.flat, strict=True):
        ax.plot([0, 1], [0, 1], "--", color="0.7", lw=0.8, label="Equal savings")
        for kind, (color, marker) in zip(kinds, _KINDS, strict=False):
            rows = frame[
                (frame[["model", "batch_size", "kind"]] == [model, size, kind]).all(axis=1)
            ]
            ax.plot(rows["compute"], rows["over_full"], marker, color=color, ms=3.5, label=kind)
        ax.set_title(f"{display_name(model)}, batch {size}")
    fig.supxlabel("Compute / full training")
    fig.supylabel("Step time / nothing frozen")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    return fig


@rc_context(STYLE)
def kept_memory(frame: pd.DataFrame) -> Figure:
    """Draws the memory saved for the backward pass relative to full training, as bars.

    Args:
        frame: from `benchmarks.saved_activations.measure`.
    """
    kinds = list(dict.fromkeys(frame["frozen"]))
    fig = Figure(figsize=(7, 1.9 * len(kinds)), layout="constrained")
    axes = fig.subplots(len(kinds), 1, sharey=True, squeeze=False)[:, 0]
    bars = [("stock", "PyTorch", _STOCK), ("memsave", "memsave-torch", _LEAN)]
    bars = [each for each in bars if frame[each[0]].notna().any()] + [("ours", "Ours", _OURS)]
    for ax, kind in zip(axes, kinds, strict=True):
        rows = frame[frame["frozen"] == kind]
        places = np.arange(len(rows))
        for i, (name, label, colour) in enumerate(bars):
            offset = 0.27 * (i - (len(bars) - 1) / 2)
            ax.bar(places + offset, rows[name] / rows["full"], 0.25, color=colour, label=label)
        ax.set_xticks(places, [display_name(model) for model in rows["model"]])
        ax.set_title(f"Frozen: {kind}")
        ax.grid(axis="x", visible=False)
        ax.set_ylabel("Memory / full training")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(bars))
    return fig
