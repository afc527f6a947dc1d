"""What the evidence says of the bundled predictor: which claims hold, by its own numbers."""

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
    """Something that may hold: what, whether (``None`` is unknown), and the numbers behind it."""

    what: str
    holds: bool | None
    found: str

    def __str__(self) -> str:
        said = {True: "Holds", False: "Does not hold", None: "Not known, since not all is run"}
        return f"- **{said[self.holds]}:** {self.what}. {self.found}".rstrip()


def verdict(comparison: Comparison) -> str:
    """Which claims hold, in Markdown, and every rival that does better anywhere."""
    lines = [
        "# What holds of the bundled predictor",
        "",
        f"In networks of a family that it has not learned from, at {comparison.pace} records an "
        f"epoch, with a tolerance of the label of {comparison.tolerance:g}; AUROC if nothing else "
        "is said, means over the seeds.",
        "",
        *map(str, claims(comparison)),
        "",
        measured_on(comparison.scores),
    ]
    return "\n".join(lines) + "\n"


def claims(comparison: Comparison) -> Iterator[Claim]:
    """The claims, in the order in which they are made."""
    auroc = comparison.by_family("auroc")
    own = auroc.loc[BUNDLED]
    summary = comparison.candidates().set_index("candidate").loc[BUNDLED]
    spread = "" if math.isnan(summary["interval"]) else f" ± {summary['interval']:.4f}"
    yield Claim(
        "The mean over the families is at least 0.96",
        _at_least(own.mean(skipna=False), 0.96),
        f"It is {_number(own.mean(skipna=False))}{spread}; {_listed(own)}.",
    )
    gain = own - auroc.loc[_RULE]
    yield Claim(
        f"It is at least 0.04 above the rule {_RULE} for every family",
        _at_least(gain, 0.04),
        f"The differences: {_listed(gain, '+.4f')}.",
    )
    for rival in REGRESSIONS:
        gain = own - auroc.loc[rival]
        yield Claim(
            f"It is not below the {rival} for any family",
            _at_least(gain, 0),
            f"The differences: {_listed(gain, '+.4f')}.",
        )
        yield Claim(
            f"It is not below the {rival} on average",
            _at_least(gain.mean(skipna=False), 0),
            f"The difference: {_number(gain.mean(skipna=False), '+.4f')}.",
        )
    error = comparison.by_family("calibration_error").loc[BUNDLED]
    yield Claim(
        "Its mean calibration error is at most 0.05",
        _at_least(-error.mean(skipna=False), -0.05),
        f"It is {_number(error.mean(skipna=False))}; {_listed(error)}. The best map of "
        "probabilities that all families share, fitted to the judged examples themselves, would "
        f"leave {_number(comparison.best_shared_calibration())}.",
    )
    paces = comparison.paces().set_index("records_per_epoch")
    yield Claim(
        "At no other pace is the mean lower by more than 0.02",
        _at_least(-paces["drop"], -0.02),
        f"At {', '.join(map(str, paces.index))} records an epoch it is "
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
    return f"The best of them on average: {mean.idxmax()}, {mean.max():.4f}." if known else ""


def _beaten(auroc: pd.DataFrame, name: str) -> str:
    """Where a candidate is better than the bundled predictor; nothing if nowhere."""
    other, own = auroc.loc[name], auroc.loc[BUNDLED]
    where = [f"{x} ({other[x]:.4f} to {own[x]:.4f})" for x in auroc.columns[other > own]]
    return f"{name} is better for {', '.join(where)}" if where else ""
