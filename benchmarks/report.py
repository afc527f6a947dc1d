"""Command line and output of the benchmarks."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from benchmarks.workloads import MODELS
from experiments.files import write_text_atomic
from experiments.reporting.labels import display_name
from experiments.reporting.markup import markdown
from experiments.reporting.provenance import single_source
from experiments.reporting.style import save
from experiments.studies.measurement import Measurement, measured_once


def parser(
    benchmark: str, description: str | None, models: Sequence[str] = MODELS
) -> argparse.ArgumentParser:
    """Returns the command-line parser of a benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--models", nargs="+", choices=models, default=list(models))
    made.add_argument("--repeats", type=int, default=9, help="number of timed repeats")
    made.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    made.set_defaults(benchmark=benchmark)
    return made


def present(
    name: str,
    options: argparse.Namespace,
    measure: Callable[[], pd.DataFrame],
    columns: dict[str, str],
    title: str,
    draw: Callable[[pd.DataFrame], Figure] | None = None,
    nan: str = "not run",
) -> None:
    """Measures unless the result exists, writes the table, and prints it.

    Args:
        name: name of the result; its folder is ``results/bench-<name>``, on a GPU followed by the
            GPU's name.
        options: from `parser`.
        measure: returns the frame.
        columns: titles of the columns to show, by column of the frame.
        title: title of the table, as a sentence.
        draw: draws a figure of the frame; optional.
        nan: what the table shows in place of NaN.
    """
    folder = options.results / f"bench-{name}{device_suffix()}"
    inputs = [name, options.models, options.repeats, torch.cuda.is_available()]
    command = (
        f"python -m benchmarks.{options.benchmark} --models {' '.join(options.models)} "
        f"--repeats {options.repeats}"
    )
    made = measured_once(folder, inputs, command, lambda: Measurement({}, {name: measure()}))
    frame = made.frames[name][list(columns)]
    words = [[_word(value, nan) for value in row] for row in frame.itertuples(index=False)]
    caption = f"{title} {single_source(made.facts)}"
    labels = sum(not is_numeric_dtype(frame[column]) for column in frame)
    text = markdown(list(columns.values()), [words], caption, labels)
    write_text_atomic(folder / "table.md", text)
    if draw is not None:
        save(draw(made.frames[name]), folder / name)
    print(text)
    print(f"To measure again, delete {folder}.")


def device_suffix() -> str:
    """Returns the GPU's name as a suffix of names, such as ``-h100-80gb-hbm3``; empty on a CPU."""
    if not torch.cuda.is_available():
        return ""
    return "-" + torch.cuda.get_device_name().removeprefix("NVIDIA ").lower().replace(" ", "-")


def _word(value: object, nan: str) -> str:
    if isinstance(value, float):
        return nan if math.isnan(value) else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else display_name(str(value))
