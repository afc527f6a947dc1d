"""Tables of runs next to the paper's numbers, as pure functions of the frame of runs."""

from collections.abc import Callable, Sequence
from itertools import compress

import pandas as pd

from experiments.reporting.labels import display_name
from experiments.reporting.markup import (
    BLANK,
    NOT_RUN,
    escape_latex,
    escape_markdown,
    joined,
    latex,
    markdown,
    text,
)
from experiments.reporting.provenance import measured_on
from experiments.reporting.remarks import frozen_early, not_learned

COLUMNS = (
    *("model", "dataset", "method", "accuracy_mean", "accuracy_std"),
    *("n", "planned", "diverged", "edited"),
    *("difference_mean", "difference_std", "time_ratio", "compute_ratio", "epochs"),
    *("paper_accuracy", "paper_accuracy_std", "paper_time_ratio", "paper_compute_ratio"),
)
_CELL = ["model", "dataset", "method"]
_COUNTS = ("n", "planned", "diverged", "edited")
_LABELS = 3  # leading text columns of a rendered table


def with_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the comparison of each finished run with full training of the same seed.

    Returns:
        The frame and three more columns. ``difference``: accuracy minus that of full training from
        the same initial weights, in points; pretraining gives different weights on different
        machines. ``time_ratio``: training time relative to full training on the same machine.
        ``compute_ratio``: FLOPs relative to full training on any machine. NaN if there is no such
        full training, and for diverged runs, which stop early.

    Raises:
        ValueError: A model, dataset, method and seed occurs twice.
    """
    frame = frame.reset_index(drop=True)
    _check_unique(frame, [*_CELL, "seed"], "Keep the runs of one scale and machine.")
    finished = frame[frame["status"] == "finished"]
    benchmark = ["model", "dataset", "seed"]
    of_full = of_method("full", finished, "final_accuracy", paired_by(frame))
    return frame.assign(
        difference=100 * (finished["final_accuracy"] - of_full),
        time_ratio=_relative_to_full(finished, "train_seconds", [*benchmark, "machine"]),
        compute_ratio=_relative_to_full(finished, "tflops", benchmark),
    )


def paired_by(frame: pd.DataFrame) -> list[str]:
    """Returns the columns that must be equal in compared runs, with seed and initial weights."""
    return ["model", "dataset", "seed", *(name for name in frame if name.startswith("pretrained_"))]


def of_method(method: str, rows: pd.DataFrame, value: str, keys: list[str]) -> pd.Series:
    """Returns for each row the value of a method's run with the same keys; NaN without one.

    Args:
        method: the method.
        rows: runs, in which a method has each combination of keys at most once.
        value: the value's column.
        keys: the columns that must be equal.
    """
    others = rows.loc[rows["method"] == method, [*keys, value]]
    return rows[keys].merge(others, on=keys, how="left")[value].set_axis(rows.index)


def comparison_table(
    frame: pd.DataFrame,
    planned: Sequence[tuple[str, str, str, int]],
    paper: pd.DataFrame,
) -> pd.DataFrame:
    """Compares methods as the paper's Table 2 does.

    Args:
        frame: Runs; those that are not planned are left out.
        planned: The (model, dataset, method, seed) cells of the table, run or not.
        paper: Rows of ``experiments/specs/paper.csv`` for a single table, each model, dataset and
            method once.

    Returns:
        One row per (model, dataset, method), in planned order, with `COLUMNS`. Accuracies are in
        percent, mean and sample standard deviation over the seeds that did not diverge; ``n``
        counts all runs, including diverged ones. Relative to full training of the same seed, see
        `with_ratios`: mean and sample standard deviation of the differences, median of the times,
        mean of the compute.

    Raises:
        ValueError: The frame or the paper's rows contain a cell twice.
    """
    _check_unique(paper, _CELL, "Keep the rows of one of the paper's tables.")
    runs = with_ratios(frame)
    published = _published(paper)
    seeds: dict[tuple[str, str, str], list[int]] = {}
    for model, dataset, method, seed in planned:
        seeds.setdefault((model, dataset, method), []).append(seed)
    rows = []
    for cell, cell_seeds in seeds.items():
        of_cell = (runs[_CELL] == list(cell)).all(axis=1) & runs["seed"].isin(cell_seeds)
        numbers = _summary(runs[of_cell]) | published.get(cell, {})
        rows.append(dict(zip(_CELL, cell, strict=True), planned=len(cell_seeds), **numbers))
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def shows_time(table: pd.DataFrame) -> bool:
    """Whether a rendered comparison table has a column of times: only beside the paper's times.

    Runs that share a machine slow each other down, so that the ratio of their times says little.
    """
    return bool(table["paper_time_ratio"].notna().any())


def caption(frame: pd.DataFrame, title: str, with_time: bool) -> str:
    """Returns the caption of a table.

    Args:
        frame: The runs of the table.
        title: Its title, as a sentence.
        with_time: Whether it has a column of times, see `shows_time`.
    """
    if frame.empty:
        return f"{title} Nothing has been run yet."
    columns, remark = "Difference (points) and compute (mean)", ""
    if with_time:
        columns = "Difference (points), time (median) and compute (mean)"
        remark = ", time on the same machine, where other runs may have slowed it down"
    return (
        f"{title} Mean ± sample standard deviation over seeds. {columns} are relative to full "
        f"training with the same seed{remark}."
        f"{_other_metrics(frame)}{_other_weights(frame)}{not_learned(frame)}{frozen_early(frame)} "
        f"{measured_on(frame)}"
    )


def _other_weights(frame: pd.DataFrame) -> str:
    """Returns a sentence on runs whose full training started from other weights, if any."""
    if (frame["status"] != "finished").all():
        return ""
    runs = with_ratios(frame)
    apart = runs["compute_ratio"].notna() & runs["difference"].isna()
    if not apart.any():
        return ""
    return f" {apart.sum()} of the runs started from other weights than full training."


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """Returns a comparison table as GitHub Markdown, under its caption.

    The methods of a workload that have no run share its last rows, see `joined`.
    """
    return markdown(*_rendered(table, escape_markdown, joined), caption, _LABELS)


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """Returns a comparison table as a LaTeX float, which needs the package booktabs."""
    return latex(*_rendered(table, escape_latex), caption, _LABELS)


def to_text(table: pd.DataFrame) -> str:
    """Returns a comparison table as plain text."""
    return text(*_rendered(table, str), _LABELS)


def _check_unique(frame: pd.DataFrame, keys: list[str], advice: str) -> None:
    repeated = frame[frame.duplicated(keys)]
    if not repeated.empty:
        cell = ", ".join(f"{key} {repeated.iloc[0][key]}" for key in keys)
        raise ValueError(f"{cell} occurs more than once. {advice}")


def _relative_to_full(rows: pd.DataFrame, cost: str, keys: list[str]) -> pd.Series:
    return rows[cost] / of_method("full", rows, cost, keys)


def _published(paper: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, float]]:
    benchmark = ["model", "dataset"]
    columns = {
        "paper_accuracy": paper["accuracy"],
        "paper_accuracy_std": paper["accuracy_std"],
        "paper_time_ratio": _relative_to_full(paper, "seconds", benchmark),
        "paper_compute_ratio": _relative_to_full(paper, "tflops", benchmark),
    }
    cells = paper[_CELL].itertuples(index=False, name=None)
    return dict(zip(cells, pd.DataFrame(columns).to_dict("records"), strict=True))


def _summary(runs: pd.DataFrame) -> dict[str, float]:
    accuracy = 100 * runs["final_accuracy"]
    return {
        "accuracy_mean": accuracy.mean(),
        "accuracy_std": accuracy.std(ddof=1),
        "difference_mean": runs["difference"].mean(),
        "difference_std": runs["difference"].std(ddof=1),
        "n": len(runs),
        "diverged": int((runs["status"] == "diverged").sum()),
        "edited": int((~runs["is_intact"].astype(bool)).sum()),
        "time_ratio": runs["time_ratio"].median(),
        "compute_ratio": runs["compute_ratio"].mean(),
        "epochs": (runs["steps"] / runs["steps_per_epoch"]).mean(),
    }


def _rendered(
    table: pd.DataFrame,
    escape: Callable[[str], str],
    arranged: Callable[[list[list[str]], int], list[list[str]]] = lambda rows, _: rows,
) -> tuple[list[str], list[list[list[str]]]]:
    """Returns header and formatted rows, grouped by workload, which only the first row names."""
    groups = []
    for _, group in table.groupby(["model", "dataset"], sort=False):
        rows = arranged([_words(row) for _, row in group.iterrows()], _LABELS)
        groups.append([rows[0], *(["", "", *row[2:]] for row in rows[1:])])
    shown = [True] * _LABELS + _shown(table)
    header = ["Model", "Dataset", "Method", "Accuracy (%)", "Difference", "Time", "Compute"]
    header += ["Epochs", "Paper: accuracy (%)", "Paper: time", "Paper: compute"]
    escaped = [[[escape(word) for word in compress(row, shown)] for row in g] for g in groups]
    return [escape(word) for word in compress(header, shown)], escaped


def _shown(table: pd.DataFrame) -> list[bool]:
    """Whether each column after the labels is shown: times and the paper's numbers not always."""
    has_paper, has_time = bool(table["paper_accuracy"].notna().any()), shows_time(table)
    return [True, True, has_time, True, True, has_paper, has_time, has_paper]


