"""Making a figure: its runs and its measurement where they are missing, its files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.config import RunConfig
from experiments.files import write_text_atomic
from experiments.reporting import style
from experiments.reporting.provenance import single_source
from experiments.studies.measurement import (
    Measurement,
    measured,
    measured_once,
)
from experiments.tables.dry_run import print_refusal, print_todo


@dataclass(frozen=True)
class Request:
    """A figure that is asked for.

    Attributes:
        figure: the figure's name.
        scale: a scale of its spec.
        results: the folder of all results.
        predictor: whose attention is drawn; by default the bundled one's.
    """

    figure: str
    scale: str
    results: Path
    predictor: str | None = None

    @property
    def folder(self) -> Path:
        """Where it is written to."""
        return self.results / f"{self.figure}-{self.scale}"

    @property
    def runs(self) -> Path:
        """The folder of the run files."""
        return self.results / "runs"

    @property
    def command(self) -> str:
        """What makes it, for the record."""
        return f"make {self.figure} SCALE={self.scale}"


@dataclass(frozen=True)
class Plan:
    """How a figure is made.

    Attributes:
        configs: the runs that it is about.
        todo: what is to be run first.
        inputs: all that its measurement depends on.
        measure: does the runs and measures.
        draw: makes the figure and its caption of what was measured.
    """

    configs: list[RunConfig]
    todo: list[RunConfig]
    inputs: Any
    measure: Callable[[], Measurement]
    draw: Callable[[Measurement], tuple[Figure, str]]


def print_dry(request: Request, plan: Callable[[Request], Plan]) -> None:
    """Prints what there is to do for a figure, and whether all that it needs is here."""
    try:
        planned = plan(request)
    except ValueError as error:
        print_refusal(error)
        return
    done = measured(request.folder, planned.inputs) is not None
    print("Measured already." if done else "To be measured.")
    print_todo(planned.configs, [] if done else planned.todo, request.runs)


def make_figure(request: Request, plan: Callable[[Request], Plan]) -> None:
    """Measures what is missing, draws the figure with its caption, and shows what there is.

    Args:
        request: the figure.
        plan: how it is made.

    Raises:
        ValueError: what it is made from is missing.
    """
    planned = plan(request)
    made = measured_once(request.folder, planned.inputs, request.command, planned.measure)
    figure, text = planned.draw(made)
    text = f"{text} {single_source(made.facts)}"
    style.save(figure, request.folder / request.figure)
    picture = f"![{request.figure}]({request.figure}.png)"
    write_text_atomic(request.folder / f"{request.figure}.md", f"{picture}\n\n{text}\n")
    print(text)
    print("\n".join(str(file) for file in sorted(request.folder.iterdir())))
    print(f"To measure again, delete {request.folder}.")
