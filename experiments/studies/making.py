"""Execution of a figure's plan: missing runs, the measurement, and the output files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import dry_run, write_text_atomic
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
    """A requested figure.

    Attributes:
        figure: name of the figure.
        scale: a scale of its spec.
        results: the folder of all results.
        predictor: the predictor whose attention is drawn; by default the bundled one.
    """

    figure: str
    scale: str
    results: Path
    predictor: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the figure's files."""
        return self.results / f"{self.figure}-{self.scale}"

    @property
    def runs(self) -> Path:
        """The folder of the run files."""
        return self.results / "runs"

    @property
    def command(self) -> str:
        """The ``make`` command of the figure, which its provenance records."""
        return f"make {self.figure} SCALE={self.scale}"


@dataclass(frozen=True)
class Plan:
    """Steps that produce a figure.

    Attributes:
        configs: the runs of the figure.
        todo: the missing runs, including prerequisites.
        inputs: everything on which the measurement depends.
        measure: executes the missing runs and measures.
        draw: returns the figure and its caption from the measurement.
    """

    configs: list[RunConfig]
    todo: list[RunConfig]
    inputs: Any
    measure: Callable[[], Measurement]
    draw: Callable[[Measurement], tuple[Figure, str]]


def print_dry(request: Request, plan: Callable[[Request], Plan]) -> None:
    """Prints the pending work for a figure and its requirements, or why it cannot be started."""
    with dry_run():
        try:
            planned = plan(request)
        except UserError as error:
            print_refusal(error)
            return
        done = measured(request.folder, planned.inputs) is not None
        print("Measured already." if done else "To be measured.")
        print_todo(planned.configs, [] if done else planned.todo, request.runs)


def make_figure(request: Request, plan: Callable[[Request], Plan]) -> None:
    """Measures if necessary, writes the figure with its caption, and prints the caption.

    Args:
        request: the figure.
        plan: returns the plan of a requested figure.

    Raises:
        UserError: data, weights or recorded runs are missing.
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
