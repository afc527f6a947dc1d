"""The policy of each method, built from its options.

Each function has the name of its method in `METHODS`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from baselines import (
    SVCCA,
    AnnealedBody,
    AutoFreeze,
    AveragedBody,
    DisplacementRule,
    FreezeOut,
    FrozenGroup,
    HeadFirst,
    MeasuredContribution,
    Paced,
    RandomOrder,
    StaticPrefix,
    Unfreezing,
)
from baselines.freezeout import freeze_step
from baselines.random_order import freeze_steps
from experiments.config import RunConfig
from experiments.data.batches import Batches
from experiments.errors import UserError
from experiments.models.weights import load_weights
from experiments.options import (
    AutoFreezeOptions,
    ComputeOptions,
    DisplacementOptions,
    FrozenGroupOptions,
    LinearOptions,
    MeasuredOptions,
    PrefixThenBodyOptions,
    RandomOptions,
    RecordOptions,
    SimFreezeOptions,
    SimilarityOptions,
    SmartFRZOptions,
    SVCCAOptions,
    UnfreezingOptions,
)
from experiments.predictor.cache import load_predictor
from smartfrz import BudgetPlan, Policy, PrefixThenBody, SimilarityGuided, SmartFRZ
from smartfrz.distributed import unwrap
from smartfrz.graph import call
from smartfrz.predictor import HistoryRecorder

_PROBE = 32
"""Training examples on which a predictor of `OutputDrift` compares layers."""


@dataclass(frozen=True)
class Setting:
    """Arguments for building a policy.

    Attributes:
        config: the run.
        model: the model to train, wrapped in DDP or compiled if the run requires it.
        optimizer: its optimizer.
        batches: the run's data.
        total_steps: number of optimizer steps of the run.
    """

    config: RunConfig
    model: nn.Module
    optimizer: Optimizer
    batches: Batches
    total_steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in an epoch."""
        return self.batches.steps_per_epoch


def interval(steps: int, times: float) -> int:
    """Number of steps between two records or CKA measurements, at least 1.

    Args:
        steps: number of steps of an epoch or a run.
        times: number of records or measurements within them.
    """
    return max(1, int(steps / times))


def reference_run(config: RunConfig) -> RunConfig:
    """The full training run whose final model is the reference of similarity-guided freezing."""
    assert isinstance(config.options, SimilarityOptions)
    return replace(config.full_training, seed=config.options.reference_seed)


def linear(options: LinearOptions, setting: Setting) -> Policy:
    """FreezeOut, with the run's warmup."""
    return FreezeOut(
        setting.optimizer,
        setting.total_steps,
        options.t0,
        options.how,
        options.scale,
        warmup_steps=round(setting.config.warmup * setting.total_steps),
        compute=options.compute,
        freeze=options.freeze,
    )


def linear_freeze_steps(
    options: LinearOptions, names: Sequence[str], steps: int, seed: int
) -> dict[str, int]:
    """The first step in which linear freezing has frozen each layer; see `Schedule`."""
    return {
        name: min(freeze_step(steps, i, len(names), options.t0, options.how), steps)
        for i, name in enumerate(names)
    }


def autofreeze(options: AutoFreezeOptions, setting: Setting) -> Policy:
    """AutoFreeze."""
    exact = Fraction(options.intervals_per_epoch).limit_denominator(100)
    steps = setting.steps_per_epoch * exact.denominator
    if not 1 <= exact.numerator <= steps:
        raise UserError(
            f"options.autofreeze.intervals_per_epoch = {options.intervals_per_epoch} must be at "
            f"least 0.01 and at most the steps of an epoch, {setting.steps_per_epoch}."
        )
    return AutoFreeze(steps, exact.numerator, options.percentile)


def smartfrz(options: SmartFRZOptions, setting: Setting) -> Policy:
    """SmartFRZ."""
    predictor = load_predictor(options.predictor, options.fingerprint)
    return SmartFRZ(
        predictor,
        interval(setting.steps_per_epoch, options.records_per_epoch),
        options.records_per_decision,
        options.threshold,
        options.min_records,
        options.compute,
        None if options.compute is None else setting.total_steps,
        options.guard,
        setting.batches.probe(_PROBE) if predictor.reads_outputs else (),
        setting.config.batch_size,
    )


