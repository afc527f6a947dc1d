"""Overview of all results: command, folder, and the runs finished so far."""

from pathlib import Path

import pandas as pd

from experiments.reporting.contents import Section, sections
from experiments.reporting.labels import display_name
from experiments.reporting.markup import BLANK
from experiments.runs.run_frame import read_csv


def overview(results: Path, scale: str) -> str:
    """Returns a Markdown table of all results, including those not run.

    Args:
        results: the folder of all results.
        scale: scale of the results that have one.
    """
    found = sections(results)
    rows = [
        f"| {each.heading} | `{each.command(scale)}` | `{each.folder(scale)}` | "
        f"{_what_was_run(each, results / each.folder(scale))} | "
        f"{_as_text(_hours(results / each.folder(scale)).sum())} |\n"
        for each in found
    ]
    head = "| Result | Command | Folder in results | Runs | Hours |\n"
    head += "| :-- | :-- | :-- | :-- | --: |\n"
    hours = pd.concat([_hours(results / each.folder(scale)) for each in found])
    total = _as_text(hours[~hours.index.duplicated()].sum())
    return f"{head}{''.join(rows)}\n{_HOURS.format(total)}\n"


_HOURS = (
    "Hours: training and evaluation of the runs of a table, one after the other, on the machines "
    "that its caption names; all runs together, those that tables share once: {}. Pretraining is "
    "not included."
)


def _hours(folder: Path) -> pd.Series:
    """Returns the hours of each run of a table, by the run's id; empty for other results."""
    if not _is_table(folder) or not (folder / "runs.csv").exists():
        return pd.Series(dtype=float)
    runs = read_csv(folder / "runs.csv").set_index("id")
    return runs[["train_seconds", "eval_seconds"]].sum(axis=1) / 3600


def _is_table(folder: Path) -> bool:
    """Whether a folder holds a table of runs."""
    return (folder / "table.csv").exists() and "planned" in read_csv(folder / "table.csv")


def _as_text(hours: float) -> str:
    return f"{hours:.1f}" if hours else BLANK


def _what_was_run(section: Section, folder: Path) -> str:
    """Returns the number of finished runs of a table, by data set if some are missing."""
    if not folder.is_dir():
        return "not run"
    if not _is_table(folder):
        return "available"
    table = read_csv(folder / "table.csv")
    if table["n"].sum() == table["planned"].sum():
        return f"all {table['planned'].sum()}"
    parts = [
        f"{display_name(str(dataset))} {of['n'].sum()} of {of['planned'].sum()}"
        for dataset, of in table.groupby("dataset", sort=False)
    ]
    return ", ".join(parts)
