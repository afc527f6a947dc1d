"""A run as a picture of its decisions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smartfrz.inspect.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(run: Run) -> "Figure":
    """Draws the probabilities of all layers over time, freezes and thaws, and the compute spent.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The plot needs matplotlib: pip install matplotlib.") from error
    names = [layer.name for layer in run.layers if not layer.is_head]
    figure = Figure(figsize=(8, 2 + 0.18 * len(names)), layout="constrained")
    heights = [1 + 0.18 * len(names), 1.2]
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _draw_probabilities(above, run, names)
    if run.step_costs:
        below.plot(*_spent_over_time(run), color="black")
    else:
        below.text(0.5, 0.5, "not counted", ha="center", transform=below.transAxes)
    below.set(xlabel="step", ylabel="compute spent\n(full steps)", xlim=(0, max(1, run.steps)))
    return figure


def _draw_probabilities(axes: Any, run: Run, names: Sequence[str]) -> None:
    row = {name: number for number, name in enumerate(names)}
    decisions = [(step, values) for step, values in run.probabilities if values]
    if decisions:
        starts = [step for step, _ in decisions]
        edges = [*starts, 2 * starts[-1] - starts[-2] if len(starts) > 1 else starts[-1] + 1]
        cells = [[values.get(name, float("nan")) for _, values in decisions] for name in names]
        rows = [number - 0.5 for number in range(len(names) + 1)]
        mesh = axes.pcolormesh(edges, rows, cells, vmin=0, vmax=1, cmap="cividis")
        axes.figure.colorbar(mesh, ax=axes, label="probability")
    for kind, marker, color in (("freeze", "|", "tab:orange"), ("thaw", "o", "tab:blue")):
        points = [(step, row[name]) for step, what, name in run.events if what == kind]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=color, label=kind)
    if run.events:
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.12), ncols=2, frameon=False)
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(axis="y", labelsize=6)


def _spent_over_time(run: Run) -> tuple[list[int], list[float]]:
    """Returns the steps at which the pace changes, and the compute spent until then."""
    # The step of a freeze itself counts in full.
    changes = {min(step + (what == "freeze"), run.steps) for step, what, _ in run.events}
    steps = sorted({0, *changes, run.steps})
    return steps, [run.compute_until(step) for step in steps]