def _words(row: pd.Series) -> list[str]:
    return [
        *(display_name(row[key]) for key in _CELL),
        with_remarks(accuracy(row["accuracy_mean"], row["accuracy_std"]), row),
        difference(row),
        number(row["time_ratio"], ".2f"),
        number(row["compute_ratio"], ".2f"),
        number(row["epochs"], ".4g"),
        accuracy(row["paper_accuracy"], row["paper_accuracy_std"]),
        number(row["paper_time_ratio"], ".2f"),
        number(row["paper_compute_ratio"], ".2f"),
    ]


def with_remarks(value: str, row: pd.Series) -> str:
    """Adds remarks on missing, diverged and manually edited runs to a cell.

    Args:
        value: the cell's text.
        row: a row of a comparison table.
    """
    n, planned, diverged, edited = (int(row[key]) for key in _COUNTS)
    if n == 0:
        return f"{NOT_RUN} (0/{planned})"
    partly = f"{n}/{planned}" if n < planned else ""
    failed = f"diverged {diverged}/{n}" if diverged else ""
    changed = f"edited by hand {edited}/{n}" if edited else ""
    value, remarks = (failed, [partly]) if diverged == n else (value, [partly, failed])
    remarks.append(changed)
    notes = ", ".join(filter(None, remarks))
    return f"{value} ({notes})" if notes else value


def difference(row: pd.Series) -> str:
    """Returns a row's difference to full training in points, as text."""
    if row["method"] == "full" or pd.isna(row["difference_mean"]):
        return BLANK
    spread = "" if pd.isna(row["difference_std"]) else f" ± {row['difference_std']:.2f}"
    return f"{row['difference_mean']:+.2f}{spread}".replace("-", "\N{MINUS SIGN}")


def accuracy(mean: float, std: float) -> str:
    """Returns a mean in percent with its sample standard deviation, as text."""
    spread = "" if pd.isna(std) else f" ± {std:.2f}"
    return number(mean, ".2f") + spread


def number(value: float, how: str) -> str:
    """Returns a formatted number; a dash for NaN."""
    return BLANK if pd.isna(value) else format(value, how)


def _other_metrics(frame: pd.DataFrame) -> str:
    others = frame.loc[frame["metric"] != "accuracy", ["dataset", "metric"]].drop_duplicates()
    pairs = others.itertuples(index=False, name=None)
    return "".join(
        f" {display_name(dataset)}: {display_name(metric)}." for dataset, metric in pairs
    )
