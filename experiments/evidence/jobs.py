"""Jobs that fit a candidate to all families but one and evaluate it on the one left out."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.config import RunConfig
from experiments.evidence.simple_predictors import REGRESSIONS, RULES, probability_by, regression
from experiments.models.registry import families, family
from experiments.predictor.fitting import Training, fit, split
from experiments.predictor.metrics import flattened, metrics, reliability
from experiments.runs.recording import load_history
from experiments.validation import checked
from smartfrz.predictor import History, freezing_threshold, stabilised

Scorer = Callable[[History], Tensor]
"""Maps a history to scores (R, L); a higher score freezes a layer earlier."""


@dataclass(frozen=True)
class Evidence:
    """Design of the comparison, see ``experiments/specs/evidence.toml``.

    Attributes:
        seeds: seeds of each trained candidate.
        records_per_epoch: recording rates at which candidates are evaluated; the first is the rate
            at which they are calibrated.
        tolerances: label tolerances of the sensitivity analysis.
        candidates: by name, the settings that differ from the bundled predictor's.
        ablations: the same, with the first seed only.
    """

    seeds: list
    records_per_epoch: list
    tolerances: list
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
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def learns(self) -> bool:
        """Whether the candidate is a predictor, not a regression or a rule."""
        return self.candidate not in RULES and self.candidate not in REGRESSIONS


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
    for candidate, changes in evidence.candidates.items():
        found += named(candidate, changes, evidence.seeds)
    for candidate, changes in evidence.ablations.items():
        found += named(candidate, changes, evidence.seeds[:1])
    for tolerance in evidence.tolerances:
        for rival in (*REGRESSIONS, *RULES):
            found += named(rival, {"tolerance": tolerance}, evidence.seeds[:1])
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
        labels, scores = gathered(scorer, to_judge, job.training.tolerance, recorded // pace)
        rows.append(
            {
                "candidate": job.candidate,
                "family": job.family,
                "seed": job.seed,
                "tolerance": job.training.tolerance,
                "records_per_epoch": pace,
                "threshold": threshold,
                **metrics(labels, scores, threshold, job.candidate not in RULES),
                "bins": []
                if job.candidate in RULES
                else reliability(flattened(labels), flattened(scores)),
            }
        )
    return rows


def fitted(
    job: Job, histories: Sequence[History], on_step: Callable[[int, float], None]
) -> tuple[Scorer, float]:
    """Returns a job's fitted candidate and its threshold, chosen on the calibration runs."""
    training = job.training
    if job.learns:
        predictor = fit(histories, training, job.seed, on_step)

        @torch.no_grad()
        def probability(history: History) -> Tensor:
            records, _ = predictor.encode(history.weights.transpose(0, 1))
            return predictor.decide_at_every_record(records).softmax(dim=2)[..., 1].T

        return probability, predictor.threshold
    to_learn, held_out = split(histories, job.seed)
    if job.candidate in RULES:
        scorer = RULES[job.candidate]
    else:
        thin = [thinned(each, training.stride) for each in to_learn]
        labels = [stabilised(h.cka, training.tolerance)[:: training.stride] for h in to_learn]
        scorer = probability_by(regression(job.candidate, thin, labels), job.candidate)
    labels_, scores = gathered(scorer, held_out, training.tolerance, training.stride)
    return scorer, freezing_threshold(scores, labels_, training.precision)


def gathered(
    scorer: Scorer, histories: Sequence[History], tolerance: float, stride: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns labels and scores at every ``stride``-th record but the first, (R, L) per run."""
    labels = [stabilised(h.cka, tolerance)[::stride][1:] for h in histories]
    scores = [scorer(thinned(history, stride))[1:] for history in histories]
    return labels, scores


def thinned(history: History, stride: int) -> History:
    """Returns every ``stride``-th record of a history.

    This is what recording less often gives, except that gradients and losses are summed over the
    original, shorter intervals.
    """
    return History(**{name: tensor[::stride] for name, tensor in vars(history).items()})
