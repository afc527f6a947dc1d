"""Tables of the comparison of convergence predictors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from experiments.evidence.scores import BUNDLED, Comparison
from experiments.evidence.simple_predictors import REGRESSIONS, RIVAL, RULES
from experiments.reporting.markup import BLANK, escape_latex, escape_markdown, latex, markdown
from experiments.reporting.provenance import measured_on

NOT_RUN = "not run"


@dataclass(frozen=True)
class Column:
    """A column of numbers in a table.

    Attributes:
        title: the column's title.
        key: the column of the frame.
        best: selects the number set in bold; by default none.
        how: format of the numbers.
    """

    title: str
    key: str
    best: Callable[[pd.Series], float] | None = None
    how: str = ".3f"


@dataclass(frozen=True)
class Table:
    """A table made from a frame of `summary`.

    Attributes:
        frame: the frame, as written to CSV.
        labels: titles of the leading text columns, by column of the frame.
        columns: the columns of numbers.
        caption: the caption.
    """

    frame: pd.DataFrame
    labels: dict[str, str]
    columns: Sequence[Column]
    caption: str

    def to_markdown(self) -> str:
        """Returns the table as GitHub Markdown."""
        return markdown(*self._rendered(escape_markdown, "**{}**"), self.caption, len(self.labels))

    def to_latex(self) -> str:
        """Returns the table as a LaTeX float, which needs the package booktabs."""
        cells = self._rendered(escape_latex, r"\textbf{{{}}}")
        return latex(*cells, self.caption, len(self.labels))

    def _rendered(
        self, escape: Callable[[str], str], bold: str
    ) -> tuple[list[str], list[list[list[str]]]]:
        """Returns the header and the formatted rows, grouped by kind."""
        columns = self.columns
        best = [c.best and format(c.best(self.frame[c.key]), c.how) for c in columns]
        groups: dict[str, list[list[str]]] = {}
        for _, row in self.frame.iterrows():
            words = [_word(row, column) for column in columns]
            cells = [
                (bold.format(word) if word == best_word else escape(word)) + escape(_spread(row, c))
                for word, best_word, c in zip(words, best, columns, strict=True)
            ]
            labels = [escape(str(row[key])) for key in self.labels]
            groups.setdefault(row.get("kind", ""), []).append([*labels, *cells])
        header = [*self.labels.values(), *(column.title for column in columns)]
        return [escape(word) for word in header], list(groups.values())


def pooled_title(comparison: Comparison) -> str:
    """Returns the name of the metric that pools layers and moments, see `Comparison.pooled`."""
    return "AUROC" if comparison.pooled == "auroc" else "concordance"


def gains(comparison: Comparison) -> Table:
    """Returns the main table: the error within a moment relative to the rival's."""
    frame = comparison.candidates("within_moment")
    relative = comparison.relative_errors("within_moment").loc[frame["candidate"]]
    families = list(comparison.families)
    frame[[*families, "relative"]] = relative[[*families, "mean"]].to_numpy()
    frame.insert(0, "kind", [_kind(name) for name in frame["candidate"]])
    return Table(
        frame,
        {"kind": "Kind", "candidate": "Candidate"},
        [
            *(Column(name, name, pd.Series.min, ".2f") for name in comparison.families),
            Column("Mean", "relative", pd.Series.min, ".2f"),
            Column("Within a moment", "within_moment", pd.Series.max),
            Column("Within a layer", "within_layer", pd.Series.max),
            Column(pooled_title(comparison), comparison.pooled, pd.Series.max),
            Column("Fine-tuning", "calibration_error_fine_tuning", pd.Series.min),
            Column("From scratch", "calibration_error_scratch", pd.Series.min),
        ],
        "Convergence predictors on network families unseen in training, at "
        f"{_pace_and_label(comparison)}. For each family, and for the mean over families, the "
        "error within a moment (the fraction of pairs of layers at the same record of a run that "
        f"are ranked wrongly) relative to that of the regression on {RIVAL}, fitted on the same "
        "runs: below 1 is better. Then concordances, means over families: of layers at the same "
        "record, of records of the same layer, and of both. Last, the calibration error in "
        f"fine-tuning and in training from scratch. {measured_on(comparison.scores)}",
    )


