"""Jobs that fit a candidate to all families but one and evaluate it on the one left out."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.config import RunConfig
from experiments.evidence.simple_predictors import REGRESSIONS, RULES, Scorer, regression
from experiments.models.registry import families, family
from experiments.predictor.fitting import Training, all_labels_of, fit, split
from experiments.predictor.metrics import calibration_error, flattened, metrics, reliability
from experiments.runs.recording import load_history
from experiments.validation import checked
from smartfrz.predictor import History, encoded, freezing_threshold, future_contribution, thinned


@dataclass(frozen=True)
class Evidence:
    """Design of the comparison, see ``experiments/specs/evidence.toml``.

    Attributes:
        seeds: seeds of each trained candidate.
        records_per_epoch: recording rates at which candidates are evaluated; the first is the rate
            at which they are calibrated.
        tolerances: tolerances of the first label in the sensitivity analysis.
        labels: by name in `LABELS`, the settings that differ from the bundled predictor's.
        candidates: the same by the candidate's name; each is compared with every label.
        ablations: the same, with the first seed and the first label only.
    """

    seeds: list
    records_per_epoch: list
    tolerances: list
    labels: dict
    candidates: dict
    ablations: dict


@dataclass(frozen=True)
class Job:
    """One candidate, fitted with one seed to the recorded runs of all families but ``family``."""

    candidate: str
    family: str
    seed: int
    training: Training
    recordings: tuple[str, ...]

    @property
    def id(self) -> str:
        """Hash of everything on which the outcome depends."""
        values = {**dataclasses.asdict(self), "training": self.training.identity}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def learns(self) -> bool:
        """Whether the candidate is a predictor, not a regression or a rule."""
        return self.candidate not in RULES and self.candidate not in REGRESSIONS

    @property
    def gives_probabilities(self) -> bool:
        """Whether the candidate's scores are probabilities of the label."""
        is_logistic = self.candidate in REGRESSIONS and self.training.label == "cka"
        return self.learns or is_logistic


def jobs(
    evidence: Evidence,
    training: Training,
    learned: Sequence[RunConfig],
    judged: Sequence[RunConfig],
) -> list[Job]:
    """Returns all jobs of the comparison.

    Args:
        evidence: design of the comparison.
        training: training settings of the bundled predictor.
        learned: recorded runs for fitting candidates.
        judged: recorded runs for evaluating candidates, disjoint from ``learned``.
    """
    assert not {each.id for each in learned} & {each.id for each in judged}
    values = dataclasses.asdict(training)
    ids = tuple(each.id for each in (*learned, *judged))

    def named(candidate: str, changes: Mapping[str, Any], seeds: Sequence[int]) -> list[Job]:
        changed = checked(Training, {**values, **changes}, f"evidence.{candidate}")
        return [
            Job(candidate, left_out, seed, changed, ids)
            for left_out in families()
            for seed in seeds
            if any(family(each.model) == left_out for each in judged)
        ]

    found = []
    for label, settings in evidence.labels.items():
        with_label = {"label": label, **settings}
        is_first = label == next(iter(evidence.labels))
        for candidate, changes in evidence.candidates.items():
            found += named(candidate, {**with_label, **changes}, evidence.seeds)
        for candidate, changes in evidence.ablations.items() if is_first else ():
            found += named(candidate, {**with_label, **changes}, evidence.seeds[:1])
        own = with_label.get("tolerance", training.tolerance)
        for tolerance in evidence.tolerances if is_first else [own]:
            for rival in (*REGRESSIONS, *RULES):
                changes = {**with_label, "tolerance": tolerance}
                found += named(rival, changes, evidence.seeds[:1])
    return found


