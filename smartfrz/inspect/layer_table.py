"""A run as a table of its layers."""

from collections.abc import Sequence

from smartfrz.inspect.run import Run

_HEADER = ("layer", "parameters", "compute", "state", "since step", "probability")


def table(run: Run) -> str:
    """Returns a table of the layers: size, share of the forward pass, state, last probability.

    Below it stand the compute so far, and why freezing saves less time than it could.
    """
    probabilities: dict[str, float] = {}
    for _, values in run.probabilities:
        probabilities |= values
    since = {name: step for step, _, name in run.events}
    frozen = run.frozen
    rows: list[Sequence[str]] = [_HEADER]
    for layer in run.layers:
        name = layer.name
        rows.append(
            (
                name,
                "" if layer.parameters is None else f"{layer.parameters:,}",
                "" if layer.share is None else f"{layer.share:.1%}",
                "head" if layer.is_head else "frozen" if name in frozen else "trains",
                str(since.get(name, "")),
                f"{probabilities[name]:.2f}" if name in probabilities else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(_padded, row, widths, range(len(row)))).rstrip() for row in rows]
    return "\n".join([*lines, _last_line(run), *run.remarks])


def _last_line(run: Run) -> str:
    line = f"{len(run.frozen)} of {len(run.layers)} layers are frozen at step {run.steps}"
    if run.compute_spent is not None and run.steps:
        spent = run.compute_spent / run.steps
        line += f"; compute so far: {spent:.2f} of full training's"
    return line


def _padded(cell: str, width: int, column: int) -> str:
    return f"{cell:>{width}}" if _HEADER[column] not in ("layer", "state") else f"{cell:<{width}}"
