"""Scores of all candidates: storage as CSV, and summaries of them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.evidence.jobs import Evidence
from experiments.evidence.simple_predictors import REGRESSIONS, RULES
from experiments.files import write_csv
from experiments.predictor.metrics import BINS
from experiments.reporting.statistics import t_interval

BUNDLED = "drift"
"""The candidate with the bundled predictor's settings."""

RIVALS = (*REGRESSIONS, *RULES)
MEANS = (
    *("auroc", "average_precision", "calibration_error", "f1", "positive_rate"),
    *("frozen_rightly", "frozen_time"),
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
    """Scores and the summaries of them that are compared.

    Unless stated otherwise, summaries are at the recording rate of the calibration, with the
    bundled predictor's label tolerance, over all seeds.

    Attributes:
        scores: a row for each candidate, family, seed, tolerance and recording rate, from
            `read_scores`.
        evidence: design of the comparison.
        tolerance: label tolerance of the bundled predictor.
        families: families on which candidates are evaluated.
    """

    scores: pd.DataFrame
    evidence: Evidence
    tolerance: float
    families: Sequence[str]

    @property
    def pace(self) -> int:
        """The recording rate of the calibration, in records per epoch."""
        return self.evidence.records_per_epoch[0]

    def candidates(self) -> pd.DataFrame:
        """Returns the `summary` by ``candidate``: predictors, then regressions and rules."""
        names = [*self.evidence.candidates, *RIVALS]
        return summary(self._usual(), "candidate", names, self.families)

    def ablations(self) -> pd.DataFrame:
        """Summarises variants of the bundled predictor, first seed only.

        Returns:
            A `summary` by ``candidate`` of the bundled predictor, of the variant without attention
            and of those with one other setting; and ``difference``, the mean AUROC minus that of
            the bundled predictor.
        """
        names = [name for name, by in self.evidence.candidates.items() if "encoding" not in by]
        of_names = self._first_seed().query("records_per_epoch == @self.pace")
        found = summary(of_names, "candidate", [*names, *self.evidence.ablations], self.families)
        return found.assign(difference=found["auroc"] - found["auroc"].iloc[0])

    def paces(self) -> pd.DataFrame:
        """Summarises the bundled predictor at all recording rates.

        Returns:
            A `summary` by ``records_per_epoch``, ascending; and ``drop``, the decrease of the mean
            AUROC relative to the rate of the calibration.
        """
        of_bundled = self.scores[self.scores["candidate"] == BUNDLED]
        paces = sorted(self.evidence.records_per_epoch)
        found = summary(of_bundled, "records_per_epoch", paces, self.families)
        own = found.loc[found["records_per_epoch"] == self.pace, "auroc"].item()
        return found.assign(drop=own - found["auroc"])

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
            name: summary(rows[rows["candidate"] == name], "tolerance", tolerances, self.families)
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
            family: pooled(rows.loc[rows["family"] == family, "bins"]) for family in self.families
        }

    def best_shared_calibration(self) -> float:
        """Computes the calibration error under the best recalibration shared by all families.

        This is a lower bound for any recalibration without knowledge of the family: each bin is
        mapped to the rate of "freeze" among the evaluation examples themselves, with equal weight
        for each family. Mean over families and seeds; NaN if a family is missing.
        """
        rows = self._usual().query("candidate == @BUNDLED")
        errors = []
        for _, of_seed in rows.groupby("seed"):
            bins = dict(zip(of_seed["family"], of_seed["bins"], strict=True))
            complete = set(bins) == set(self.families)
            errors.append(_shared_map_error(list(bins.values())) if complete else math.nan)
        return sum(errors) / len(errors) if errors else math.nan

    def _usual(self) -> pd.DataFrame:
        return self.scores.query("records_per_epoch == @self.pace and tolerance == @self.tolerance")

    def _first_seed(self) -> pd.DataFrame:
        return self.scores[self.scores["seed"] == self.evidence.seeds[0]]


def summary(
    scores: pd.DataFrame, by: str, values: Sequence[Any], families: Sequence[str]
) -> pd.DataFrame:
    """Summarises scores by candidate, recording rate or tolerance.

    Args:
        scores: scores; each family and seed occurs once for each value.
        by: column to group by.
        values: values of the column, in the order of the rows.
        families: families over which the means are taken.

    Returns:
        A row for each value: ``by``; the AUROC for each family, mean over seeds; `MEANS` over
        families and over the seeds for which all families exist; ``interval``, half the width of
        the mean AUROC's 95% t-interval over seeds, NaN for a single seed; ``seeds``, their number;
        and ``not_run``, the missing families. Missing values are NaN.
    """
    rows = [{by: value, **_summary(scores[scores[by] == value], families)} for value in values]
    return pd.DataFrame(rows)


def pooled(found: Sequence[Sequence[tuple[int, float, float]]]) -> list[tuple[int, float, float]]:
    """Merges the bins of `experiments.predictor.metrics.reliability` of several rows."""
    of_bin: dict[int, list[tuple[int, float, float]]] = {}
    for count, probability, rate in (each for bins in found for each in bins):
        index = min(int(probability * BINS), BINS - 1)
        of_bin.setdefault(index, []).append((count, probability, rate))
    return [_pooled(of_bin[index]) for index in sorted(of_bin)]


def _shared_map_error(bins: Sequence[Sequence[tuple[int, float, float]]]) -> float:
    """Returns the mean calibration error over families after mapping all to the same rates."""
    weight: dict[int, float] = {}
    rate: dict[int, float] = {}
    parts = []
    for family in bins:
        total = sum(count for count, *_ in family)
        for count, probability, own in family:
            index = min(int(probability * BINS), BINS - 1)
            parts.append((index, count / total, own))
            weight[index] = weight.get(index, 0.0) + count / total
            rate[index] = rate.get(index, 0.0) + count / total * own
    off = sum(share * abs(own - rate[index] / weight[index]) for index, share, own in parts)
    return off / len(bins)


def _pooled(parts: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
    total = sum(count for count, *_ in parts)
    probability = sum(count * probability for count, probability, _ in parts) / total
    return total, probability, sum(count * rate for count, _, rate in parts) / total


def _summary(rows: pd.DataFrame, families: Sequence[str]) -> dict[str, Any]:
    """Summarises the scores of one value of `summary`."""
    indexed = rows.set_index(["seed", "family"])

    def by_seed(metric: str) -> pd.DataFrame:
        return indexed[metric].unstack("family").reindex(columns=families)

    whole = by_seed("examples").notna().all(axis=1)
    means = {name: by_seed(name)[whole].mean(axis=1, skipna=False) for name in MEANS}
    return {
        **by_seed("auroc").mean(),
        **{name: mean.mean(skipna=False) for name, mean in means.items()},
        "interval": t_interval(means["auroc"]),
        "seeds": int(whole.sum()),
        "not_run": ", ".join(each for each in families if each not in set(rows["family"])),
    }
