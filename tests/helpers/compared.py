"""Synthetic scores of convergence predictors for two network families."""

import math
from collections.abc import Callable

import pandas as pd

from experiments.evidence.jobs import Evidence
from experiments.evidence.scores import Comparison
from experiments.evidence.simple_predictors import REGRESSIONS, RULES

FAMILIES = ("plain", "mobile")
EVIDENCE = Evidence(
    seeds=[0, 1, 2],
    records_per_epoch=[4, 2, 20],
    tolerances=[0.01, 0.02],
    labels={"cka": {"tolerance": 0.02}, "contribution": {"tolerance": 0.1}},
    candidates={
        "outputs": {},
        "outputs, mean pooling": {"pooling": "mean"},
        "raw": {"encoding": "raw"},
    },
    ablations={"tolerance 0.01": {"tolerance": 0.01}, "window 10": {"window": 10}},
)
BINS = [(60, 0.04, 0.1), (40, 0.95, 0.9)]


def row(
    candidate: str,
    family: str,
    seed: int = 0,
    tolerance: float = 0.02,
    pace: int = 4,
    label: str = "cka",
) -> dict:
    """A row of scores; the AUROC is 0.98 for the bundled predictor and 0.9 for all others."""
    rule = candidate in RULES
    good = 0.98 if candidate == "outputs" else 0.9
    return {
        **{"job": "12e456789012", "label": label, "candidate": candidate},
        **{"family": family, "seed": seed},
        **{"tolerance": tolerance, "records_per_epoch": pace},
        **{"threshold": -math.inf if rule else 0.1 + 0.2, "examples": 100, "positive_rate": 0.4},
        **{"auroc": good, "average_precision": 0.8},
        **{"within_run": good, "within_moment": good, "within_layer": 0.95},
        **{"calibration_error": math.nan if rule else 0.04, "f1": 0.7},
        "calibration_error_fine_tuning": math.nan if rule else 0.03,
        "calibration_error_scratch": math.nan if rule else 0.04,
        **{"frozen_rightly": 0.9, "frozen_time": 0.35},
        **{"precision": math.nan, "recall": 0.5, "bins": [] if rule else BINS},
        **{"machine": "a processor", "torch": "2.10", "git": "00123"},
        **{"command": "make evidence SCALE=demo", "date": "2026-01-01"},
    }


def rows() -> list[dict]:
    """The scores of all candidates, ablations, regressions and rules."""
    seeds, paces = EVIDENCE.seeds, EVIDENCE.records_per_epoch
    jobs = [(name, seed, 0.02, "cka") for name in EVIDENCE.candidates for seed in seeds]
    jobs += [(name, 0, by.get("tolerance", 0.02), "cka") for name, by in EVIDENCE.ablations.items()]
    rivals = (*REGRESSIONS, *RULES)
    jobs += [(name, 0, t, "cka") for name in rivals for t in EVIDENCE.tolerances]
    jobs += [(name, seed, 0.1, "contribution") for name in EVIDENCE.candidates for seed in seeds]
    jobs += [(name, 0, 0.1, "contribution") for name in rivals]
    return [
        row(name, family, seed, tolerance, pace, label)
        for name, seed, tolerance, label in jobs
        for family in FAMILIES
        for pace in paces
    ]


def comparison(
    change: Callable[[dict], dict | None] = lambda each: each, label: str = "cka"
) -> Comparison:
    """The scores with each row replaced by ``change(row)``, or left out for None."""
    found = [new for each in rows() if (new := change(each)) is not None]
    tolerance = EVIDENCE.labels[label]["tolerance"]
    return Comparison(pd.DataFrame(found), EVIDENCE, label, tolerance, FAMILIES)


def with_metric(metric: str, found: dict[tuple[str, str], float]) -> Comparison:
    """The scores with the given values of a metric for some candidates and families."""
    return comparison(
        lambda each: each | {metric: found.get((each["candidate"], each["family"]), each[metric])}
    )
