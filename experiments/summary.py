"""All workloads of the paper's comparisons in one table: what methods lose, and what they cost."""

from pathlib import Path

import pandas as pd

from experiments.markup import escape_markdown, markdown
from experiments.names import display_name
from experiments.results import read_csv
from experiments.tables import distinct

TABLES = {"table2": "", "table3": ", from scratch", "table6": "", "table7": ", from scratch"}
"""Those in which methods are compared, and what their networks start from."""
METHODS = ("smartfrz", "linear", "autofreeze", "shorter")


def summary(results: Path, scale: str) -> str:
    """The workloads that were run, a row each, in Markdown.

    Args:
        results: the folder of all results.
        scale: of the tables.
    """
    starts = {results / f"{name}-{scale}": start for name, start in TABLES.items()}
    drawn = [folder for folder in starts if (folder / "table.csv").exists()]
    rows = [row for folder in drawn for row in _rows(folder, starts[folder])]
    header = ["Workload", *(display_name(method) for method in ("full", *METHODS))]
    return markdown(header, [rows], _caption(drawn), labels=1)


def _rows(folder: Path, start: str) -> list[list[str]]:
    rows = []
    cells = read_csv(folder / "table.csv")
    for (model, dataset), of in cells.groupby(["model", "dataset"], sort=False):
        methods = of.set_index("method")
        if methods["n"]["full"]:
            name = f"{display_name(str(model))} on {display_name(str(dataset))}{start}"
            others = (_cell(methods.loc[m]) if m in methods.index else "not run" for m in METHODS)
            rows.append([escape_markdown(name), _full(methods.loc["full"]), *others])
    return rows


def _full(row: pd.Series) -> str:
    return f"{row['accuracy_mean']:.2f}{_spread(row['accuracy_std'])}"


def _cell(row: pd.Series) -> str:
    """What a method gains or loses, and the part of the compute that it spends."""
    if not row["n"]:
        return "not run"
    lost = f"{row['difference_mean']:+.2f}{_spread(row['difference_std'])}"
    seeds = f" ({row['n']}/{row['planned']})" if row["n"] < row["planned"] else ""
    return f"{lost} at {row['compute_ratio']:.2f}{seeds}".replace("-", "\N{MINUS SIGN}")


def _spread(std: float) -> str:
    return "" if pd.isna(std) else f" ± {std:.2f}"


def _caption(folders: list[Path]) -> str:
    if not folders:
        return "Nothing has been run yet."
    runs = pd.concat([read_csv(folder / "runs.csv") for folder in folders])
    return (
        "Accuracy of full training in percent (CoLA: Matthews correlation), and of the others the "
        "difference beside it, in points, at the part of its compute that they spend: means and "
        f"sample standard deviations over seeds {', '.join(distinct(runs['seed']))}. Measured: "
        f"machine {' and '.join(distinct(runs['machine']))}; torch "
        f"{' and '.join(distinct(runs['torch']))}; command "
        f"{' and '.join(distinct(runs['command']))}; commits in each table's own caption."
    )
