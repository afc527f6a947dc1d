"""Registry of methods: the options, policy, label, colour and marker of each.

To add a method, write its policy (one file in ``baselines/``), a dataclass of its options, a
function that builds the policy from them, and one entry in `METHODS`. Specs, plans, runs, tables,
figures and tracking all read the registry.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from baselines import SVCCA, AutoFreeze, DisplacementRule, FreezeOut, RandomOrder
from baselines.freezeout import freeze_step
from baselines.random_order import freeze_steps
from experiments.config import Pretraining, RunConfig
from experiments.data.batches import Batches
from experiments.errors import UserError
from experiments.models.weights import load_weights
from experiments.options import (
    AutoFreezeOptions,
    DisplacementOptions,
    LinearOptions,
    RandomOptions,
    RecordOptions,
    ShorterOptions,
    SimFreezeOptions,
    SimilarityOptions,
    SmartFRZOptions,
    SVCCAOptions,
)
from experiments.predictor.cache import load_predictor
from experiments.validation import checked
from smartfrz import Policy, SimilarityGuided, SmartFRZ
from smartfrz.distributed import unwrap
from smartfrz.predictor import HistoryRecorder


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


@dataclass(frozen=True)
class Schedule:
    """Freezing schedule of a method that fixes it before the run starts.

    Attributes:
        freeze_steps: maps the method's options, the names of all layers but the head, the number
            of steps and the seed to the first step in which each layer is frozen.
        matched_by: the setting that is adjusted to match another run's compute: the number of
            ``epochs``, or the ``span`` of the run within which layers freeze.
    """

    freeze_steps: Callable[[Any, Sequence[str], int, int], dict[str, int]]
    matched_by: Literal["epochs", "span"]


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Attributes:
        label: its name in tables and figures.
        color: its colour in figures and dashboards, ``#rrggbb``.
        marker: its matplotlib marker in figures.
        options: dataclass of its options; None if it has none.
        policy: builds the policy from the options; None trains without a policy.
        is_control: whether it only serves as a control or an oracle and is not meant for use.
        schedule: its freezing schedule, if that is fixed before the run starts.
        sets_learning_rates: whether the policy sets the learning rate of each layer.
        reference_runs: returns the runs whose final weights the policy needs.
        is_recording: whether its runs record training data for the predictor.
    """

    label: str
    color: str = "#F0E442"
    marker: str = "h"
    options: type | None = None
    policy: Callable[[Any, Setting], Policy] | None = None
    is_control: bool = False
    schedule: Schedule | None = None
    sets_learning_rates: bool = False
    reference_runs: Callable[[RunConfig], list[RunConfig]] = lambda config: []
    is_recording: bool = False


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


def _linear(options: LinearOptions, setting: Setting) -> Policy:
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


def _linear_freeze_steps(
    options: LinearOptions, names: Sequence[str], steps: int, seed: int
) -> dict[str, int]:
    return {
        name: min(freeze_step(steps, i, len(names), options.t0, options.how), steps)
        for i, name in enumerate(names)
    }


def _autofreeze(options: AutoFreezeOptions, setting: Setting) -> Policy:
    exact = Fraction(options.intervals_per_epoch).limit_denominator(100)
    steps = setting.steps_per_epoch * exact.denominator
    if not 1 <= exact.numerator <= steps:
        raise UserError(
            f"options.autofreeze.intervals_per_epoch = {options.intervals_per_epoch} must be at "
            f"least 0.01 and at most the steps of an epoch, {setting.steps_per_epoch}."
        )
    return AutoFreeze(steps, exact.numerator, options.percentile)


def _smartfrz(options: SmartFRZOptions, setting: Setting) -> Policy:
    return SmartFRZ(
        load_predictor(options.predictor, options.fingerprint),
        interval(setting.steps_per_epoch, options.records_per_epoch),
        options.records_per_decision,
        options.threshold,
        options.min_records,
    )


def _similarity(options: SimilarityOptions, setting: Setting) -> Policy:
    reference = copy.deepcopy(unwrap(setting.model))
    weights, _ = load_weights(reference_run(setting.config))
    reference.load_state_dict(weights)
    return SimilarityGuided(
        setting.model,
        reference,
        setting.batches.probe(options.probe_images),
        interval(setting.steps_per_epoch, options.looks_per_epoch),
        options.tolerance,
    )


