"""The scores of all candidates: how they are kept, and what comes out when they are compared."""

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
"""The candidate that is trained as the bundled predictor is."""

RIVALS = (*REGRESSIONS, *RULES)
MEANS = (
    *("auroc", "average_precision", "calibration_error", "f1", "positive_rate"),
    *("frozen_rightly", "frozen_time"),
)

# A job such as "12e456789012" or a torch version such as "2.10" must not come back as a number.
_TEXTS: dict[str, type] = dict.fromkeys(("job", "torch", "git"), str)


def write_scores(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Writes what all jobs have found as CSV; the bins of each row as JSON."""
    frame = pd.DataFrame(rows)
    write_csv(frame.assign(bins=frame["bins"].map(json.dumps)), file)


def read_scores(file: Path) -> pd.DataFrame:
    """What `write_scores` wrote, to the last bit."""
    frame = pd.read_csv(file, dtype=_TEXTS, keep_default_na=False, na_values=[""])
    return frame.assign(bins=frame["bins"].map(json.loads))


@dataclass(frozen=True)
class Comparison:
    """The scores, and what decides which of them are compared with each other.

    Where nothing else is said, it is at the candidates' own pace, with the bundled predictor's
    tolerance, all seeds.

    Attributes:
        scores: a row for each candidate, family, seed, tolerance and pace, as `read_scores`.
        evidence: what was to be compared.
        tolerance: of the label from which the bundled predictor learns.
        families: those that candidates are judged on.
    """

    scores: pd.DataFrame
    evidence: Evidence
    tolerance: float
    families: Sequence[str]

    @property
    def pace(self) -> int:
        """Records an epoch: the candidates' own."""
        return self.evidence.records_per_epoch[0]

    def candidates(self) -> pd.DataFrame:
        """Predictors, then rivals: a `summary` by ``candidate``."""
        names = [*self.evidence.candidates, *RIVALS]
        return summary(self._usual(), "candidate", names, self.families)

    def ablations(self) -> pd.DataFrame:
        """What becomes of the bundled predictor with other settings, one seed alone.

        Returns:
            The same, of the bundled predictor, of it without attention, and of what differs in one
            setting; and ``difference`` of the mean AUROC to that of the bundled one.
        """
        names = [name for name, by in self.evidence.candidates.items() if "encoding" not in by]
        of_names = self._first_seed().query("records_per_epoch == @self.pace")
        found = summary(of_names, "candidate", [*names, *self.evidence.ablations], self.families)
        return found.assign(difference=found["auroc"] - found["auroc"].iloc[0])

    def paces(self) -> pd.DataFrame:
        """The bundled predictor at other paces.

        Returns:
            A `summary` by ``records_per_epoch``, rising; and ``drop``, by how much the mean
            AUROC is lower than at its own pace.
        """
        of_bundled = self.scores[self.scores["candidate"] == BUNDLED]
        paces = sorted(self.evidence.records_per_epoch)
        found = summary(of_bundled, "records_per_epoch", paces, self.families)
        own = found.loc[found["records_per_epoch"] == self.pace, "auroc"].item()
        return found.assign(drop=own - found["auroc"])

    def tolerances(self) -> pd.DataFrame:
        """Who does how well if the label is stricter or more tolerant, one seed alone.

        Returns:
            A `summary` by ``tolerance``, rising, for each ``candidate``: the bundled
            predictor, trained with each tolerance, and all rivals.
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
        """A metric of each candidate (the index) for each family, the mean over the seeds."""
        names = [*self.evidence.candidates, *RIVALS]
        means = self._usual().groupby(["candidate", "family"])[metric].mean().unstack()
        return means.reindex(index=names, columns=list(self.families))

    def reliability(self) -> dict[str, list[tuple[int, float, float]]]:
        """The bins of the bundled predictor for each family, all seeds together."""
        rows = self._usual().query("candidate == @BUNDLED")
        return {
            family: pooled(rows.loc[rows["family"] == family, "bins"]) for family in self.families
        }

    def best_shared_calibration(self) -> float:
        """The calibration error that the best map of probabilities shared by all families leaves.

        A lower bound for any recalibration that does not know the family: the map gives each bin
        the rate of "freeze" among the judged examples themselves, families counting alike. The mean
        over families and seeds; NaN where a family is missing.
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
    """One row for each of some candidates, paces or tolerances.

    Args:
        scores: rows, each family and seed once for each of them.
        by: the column that tells them apart.
        values: what stands there, in the order of the rows.
        families: over which the means are.

    Returns:
        ``by``; for each family the AUROC, its mean over the seeds; `MEANS` over families, of the
        seeds of which there are all families; ``interval``, how far from the mean AUROC the ends
        of its 95% t-interval over the seeds are, NaN for a single one; ``seeds``, how many there
        are; and ``not_run``, the families that are missing. NaN where something is missing.
    """
    rows = [{by: value, **_summary(scores[scores[by] == value], families)} for value in values]
    return pd.DataFrame(rows)


def pooled(found: Sequence[Sequence[tuple[int, float, float]]]) -> list[tuple[int, float, float]]:
    """The bins of `reliability` of all examples of several rows."""
    of_bin: dict[int, list[tuple[int, float, float]]] = {}
    for count, probability, rate in (each for bins in found for each in bins):
        index = min(int(probability * BINS), BINS - 1)
        of_bin.setdefault(index, []).append((count, probability, rate))
    return [_pooled(of_bin[index]) for index in sorted(of_bin)]


def _shared_map_error(bins: Sequence[Sequence[tuple[int, float, float]]]) -> float:
    """The mean calibration error over families once all are mapped to the same rates."""
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
    """Of one candidate."""
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