def candidates(comparison: Comparison) -> Table:
    """Returns the table of the pooled metric of all predictors, regressions and rules."""
    frame = comparison.candidates()
    frame.insert(0, "kind", [_kind(name) for name in frame["candidate"]])
    title = pooled_title(comparison)
    return Table(
        frame,
        {"kind": "Kind", "candidate": "Candidate"},
        [
            *(Column(name, name, pd.Series.max) for name in comparison.families),
            Column(f"Mean {title}", "mean", pd.Series.max),
            Column("Average precision", "average_precision", pd.Series.max),
            Column("Calibration error", "calibration_error", pd.Series.min),
            Column("F1", "f1", pd.Series.max),
            Column("Correctly frozen", "frozen_rightly"),
            Column("Time frozen", "frozen_time"),
        ],
        "Convergence predictors on network families unseen in training, at "
        f"{_pace_and_label(comparison)}: {title} for each family, and means over families, with "
        "95% t-intervals over seeds where several were run. At each candidate's threshold: F1 over "
        'all records, the fraction of frozen layers that were labelled "freeze" when they were '
        "frozen, and the fraction of time for which a layer is frozen. "
        f"{measured_on(comparison.scores)}",
    )


def ablations(comparison: Comparison) -> Table:
    """Returns the table of the bundled predictor with other settings, which has one seed alone."""
    of_first_seed = comparison.scores["seed"] == comparison.evidence.seeds[0]
    return Table(
        comparison.ablations(),
        {"candidate": "Setting"},
        [
            *(Column(name, name) for name in comparison.families),
            Column(f"Mean {pooled_title(comparison)}", "mean"),
            Column("Difference", "difference", how="+.3f"),
            Column("Calibration error", "calibration_error"),
            Column("F1", "f1"),
            Column('Labelled "freeze"', "positive_rate"),
        ],
        f"Ablations of the bundled predictor ({BUNDLED}): variants that differ in one setting, at "
        f"{_pace_and_label(comparison)}. {pooled_title(comparison)} for each family, and means "
        "over families. Variants "
        "with another tolerance are trained and evaluated with that tolerance. "
        f"{measured_on(comparison.scores[of_first_seed])}",
    )


def paces(comparison: Comparison) -> Table:
    """Returns the table of the bundled predictor at different recording rates."""
    return Table(
        comparison.paces(),
        {"records_per_epoch": "Records per epoch"},
        [
            *(Column(name, name) for name in comparison.families),
            Column(f"Mean {pooled_title(comparison)}", "mean"),
            Column("Drop", "drop", how="+.3f"),
            Column("Calibration error", "calibration_error"),
            Column("F1", "f1"),
        ],
        f"The bundled predictor ({BUNDLED}), calibrated at {_pace_and_label(comparison)}, at "
        f"different recording rates: {pooled_title(comparison)} for each family, and means over "
        "families, "
        "with 95% t-intervals over seeds where several were run. Drop: decrease of the mean. "
        f"{measured_on(comparison.scores)}",
    )


def _kind(candidate: str) -> str:
    if candidate in RULES:
        return "rule"
    return "regression" if candidate in REGRESSIONS else "predictor"


def _pace_and_label(comparison: Comparison) -> str:
    return (
        f"{comparison.pace} records per epoch and with the label {comparison.label}, tolerance "
        f"{comparison.tolerance:g}"
    )


def _word(row: pd.Series, column: Column) -> str:
    if pd.isna(row[column.key]):
        return NOT_RUN if row["not_run"] else BLANK
    return format(row[column.key], column.how)


def _spread(row: pd.Series, column: Column) -> str:
    """Returns the interval of the mean as text; empty for other columns."""
    known = column.key == "mean" and not pd.isna(row["interval"])
    return f" ± {row['interval']:.3f}" if known else ""
