"""A freezer's state as a table, and as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smartfrz.cost import compute_spent
from smartfrz.sharding import sharded_modules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from smartfrz.freezer import Freezer

_HEADER = ("layer", "parameters", "compute", "state", "since step", "probability")


def table(freezer: "Freezer") -> str:
    """Returns a table of the layers: size, share of the forward pass, state, last probability.

    The compute is left out where it cannot be counted: if the inputs of the model cannot be
    guessed, or if it is sharded and has not been counted yet, which all processes would have to do.
    """
    shares = _shares(freezer)
    probabilities: dict[str, float] = {}
    for _, values in _decisions(freezer):
        probabilities |= values
    since = {name: step for step, _, name in freezer.events}
    rows: list[Sequence[str]] = [_HEADER]
    for layer in freezer.layers:
        name = layer.name
        state = "head" if layer.is_head else "frozen" if name in freezer.frozen else "trains"
        rows.append(
            (
                name,
                f"{sum(param.numel() for param in layer.params):,}",
                f"{shares[name]:.1%}" if name in shares else "",
                state,
                str(since.get(name, "")),
                f"{probabilities[name]:.2f}" if name in probabilities else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(_padded, row, widths, range(len(row)))).rstrip() for row in rows]
    return "\n".join([*lines, _last_line(freezer, bool(shares))])


def plot(freezer: "Freezer") -> "Figure":
    """Draws the probabilities of all layers over time, freezes and thaws, and the compute spent.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Freezer.plot needs matplotlib: pip install matplotlib.") from error
    names = [layer.name for layer in freezer.layers if not layer.is_head]
    figure = Figure(figsize=(8, 2 + 0.18 * len(names)), layout="constrained")
    heights = [1 + 0.18 * len(names), 1.2]
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _draw_probabilities(above, freezer, names)
    below.plot(*_spent_over_time(freezer), color="black")
    below.set(xlabel="step", ylabel="compute spent\n(full steps)", xlim=(0, max(1, freezer.steps)))
    return figure


def _draw_probabilities(axes: Any, freezer: "Freezer", names: Sequence[str]) -> None:
    row = {name: number for number, name in enumerate(names)}
    decisions = [(step, values) for step, values in _decisions(freezer) if values]
    if decisions:
        starts = [step for step, _ in decisions]
        edges = [*starts, 2 * starts[-1] - starts[-2] if len(starts) > 1 else starts[-1] + 1]
        cells = [[values.get(name, float("nan")) for _, values in decisions] for name in names]
        rows = [number - 0.5 for number in range(len(names) + 1)]
        mesh = axes.pcolormesh(edges, rows, cells, vmin=0, vmax=1, cmap="cividis")
        axes.figure.colorbar(mesh, ax=axes, label="probability")
    for kind, marker, color in (("freeze", "|", "tab:orange"), ("thaw", "o", "tab:blue")):
        points = [(step, row[name]) for step, what, name in freezer.events if what == kind]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=color, label=kind)
    if freezer.events:
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.12), ncols=2, frameon=False)
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(axis="y", labelsize=6)


def _spent_over_time(freezer: "Freezer") -> tuple[list[int], list[float]]:
    """Returns the steps at which the pace changes, and the compute spent until then."""
    # The step of a freeze itself counts in full.
    changes = {min(step + (what == "freeze"), freezer.steps) for step, what, _ in freezer.events}
    steps = sorted({0, *changes, freezer.steps})
    return steps, [compute_spent(freezer.events, step, freezer.costs) for step in steps]


def _decisions(freezer: "Freezer") -> Sequence[tuple[int, dict[str, float]]]:
    """Returns the steps of the policy's decisions with the layers' probabilities, if it has any."""
    return getattr(freezer.policy, "probabilities", ())


def _shares(freezer: "Freezer") -> dict[str, float]:
    """Returns the share of each layer's products in the forward pass, by name."""
    if "costs" not in vars(freezer) and sharded_modules(freezer.model):
        return {}
    try:
        costs = freezer.costs
    except ValueError:  # unknown inputs
        return {}
    return {layer.name: costs.share(layer.name) for layer in freezer.layers}


def _last_line(freezer: "Freezer", is_counted: bool) -> str:
    line = (
        f"{len(freezer.frozen)} of {len(freezer.layers)} layers are frozen at step {freezer.steps}"
    )
    if is_counted and freezer.steps:
        spent = freezer.compute_spent / freezer.steps
        line += f"; compute so far: {spent:.2f} of full training's"
    return line


def _padded(cell: str, width: int, column: int) -> str:
    return f"{cell:>{width}}" if _HEADER[column] not in ("layer", "state") else f"{cell:<{width}}"
