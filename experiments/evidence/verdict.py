"""Verdict on the bundled predictor: claims about it, tested against the measured scores."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from experiments.evidence.jobs import KINDS
from experiments.evidence.scores import BUNDLED, RIVALS, Comparison
from experiments.evidence.simple_predictors import RIVAL
from experiments.evidence.tables import NOT_RUN, pooled_title
from experiments.reporting.provenance import measured_on


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        what: the claim.
        holds: whether it holds; None if results are missing.
        found: the numbers on which this is based.
    """

    what: str
    holds: bool | None
    found: str

    def __str__(self) -> str:
        words = {True: "Holds", False: "Does not hold", None: "Unknown, results are missing"}
        return f"- **{words[self.holds]}:** {self.what}. {self.found}".rstrip()


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Returns the claims for each label in Markdown, with all candidates that are better."""
    lines = [
        "# Verdict on the bundled predictor",
        "",
        f"On network families unseen in training, at {comparisons[0].pace} records per epoch. The "
        "error within a moment is the fraction of pairs of layers at the same record that are "
        f"ranked wrongly; the rival is the regression on {RIVAL}, fitted on the same runs. Numbers "
        "are means over seeds.",
        "",
    ]
    for each in comparisons:
        lines += [f"## Label {each.label}, tolerance {each.tolerance:g}", ""]
        lines += [*map(str, claims(each)), ""]
    return "\n".join([*lines, measured_on(comparisons[0].scores)]) + "\n"


def claims(comparison: Comparison) -> Iterator[Claim]:
    """Yields the claims for one label."""
    pooled = pooled_title(comparison)
    errors = {"error within a moment": "within_moment", f"error of the {pooled}": comparison.pooled}
    for name, metric in errors.items():
        relative = comparison.relative_errors(metric).loc[BUNDLED]
        mean, by_family = relative["mean"], relative.drop("mean")
        yield Claim(
            f"The mean {name} is at most three quarters of the rival's",
            _at_most(mean, 0.75),
            f"It is {_number(mean)} of it.",
        )
        yield Claim(
            f"The {name} is above the rival's in no family",
            _at_most(by_family, 1),
            f"Relative to it: {_listed(by_family)}.",
        )
    own = comparison.by_family(comparison.pooled).loc[BUNDLED]
    summary = comparison.candidates().set_index("candidate").loc[BUNDLED]
    spread = "" if math.isnan(summary["interval"]) else f" ± {summary['interval']:.4f}"
    yield Claim(
        f"The mean {pooled} over families is at least 0.97",
        _at_most(-own.mean(skipna=False), -0.97),
        f"It is {_number(own.mean(skipna=False))}{spread}; {_listed(own)}.",
    )
    is_whole = own.notna().all()
    for kind, is_pretrained in KINDS.items():
        error = comparison.by_family(f"calibration_error_{kind}").loc[BUNDLED]
        if is_whole and error.isna().all():
            continue  # there are no such runs
        mean = error.mean() if is_whole else math.nan
        what = "fine-tuning" if is_pretrained else "training from scratch"
        yield Claim(
            f"The mean calibration error in {what} is at most 0.05",
            _at_most(mean, 0.05),
            f"It is {_number(mean)}; {_listed(error.dropna())}.",
        )
    paces = comparison.paces().set_index("records_per_epoch")
    yield Claim(
        f"The mean {pooled} drops by at most 0.02 at other recording rates",
        _at_most(paces["drop"], 0.02),
        f"At {', '.join(map(str, paces.index))} records per epoch it is "
        f"{', '.join(_number(value) for value in paces['mean'])}.",
    )
    within = comparison.by_family("within_moment")
    others = {
        "No rule and no regression is better": list(RIVALS),
        "No other predictor is better": [x for x in comparison.evidence.candidates if x != BUNDLED],
    }
    for what, names in others.items():
        better = [words for name in names if (words := _beaten(within, name))]
        known = not within.loc[[BUNDLED, *names]].isna().any(axis=None)
        yield Claim(
            f"{what} within a moment for any family",
            False if better else True if known else None,
            f"{'; '.join(better)}{'. ' if better else ''}{_best(within.loc[names])}",
        )


def _at_most(found: pd.Series | float, bound: float) -> bool | None:
    values = pd.Series(found)
    if (values > bound).any():
        return False
    return None if values.isna().any() else True


def _number(value: float, how: str = ".4f") -> str:
    return NOT_RUN if math.isnan(value) else format(value, how)


def _listed(values: pd.Series, how: str = ".4f") -> str:
    return ", ".join(f"{name} {_number(value, how)}" for name, value in values.items())


def _best(metric: pd.DataFrame) -> str:
    mean = metric.mean(axis=1, skipna=False)
    known = mean.notna().any()
    return f"Best of these on average: {mean.idxmax()}, {mean.max():.4f}." if known else ""


def _beaten(metric: pd.DataFrame, name: str) -> str:
    """Returns the families for which a candidate is better, as text; empty if there are none."""
    other, own = metric.loc[name], metric.loc[BUNDLED]
    where = [f"{x} ({other[x]:.4f} vs. {own[x]:.4f})" for x in metric.columns[other > own]]
    return f"{name} is better for {', '.join(where)}" if where else ""