def similarity(options: SimilarityOptions, setting: Setting) -> Policy:
    """Similarity-guided freezing."""
    reference = copy.deepcopy(unwrap(setting.model))
    weights, _ = load_weights(reference_run(setting.config))
    reference.load_state_dict(weights)
    return SimilarityGuided(
        setting.model,
        reference,
        setting.batches.probe(options.probe_images),
        interval(setting.steps_per_epoch, options.looks_per_epoch),
        setting.config.batch_size,
        options.tolerance,
    )


def displacement(options: DisplacementOptions, setting: Setting) -> Policy:
    """The displacement rule."""
    steps = interval(setting.steps_per_epoch, options.records_per_epoch)
    return DisplacementRule(steps, options.threshold)


def random(options: RandomOptions, setting: Setting) -> Policy:
    """Random order, with the run's seed."""
    span = options.span if options.compute is None else None
    return RandomOrder(setting.total_steps, span, setting.config.seed, options.compute)


def random_freeze_steps(
    options: RandomOptions, names: Sequence[str], steps: int, seed: int
) -> dict[str, int]:
    """The first step in which random order has frozen each layer; see `Schedule`."""
    moments = freeze_steps(list(names), steps, options.span, seed)
    return {name: min(step + 1, steps) for name, step in moments.items()}


def simfreeze(options: SimFreezeOptions, setting: Setting) -> Policy:
    """Similarity to the initial model."""
    return SimilarityGuided(
        setting.model,
        copy.deepcopy(unwrap(setting.model)),
        setting.batches.probe(options.probe_images),
        interval(setting.total_steps, options.looks),
        setting.config.batch_size,
        options.tolerance,
    )


def svcca(options: SVCCAOptions, setting: Setting) -> Policy:
    """SVCCA."""
    return SVCCA(
        setting.model,
        setting.batches.probe(options.probe_images),
        interval(setting.total_steps, options.looks),
        setting.config.batch_size,
        options.tolerance,
    )


def measured(options: MeasuredOptions, setting: Setting) -> Policy:
    """Measured contribution."""
    steps = interval(setting.total_steps, options.looks)
    return MeasuredContribution(steps, options.compute, setting.total_steps)


def plan(options: ComputeOptions, setting: Setting) -> Policy:
    """The plan of SmartFRZ with a budget, without a predictor."""
    return BudgetPlan(options.compute, setting.total_steps)


def static_prefix(options: ComputeOptions, setting: Setting) -> Policy:
    """A static prefix."""
    return StaticPrefix(options.compute, setting.total_steps)


def prefix_then_body(options: PrefixThenBodyOptions, setting: Setting) -> Policy:
    """A prefix from the start, and the body later: at once, from front to back, or gently."""
    plan = setting.total_steps, options.prefix, options.compute
    if options.average:
        return AveragedBody(*plan, options.average)
    if options.anneal or not options.freeze:
        return AnnealedBody(*plan, options.anneal, options.freeze)
    return PrefixThenBody(*plan, options.spread)


def paced(options: ComputeOptions, setting: Setting) -> Policy:
    """Front to back at an even pace."""
    return Paced(setting.total_steps, options.compute)


def unfreezing(options: UnfreezingOptions, setting: Setting) -> Policy:
    """Gradual unfreezing from the head."""
    return Unfreezing(setting.total_steps, options.compute, options.over)


def head_first(options: ComputeOptions, setting: Setting) -> Policy:
    """The head alone, then all layers."""
    return HeadFirst(setting.total_steps, options.compute)


def frozen_group(options: FrozenGroupOptions, setting: Setting) -> Policy:
    """One group of layers, at one moment."""
    step = round(options.at * setting.total_steps)
    return FrozenGroup(step, options.group, options.groups)


def record(options: RecordOptions, setting: Setting) -> Policy:
    """A recorder of the predictor's training data."""
    examples = list(setting.batches.test(options.probe_images, batch_size=32))
    probe = [inputs for inputs, _ in examples]
    model = unwrap(setting.model)

    def probe_loss() -> Tensor:
        losses = [F.cross_entropy(call(model, inputs), labels) for inputs, labels in examples]
        return torch.stack(losses).mean()

    steps = interval(setting.steps_per_epoch, options.records_per_epoch)
    is_pretrained = setting.config.pretraining is not None
    return HistoryRecorder(
        setting.model,
        probe,
        steps,
        options.sampled_weights,
        probe_loss=probe_loss,
        is_pretrained=is_pretrained,
    )