def _displacement(options: DisplacementOptions, setting: Setting) -> Policy:
    steps = interval(setting.steps_per_epoch, options.records_per_epoch)
    return DisplacementRule(steps, options.threshold)


def _random(options: RandomOptions, setting: Setting) -> Policy:
    return RandomOrder(setting.total_steps, options.span, setting.config.seed)


def _random_freeze_steps(
    options: RandomOptions, names: Sequence[str], steps: int, seed: int
) -> dict[str, int]:
    moments = freeze_steps(list(names), steps, options.span, seed)
    return {name: min(step + 1, steps) for name, step in moments.items()}


def _simfreeze(options: SimFreezeOptions, setting: Setting) -> Policy:
    return SimilarityGuided(
        setting.model,
        copy.deepcopy(unwrap(setting.model)),
        setting.batches.probe(options.probe_images),
        interval(setting.total_steps, options.looks),
        options.tolerance,
    )


def _svcca(options: SVCCAOptions, setting: Setting) -> Policy:
    return SVCCA(
        setting.model,
        setting.batches.probe(options.probe_images),
        interval(setting.total_steps, options.looks),
        options.tolerance,
    )


def _record(options: RecordOptions, setting: Setting) -> Policy:
    examples = setting.batches.test(options.probe_images, batch_size=32)
    probe = [inputs for inputs, _ in examples]
    steps = interval(setting.steps_per_epoch, options.records_per_epoch)
    return HistoryRecorder(setting.model, probe, steps, options.sampled_weights)


# Okabe and Ito's palette, which is distinguishable with all forms of colour blindness.
METHODS: dict[str, Method] = {
    "full": Method("Full training", "#000000", "s"),
    "shorter": Method(
        "Shorter training",
        "#D55E00",
        "X",
        ShorterOptions,
        is_control=True,
        schedule=Schedule(lambda options, names, steps, seed: {}, "epochs"),
    ),
    "linear": Method(
        "Linear freezing",
        "#0072B2",
        "^",
        LinearOptions,
        _linear,
        schedule=Schedule(_linear_freeze_steps, "epochs"),
        sets_learning_rates=True,
    ),
    "autofreeze": Method("AutoFreeze", "#E69F00", "D", AutoFreezeOptions, _autofreeze),
    "smartfrz": Method("SmartFRZ", "#009E73", "o", SmartFRZOptions, _smartfrz),
    "similarity": Method(
        "Similarity-guided",
        "#56B4E9",
        "P",
        SimilarityOptions,
        _similarity,
        is_control=True,
        reference_runs=lambda config: [reference_run(config)],
    ),
    "displacement": Method(
        "Displacement rule", "#CC79A7", "v", DisplacementOptions, _displacement, is_control=True
    ),
    "random": Method(
        "Random order",
        "#999999",
        "h",
        RandomOptions,
        _random,
        is_control=True,
        schedule=Schedule(_random_freeze_steps, "span"),
    ),
    "simfreeze": Method(
        "CKA to the start", "#F0E442", "p", SimFreezeOptions, _simfreeze, is_control=True
    ),
    "svcca": Method("SVCCA", "#882255", "<", SVCCAOptions, _svcca, is_control=True),
    "record": Method("Recording", options=RecordOptions, policy=_record, is_recording=True),
}
"""All methods by their names in specs, in the order of tables and legends."""


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """Builds a run's config from plain values, as read from TOML or JSON.

    Raises:
        UserError: a key is unknown, or a value is of the wrong type or out of range.
    """
    values = dict(values)
    if values.get("pretraining") is not None:
        values["pretraining"] = checked(Pretraining, values["pretraining"], "pretraining")
    method = values.get("method", "full")
    kind = METHODS[method].options if method in METHODS else None
    if kind is not None:
        options = {} if values.get("options") is None else values["options"]
        values["options"] = checked(kind, options, f"options.{method}")
    elif values.get("options") is not None:
        raise UserError(f"Method {method!r} takes no options.")
    config = checked(RunConfig, values, "run")
    if config.method not in METHODS:
        raise UserError(f"There is no method {config.method!r}: choose from {', '.join(METHODS)}.")
    if config.budget is not None and METHODS[config.method].schedule:
        raise UserError(
            f"Method {config.method!r} freezes on a fixed schedule of steps and takes no budget: "
            "set its option `match` to a method with a budget, or its option `compute`, instead."
        )
    return config
