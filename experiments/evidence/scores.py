"""Scores of all candidates: storage as CSV, and summaries of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.evidence.jobs import KINDS, Evidence
from experiments.evidence.simple_predictors import REGRESSIONS, RIVAL, RULES
from experiments.files import write_csv
from experiments.predictor.metrics import BINS
from experiments.reporting.statistics import t_interval

BUNDLED = "outputs"
"""The candidate with the bundled predictor's settings."""

RIVALS = (*REGRESSIONS, *RULES)
_OF_KINDS = tuple(f"calibration_error_{kind}" for kind in KINDS)
MEANS = (
    *("auroc", "within_run", "within_moment", "within_layer", "average_precision"),
    *("calibration_error", *_OF_KINDS),
    *("f1", "positive_rate", "frozen_rightly", "frozen_time"),
)

# Job ids such as "12e456789012" and torch versions such as "2.10" must not be read as numbers.
_TEXTS: dict[str, type] = dict.fromkeys(("job", "torch", "git"), str)


def write_scores(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Writes the rows of all jobs as CSV, with the bins of each row as JSON."""
    frame = pd.DataFrame(rows)
    write_csv(frame.assign(bins=frame["bins"].map(json.dumps)), file)


def read_scores(file: Path) -> pd.DataFrame:
    """Reads the scores that `write_scores` wrote, without loss of precision."""
    frame = pd.read_csv(file, dtype=_TEXTS, keep_default_na=False, na_values=[""])
    return frame.assign(bins=frame["bins"].map(json.loads))


@dataclass(frozen=True)
class Comparison:
    """Scores for one label and the summaries of them that are compared.

    Unless stated otherwise, summaries are at the recording rate of the calibration, with the
    bundled predictor's label tolerance, over all seeds.

    Attributes:
        scores: a row for each candidate, family, seed, tolerance and recording rate, from
            `read_scores`.
        evidence: design of the comparison.
        label: the label, one of `LABELS`.
        tolerance: tolerance of the label.
        families: families on which candidates are evaluated.
    """

    scores: pd.DataFrame
    evidence: Evidence
    label: str
    tolerance: float
    families: Sequence[str]

    @property
    def pooled(self) -> str:
        """The metric that pools layers and moments.

        The AUROC; for the label ``contribution``, which is made from a number, the concordance over
        all pairs of a run.
        """
        return "within_run" if self.label == "contribution" else "auroc"

    @property
    def pace(self) -> int:
        """The recording rate of the calibration, in records per epoch."""
        return self.evidence.records_per_epoch[0]

    def candidates(self, metric: str = "") -> pd.DataFrame:
        """Returns the `summary` by ``candidate``: predictors, then regressions and rules.

        Args:
            metric: the metric to show for each family; by default the pooled one.
        """
        names = [*self.evidence.candidates, *RIVALS]
        return self._summary(self._usual(), "candidate", names, metric)

    def relative_errors(self, metric: str) -> pd.DataFrame:
        """Compares the errors of all candidates with those of `RIVAL`.

        The error is one minus a concordance or an AUROC.

        Args:
            metric: the concordance or AUROC.

        Returns:
            By candidate (index), the error relative to the rival's for each family (columns), and
            as ``mean`` the mean error over families relative to the rival's mean error.
        """
        errors = 1 - self.by_family(metric)
        errors["mean"] = errors.mean(axis=1, skipna=False)
        rival = errors.loc[RIVAL]
        # Where both make no error, they are equally good.
        return (errors / rival).mask(errors.eq(rival), 1.0)

    def ablations(self) -> pd.DataFrame:
        """Summarises variants of the bundled predictor, first seed only.

        Returns:
            A `summary` by ``candidate`` of the bundled predictor, of the variant without attention
            and of those with one other setting; and ``difference``, the mean of the pooled metric
            minus that of the bundled predictor.
        """
        names = [name for name, by in self.evidence.candidates.items() if "encoding" not in by]
        of_names = self._first_seed().query("records_per_epoch == @self.pace")
        found = self._summary(of_names, "candidate", [*names, *self.evidence.ablations])
        return found.assign(difference=found["mean"] - found["mean"].iloc[0])

    def paces(self) -> pd.DataFrame:
        """Summarises the bundled predictor at all recording rates.

        Returns:
            A `summary` by ``records_per_epoch``, ascending; and ``drop``, the decrease of the mean
            of the pooled metric relative to the rate of the calibration.
        """
        of_bundled = self._of_label()[self._of_label()["candidate"] == BUNDLED]
        paces = sorted(self.evidence.records_per_epoch)
        found = self._summary(of_bundled, "records_per_epoch", paces)
        own = found.loc[found["records_per_epoch"] == self.pace, "mean"].item()
        return found.assign(drop=own - found["mean"])

    def tolerances(self) -> pd.DataFrame:
        """Summarises the sensitivity to the label's tolerance, first seed only.

        Returns:
            A `summary` by ``tolerance``, ascending, for each ``candidate``: the bundled predictor,
            trained with each tolerance, and all regressions and rules.
        """
        rows = self._first_seed().query("records_per_epoch == @self.pace")
        other = [name for name, by in self.evidence.ablations.items() if set(by) == {"tolerance"}]
        rows = rows.assign(candidate=rows["candidate"].replace(dict.fromkeys(other, BUNDLED)))
        tolerances = sorted(self.evidence.tolerances)
        parts = {
            name: self._summary(rows[rows["candidate"] == name], "tolerance", tolerances)
            for name in (BUNDLED, *RIVALS)
        }
        return pd.concat([part.assign(candidate=name) for name, part in parts.items()])

    def by_family(self, metric: str) -> pd.DataFrame:
        """Returns a metric by candidate (index) and family (columns), mean over seeds."""
        names = [*self.evidence.candidates, *RIVALS]
        means = self._usual().groupby(["candidate", "family"])[metric].mean().unstack()
        return means.reindex(index=names, columns=list(self.families))

    def reliability(self) -> dict[str, list[tuple[int, float, float]]]:
        """Returns the bundled predictor's bins for each family, pooled over seeds."""
        rows = self._usual().query("candidate == @BUNDLED")
        return {
            family: merged_bins(rows.loc[rows["family"] == family, "bins"])
            for family in self.families
        }

    def _of_label(self) -> pd.DataFrame:
        return self.scores[self.scores["label"] == self.label]

    def _usual(self) -> pd.DataFrame:
        usual = "records_per_epoch == @self.pace and tolerance == @self.tolerance"
        return self._of_label().query(usual)

    def _first_seed(self) -> pd.DataFrame:
        return self._of_label()[self._of_label()["seed"] == self.evidence.seeds[0]]

    def _summary(
        self, scores: pd.DataFrame, by: str, values: Sequence[Any], metric: str = ""
    ) -> pd.DataFrame:
        return summary(scores, by, values, self.families, metric or self.pooled)


def summary(
    scores: pd.DataFrame, by: str, values: Sequence[Any], families: Sequence[str], metric: str
) -> pd.DataFrame:
    """Summarises scores by candidate, recording rate or tolerance.

    Args:
        scores: scores; each family and seed occurs once for each value.
        by: column to group by.
        values: values of the column, in the order of the rows.
        families: families over which the means are taken.
        metric: the metric to show for each family.

    Returns:
        A row for each value: ``by``; the metric for each family, mean over seeds; `MEANS` over
        families and over the seeds for which all families exist; ``mean``, that of the metric;
        ``interval``, half the width of its 95% t-interval over seeds, NaN for a single seed;
        ``seeds``, their number; and ``not_run``, the missing families. Missing values are NaN.

    Raises:
        ValueError: if a family and seed occurs twice for a value.
    """
    rows = scores[scores["family"].isin(families) & scores[by].isin(values)]
    rows = rows.set_index([by, "seed", "family"])
    if not rows.index.is_unique:
        raise ValueError(f"duplicate scores: {rows.index[rows.index.duplicated()].tolist()}")
    of_families = rows.groupby([by, "family"])[metric].mean().unstack("family")
    by_seed = _means_of_seeds(rows, by, families)
    of_seeds = by_seed.groupby(by)
    means = of_seeds.mean().where(of_seeds.count().eq(of_seeds.size(), axis=0))
    found = pd.concat([of_families.reindex(columns=families), means], axis=1)
    found = found.assign(
        mean=means[metric], interval=of_seeds[metric].agg(t_interval), seeds=of_seeds.size()
    )
    found = found.reindex(pd.Index(values, name=by)).reset_index()
    ran = set(zip(*map(rows.index.get_level_values, (by, "family")), strict=True))
    not_run = [", ".join(each for each in families if (value, each) not in ran) for value in values]
    return found.assign(seeds=found["seeds"].fillna(0).astype(int), not_run=not_run)


def _means_of_seeds(rows: pd.DataFrame, by: str, families: Sequence[str]) -> pd.DataFrame:
    """Averages `MEANS` over families, for each value of `by` and each seed with all families."""
    grouped = rows.groupby([by, "seed"])
    whole = grouped["examples"].count() == len(families)
    means, found = grouped[list(MEANS)].mean(), grouped[list(MEANS)].count()
    # Some families are always pretrained, and have no calibration error in runs from scratch.
    partial_allowed = [name in _OF_KINDS for name in MEANS]
    return means.where((found == len(families)) | partial_allowed)[whole]


def merged_bins(
    found: Sequence[Sequence[tuple[int, float, float]]],
) -> list[tuple[int, float, float]]:
    """Merges the bins of `experiments.predictor.metrics.reliability` of several rows."""
    of_bin: dict[int, list[tuple[int, float, float]]] = {}
    for count, probability, rate in (each for bins in found for each in bins):
        index = min(int(probability * BINS), BINS - 1)
        of_bin.setdefault(index, []).append((count, probability, rate))
    return [_merged(of_bin[index]) for index in sorted(of_bin)]


def _merged(parts: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
    total = sum(count for count, *_ in parts)
    probability = sum(count * probability for count, probability, _ in parts) / total
    return total, probability, sum(count * rate for count, _, rate in parts) / total