def do(
    job: Job,
    learned: Sequence[RunConfig],
    judged: Sequence[RunConfig],
    paces: Sequence[int],
    on_step: Callable[[int, float], None],
) -> list[dict[str, Any]]:
    """Fits a job's candidate and evaluates it; returns a row for each recording rate.

    Args:
        job: the job.
        learned: recorded runs for fitting, as in `jobs`.
        judged: recorded runs for evaluation, as in `jobs`.
        paces: recording rates of the evaluation, in records per epoch.
        on_step: called after every step of a predictor's training.
    """
    size = job.training.size
    to_learn = [load_history(c, size) for c in learned if family(c.model) != job.family]
    to_judge = [load_history(c, size) for c in judged if family(c.model) == job.family]
    scorer, threshold = fitted(job, to_learn, on_step)
    recorded = judged[0].options.records_per_epoch  # type: ignore[union-attr]
    rows = []
    for pace in paces:
        stride = recorded // pace
        labels, scores = gathered(scorer, to_judge, job.training, stride)
        values = [values_of(each, job.training)[::stride][1:] for each in to_judge]
        rows.append(
            {
                "label": job.training.label,
                "candidate": job.candidate,
                "family": job.family,
                "seed": job.seed,
                "tolerance": job.training.tolerance,
                "records_per_epoch": pace,
                "threshold": threshold,
                **metrics(labels, scores, threshold, job.gives_probabilities, values),
                **_calibration(job, to_judge, labels, scores),
            }
        )
    return rows


def _calibration(
    job: Job, histories: Sequence[History], labels: Sequence[Tensor], scores: Sequence[Tensor]
) -> dict[str, Any]:
    """Returns calibration errors of fine-tuning and of training from scratch, and the bins."""
    if not job.gives_probabilities:
        return {f"calibration_error_{kind}": math.nan for kind in KINDS} | {"bins": []}
    found: dict[str, Any] = {"bins": reliability(flattened(labels), flattened(scores))}
    for kind, is_pretrained in KINDS.items():
        chosen = [i for i, each in enumerate(histories) if each.is_pretrained == is_pretrained]
        of_kind = (flattened([each[i] for i in chosen]) for each in (labels, scores))
        found[f"calibration_error_{kind}"] = calibration_error(*of_kind)
    return found


KINDS = {"fine_tuning": True, "scratch": False}
"""Kinds of runs by the end of their metrics' names: whether they start from pretrained weights."""


def fitted(
    job: Job, histories: Sequence[History], on_step: Callable[[int, float], None]
) -> tuple[Scorer, float]:
    """Returns a job's fitted candidate and its threshold, chosen on the calibration runs."""
    training = job.training
    if job.learns:
        predictor = fit(histories, training, job.seed, on_step)

        @torch.no_grad()
        def probability(history: History) -> Tensor:
            records = encoded(predictor, history)
            return predictor.decide_at_every_record(records).softmax(dim=2)[..., 1].T

        return probability, predictor.threshold
    to_learn, held_out = split(histories, job.seed)
    if job.candidate in RULES:
        scorer = RULES[job.candidate]
    else:
        thin = [thinned(each, training.stride) for each in to_learn]
        values = [values_of(each, training)[:: training.stride] for each in to_learn]
        scorer = regression(job.candidate, thin, values)
    labels, scores = gathered(scorer, held_out, training, training.stride)
    return scorer, freezing_threshold(scores, labels, training.precision)


def gathered(
    scorer: Scorer, histories: Sequence[History], training: Training, stride: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns labels and scores at every ``stride``-th record but the first, (R, L) per run."""
    labels = [all_labels_of(each, training)[::stride][1:] for each in histories]
    scores = [scorer(thinned(each, stride))[1:] for each in histories]
    return labels, scores


def values_of(history: History, training: Training) -> Tensor:
    """Returns what candidates should rank, (R, L): the higher, the earlier a layer should freeze.

    For the label ``contribution``, this is the negated `future_contribution`; for ``cka``, it is
    the label itself.
    """
    if training.label == "contribution":
        return -future_contribution(history.probe_contribution)
    return all_labels_of(history, training)
