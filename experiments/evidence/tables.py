"""Tables of the evidence: who tells best which layers are done, and what that depends on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from experiments.evidence.scores import Comparison
from experiments.evidence.simple_predictors import REGRESSIONS, RULES
from experiments.reporting.markup import BLANK, escape_latex, escape_markdown, latex, markdown
from experiments.reporting.provenance import measured_on

NOT_RUN = "not run"


@dataclass(frozen=True)
class Column:
    """Numbers of a table.

    Attributes:
        title: stands over them.
        key: where they are in the frame.
        best: picks the one that is set in bold; by default none is.
        how: they are written.
    """

    title: str
    key: str
    best: Callable[[pd.Series], float] | None = None
    how: str = ".3f"


@dataclass(frozen=True)
class Table:
    """A frame from `summary`, and how it is shown.

    Attributes:
        frame: as it is written to a CSV file.
        labels: titles of the first columns, by where they are in the frame.
        columns: the others.
        caption: what stands above.
    """

    frame: pd.DataFrame
    labels: dict[str, str]
    columns: Sequence[Column]
    caption: str

    def to_markdown(self) -> str:
        """As GitHub Markdown."""
        return markdown(*self._rendered(escape_markdown, "**{}**"), self.caption, len(self.labels))

    def to_latex(self) -> str:
        """As a LaTeX float; needs the package booktabs."""
        cells = self._rendered(escape_latex, r"\textbf{{{}}}")
        return latex(*cells, self.caption, len(self.labels))

    def _rendered(
        self, escape: Callable[[str], str], bold: str
    ) -> tuple[list[str], list[list[list[str]]]]:
        """Header and rows as words, those of a kind in a group."""
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


def candidates(comparison: Comparison) -> Table:
    """All predictors and their rivals."""
    frame = comparison.candidates()
    frame.insert(0, "kind", [_kind(name) for name in frame["candidate"]])
    return Table(
        frame,
        {"kind": "Kind", "candidate": "Candidate"},
        [
            *(Column(name, name, pd.Series.max) for name in comparison.families),
            Column("Mean AUROC", "auroc", pd.Series.max),
            Column("Average precision", "average_precision", pd.Series.max),
            Column("Calibration error", "calibration_error", pd.Series.min),
            Column("F1", "f1", pd.Series.max),
            Column("Frozen rightly", "frozen_rightly"),
            Column("Frozen time", "frozen_time"),
        ],
        "How well candidates tell which layers are done, in networks of a family that they have "
        f"not learned from, at {_pace_and_label(comparison)}: AUROC for each family, and means "
        "over the families; with a 95% t-interval over the seeds, where there are several. With "
        "each candidate's threshold: F1 over all records; the part of the layers frozen that were "
        "done then; and the part of the time for which a layer is frozen. "
        f"{measured_on(comparison.scores)}",
    )


def ablations(comparison: Comparison) -> Table:
    """The bundled predictor with other settings."""
    return Table(
        comparison.ablations(),
        {"candidate": "What differs"},
        [
            *(Column(name, name) for name in comparison.families),
            Column("Mean AUROC", "auroc"),
            Column("Difference", "difference", how="+.3f"),
            Column("Calibration error", "calibration_error"),
            Column("F1", "f1"),
            Column('Labelled "freeze"', "positive_rate"),
        ],
        f"The bundled predictor (drift), and what it becomes if one thing differs, with seed "
        f"{comparison.evidence.seeds[0]} alone, at {_pace_and_label(comparison)}: AUROC for each "
        "family, and means over the families. With another tolerance it learns from another "
        f"label and is judged by that one. {measured_on(comparison.scores)}",
    )


def paces(comparison: Comparison) -> Table:
    """The bundled predictor at other paces than its own."""
    return Table(
        comparison.paces(),
        {"records_per_epoch": "Records an epoch"},
        [
            *(Column(name, name) for name in comparison.families),
            Column("Mean AUROC", "auroc"),
            Column("Drop", "drop", how="+.3f"),
            Column("Calibration error", "calibration_error"),
            Column("F1", "f1"),
        ],
        f"The bundled predictor (drift), calibrated at {_pace_and_label(comparison)}, at other "
        "paces: AUROC for each family, and means over the families, with a 95% t-interval over "
        "the seeds, where there are several; and by how much the mean AUROC is lower. "
        f"{measured_on(comparison.scores)}",
    )


def _kind(candidate: str) -> str:
    if candidate in RULES:
        return "rule"
    return "regression" if candidate in REGRESSIONS else "predictor"


def _pace_and_label(comparison: Comparison) -> str:
    return (
        f"{comparison.pace} records an epoch and with a tolerance of the label of "
        f"{comparison.tolerance:g}"
    )


def _word(row: pd.Series, column: Column) -> str:
    if pd.isna(row[column.key]):
        return NOT_RUN if row["not_run"] else BLANK
    return format(row[column.key], column.how)


def _spread(row: pd.Series, column: Column) -> str:
    """The mean AUROC's interval."""
    known = column.key == "auroc" and not pd.isna(row["interval"])
    return f" ± {row['interval']:.3f}" if known else ""
