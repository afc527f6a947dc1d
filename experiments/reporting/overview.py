"""Overview of all results: command, folder, and the runs finished so far."""

from pathlib import Path

import pandas as pd

from experiments.reporting.contents import Section, sections
from experiments.reporting.labels import display_name
from experiments.runs.run_frame import read_csv


def overview(results: Path, scale: str) -> str:
    """Returns a Markdown table of all results, including those not run.

    Args:
        results: the folder of all results.
        scale: scale of the results that have one.
    """
    rows = [
        f"| {each.heading} | `{each.command(scale)}` | `{each.folder(scale)}` | "
        f"{_what_was_run(each, results / each.folder(scale))} |\n"
        for each in sections(results)
    ]
    head = "| Result | Command | Folder in results | Runs |\n| :-- | :-- | :-- | :-- |\n"
    return head + "".join(rows)


def _what_was_run(section: Section, folder: Path) -> str:
    """Returns the number of finished runs of a table, by data set if some are missing."""
    if not folder.is_dir():
        return "not run"
    table = read_csv(folder / "table.csv") if (folder / "table.csv").exists() else pd.DataFrame()
    if "planned" not in table:
        return "available"
    if table["n"].sum() == table["planned"].sum():
        return f"all {table['planned'].sum()}"
    parts = [
        f"{display_name(str(dataset))} {of['n'].sum()} of {of['planned'].sum()}"
        for dataset, of in table.groupby("dataset", sort=False)
    ]
    return ", ".join(parts)
