"""Verdict on the bundled predictor: claims about it, tested against the measured scores."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from experiments.evidence.scores import BUNDLED, RIVALS, Comparison
from experiments.evidence.simple_predictors import REGRESSIONS
from experiments.evidence.tables import NOT_RUN
from experiments.reporting.provenance import measured_on

_RULE = "last displacement"


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


def verdict(comparison: Comparison) -> str:
    """Returns the claims in Markdown, with every candidate that is better for some family."""
    lines = [
        "# Verdict on the bundled predictor",
        "",
        f"On network families unseen in training, at {comparison.pace} records per epoch and with "
        f"a label tolerance of {comparison.tolerance:g}. Predictors are compared by AUROC; numbers "
        "are means over seeds.",
        "",
        *map(str, claims(comparison)),
        "",
        measured_on(comparison.scores),
    ]
    return "\n".join(lines) + "\n"


def claims(comparison: Comparison) -> Iterator[Claim]:
    """Yields the claims."""
    auroc = comparison.by_family("auroc")
    own = auroc.loc[BUNDLED]
    summary = comparison.candidates().set_index("candidate").loc[BUNDLED]
    spread = "" if math.isnan(summary["interval"]) else f" ± {summary['interval']:.4f}"
    yield Claim(
        "The mean AUROC over families is at least 0.96",
        _at_least(own.mean(skipna=False), 0.96),
        f"It is {_number(own.mean(skipna=False))}{spread}; {_listed(own)}.",
    )
    gain = own - auroc.loc[_RULE]
    yield Claim(
        f"The AUROC exceeds that of the rule {_RULE} by at least 0.04 for every family",
        _at_least(gain, 0.04),
        f"The differences are {_listed(gain, '+.4f')}.",
    )
    for rival in REGRESSIONS:
        gain = own - auroc.loc[rival]
        yield Claim(
            f"The AUROC is at least that of the {rival} for every family",
            _at_least(gain, 0),
            f"The differences are {_listed(gain, '+.4f')}.",
        )
        yield Claim(
            f"The mean AUROC is at least that of the {rival}",
            _at_least(gain.mean(skipna=False), 0),
            f"The difference is {_number(gain.mean(skipna=False), '+.4f')}.",
        )
    error = comparison.by_family("calibration_error").loc[BUNDLED]
    yield Claim(
        "The mean calibration error is at most 0.05",
        _at_least(-error.mean(skipna=False), -0.05),
        f"It is {_number(error.mean(skipna=False))}; {_listed(error)}. With the best recalibration "
        "shared by all families, fitted to the evaluation examples themselves, it would be "
        f"{_number(comparison.best_shared_calibration())}.",
    )
    paces = comparison.paces().set_index("records_per_epoch")
    yield Claim(
        "The mean AUROC drops by at most 0.02 at other recording rates",
        _at_least(-paces["drop"], -0.02),
        f"At {', '.join(map(str, paces.index))} records per epoch it is "
        f"{', '.join(_number(value) for value in paces['auroc'])}.",
    )
    others = {
        "No rule and no regression is better": list(RIVALS),
        "No other predictor is better": [x for x in comparison.evidence.candidates if x != BUNDLED],
    }
    for what, names in others.items():
        better = [words for name in names if (words := _beaten(auroc, name))]
        known = not auroc.loc[[BUNDLED, *names]].isna().any(axis=None)
        yield Claim(
            f"{what} for any family",
            False if better else True if known else None,
            f"{'; '.join(better)}{'. ' if better else ''}{_best(auroc.loc[names])}",
        )


def _at_least(found: pd.Series | float, bound: float) -> bool | None:
    values = pd.Series(found)
    if (values < bound).any():
        return False
    return None if values.isna().any() else True


def _number(value: float, how: str = ".4f") -> str:
    return NOT_RUN if math.isnan(value) else format(value, how)


def _listed(values: pd.Series, how: str = ".4f") -> str:
    return ", ".join(f"{name} {_number(value, how)}" for name, value in values.items())


def _best(auroc: pd.DataFrame) -> str:
    mean = auroc.mean(axis=1, skipna=False)
    known = mean.notna().any()
    return f"Best of these on average: {mean.idxmax()}, {mean.max():.4f}." if known else ""


def _beaten(auroc: pd.DataFrame, name: str) -> str:
    """Returns the families for which a candidate is better, as text; empty if there are none."""
    other, own = auroc.loc[name], auroc.loc[BUNDLED]
    where = [f"{x} ({other[x]:.4f} vs. {own[x]:.4f})" for x in auroc.columns[other > own]]
    return f"{name} is better for {', '.join(where)}" if where else ""
