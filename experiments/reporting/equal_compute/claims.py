"""Claims about SmartFRZ at several computes, and their verdicts."""

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from experiments.reporting.equal_compute.differences import MEAN, points, workload
from experiments.reporting.labels import display_name
from experiments.reporting.statistics import is_close

COMPUTES = (0.75, 0.58)
"""Computes at which SmartFRZ is compared with the best control."""
LOSSES = {0.9: 0.0, 0.75: 0.3, 0.58: 1.0}
"""Accuracy, in points, that SmartFRZ may lose relative to full training, by compute."""
TOLERANCE = 0.02
"""How far the compute that a run spends may be from that of its row."""

_VERDICTS = {True: "holds", False: "does not hold", None: "is not known yet"}


def claims(table: pd.DataFrame) -> str:
    """Returns a line of Markdown for each claim, with its verdict.

    The best control of a workload is the one with the highest mean accuracy. While planned runs are
    missing, a workload counts for no claim; it counts against one if a control that has all of its
    runs, and as many seeds as the others, is ahead of SmartFRZ already.

    Args:
        table: the paired differences, see `differences`.
    """
    single = table[table["model"] != MEAN]
    controls = single[single["rival"] != "full"]
    full = table[table["rival"] == "full"]
    lines = [
        line
        for compute in COMPUTES
        if (controls["compute"] == compute).any()
        for line in _against_controls(controls[controls["compute"] == compute], compute)
    ]
    for compute, loss in LOSSES.items():
        if (of := full[full["compute"] == compute]).size:
            lines.append(_against_full(of, compute, loss))
    return "\n".join([*lines, _spent(single)]) + "\n"


def _against_controls(controls: pd.DataFrame, compute: float) -> Iterator[str]:
    """Yields the claims that SmartFRZ is ahead of the best control often, and behind nowhere."""
    workloads = [of for _, of in controls.groupby(["model", "dataset"], sort=False)]
    best = [row for of in workloads if (row := _best(of)) is not None]
    is_open = {workload(of.iloc[0]): not _is_complete(of) for of in workloads}
    ahead = [row for row in best if row["mean"] > 0 and not is_open[workload(row)]]
    others = [row for row in best if row["mean"] <= 0]
    undecided = len(workloads) - len(ahead) - len(others)
    yield _line(
        f"SmartFRZ at {compute:.0%} is ahead of the best control in at least half of the workloads",
        _decided(2 * len(ahead) >= len(workloads), 2 * (len(ahead) + undecided) >= len(workloads)),
        {
            f"ahead in {len(ahead)} of {len(workloads)}": _named(ahead),
            f"not ahead in {len(others)} of {len(workloads)}": _named(others),
            "missing runs": _missing(is_open),
        },
    )
    behind = [row for row in map(_furthest_ahead, workloads) if row is not None]
    untested = [row for row in best if math.isnan(row["interval"]) and row["mean"] < 0]
    yield _line(
        f"SmartFRZ at {compute:.0%} is nowhere behind a control by more than the interval",
        _decided(not (behind or untested or any(is_open.values())), not behind),
        {
            "behind": _named(behind),
            "no interval": _named(untested),
            "missing runs": _missing(is_open),
        },
    )


def _is_complete(of: pd.DataFrame) -> bool:
    return bool(of["is_complete"].all() and of["mean"].notna().any())


def _best(of: pd.DataFrame) -> pd.Series | None:
    """The best control of a workload; while runs are missing, of those with the most seeds."""
    known = of[of["is_complete"].astype(bool) & of["mean"].notna()]
    if not _is_complete(of):
        known = known[known["planned"] == of["planned"].max()]
    return None if known.empty else known.loc[known["mean"].idxmin()]


def _furthest_ahead(of: pd.DataFrame) -> pd.Series | None:
    """The best of the controls of a workload that are ahead by more than the interval."""
    apart = of[of["is_complete"].astype(bool) & (of["mean"] + of["interval"] < 0)]
    return None if apart.empty else apart.loc[apart["mean"].idxmin()]


def _missing(is_open: Mapping[str, bool]) -> list[str]:
    names = [name for name, is_missing in is_open.items() if is_missing]
    return [f"all {len(names)} workloads"] if 1 < len(names) == len(is_open) else names


def _against_full(of: pd.DataFrame, compute: float, loss: float) -> str:
    (mean,) = [row for _, row in of.iterrows() if row["model"] == MEAN]
    others = [row for _, row in of.iterrows() if row["model"] != MEAN]
    is_open = {workload(row): not row["is_complete"] or pd.isna(row["mean"]) for row in others}
    known = [row for row in others if not pd.isna(row["mean"])]
    is_within = mean["mean"] >= -loss or is_close(mean["mean"], -loss)
    holds = None if any(is_open.values()) else bool(is_within)
    found = {"mean": [points(mean)] if known else [], "missing runs": _missing(is_open)}
    found["by workload"] = [f"{workload(row)} ({points(row)})" for row in known]
    what = f"at most {loss:g} point{'' if loss == 1 else 's'}" if loss else "nothing"
    return _line(
        f"SmartFRZ at {compute:.0%} loses {what} relative to full training, by the mean over "
        "workloads",
        holds,
        found,
    )


def _spent(single: pd.DataFrame) -> str:
    """Returns the claim that all runs at a compute spend that compute."""
    rivals = single[single["rival"] != "full"]
    own = rivals.assign(rival="smartfrz", rival_compute=rivals["own_compute"])
    rows = pd.concat([rivals, own]).drop_duplicates(["model", "dataset", "compute", "rival"])
    apart = rows[(rows["rival_compute"] - rows["compute"]).abs() > TOLERANCE + 1e-9]
    found = [
        f"{display_name(row['rival'])} at {row['compute']:.0%} in {workload(row)} "
        f"({row['rival_compute']:.3f})"
        for _, row in apart.iterrows()
    ]
    missing = int((~rows["is_complete"].astype(bool) | rows["rival_compute"].isna()).sum())
    return _line(
        f"SmartFRZ and the controls spend their compute within {TOLERANCE:.0%} of full training's",
        _decided(not len(apart) and not missing, not len(apart)),
        {"apart": found, "missing rows": [f"{missing} of {len(rows)}"] if missing else []},
    )


def _decided(holds: bool, may_hold: bool) -> bool | None:
    """The verdict on a claim that holds now, or may hold once the missing runs are there."""
    return True if holds else (None if may_hold else False)


def _named(rows: Sequence[pd.Series]) -> list[str]:
    return [f"{workload(row)} ({points(row)} against {display_name(row['rival'])})" for row in rows]


def _line(claim: str, verdict: bool | None, found: Mapping[str, Sequence[str]]) -> str:
    parts = [f"{words}: {', '.join(names)}" for words, names in found.items() if names]
    return f"- **{claim}:** {'; '.join([_VERDICTS[verdict], *parts])}."
