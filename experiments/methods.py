"""Registry of methods: the options, policy, label, colour and marker of each.

To add a method, write its policy (one file in ``baselines/``), a dataclass of its options
(``experiments/options.py``), a function that builds the policy from them
(``experiments/policies.py``), and one entry in `METHODS`. Specs, plans, runs, tables,
figures and tracking all read the registry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments import policies
from experiments.config import Pretraining, RunConfig
from experiments.errors import UserError
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
    ShorterOptions,
    SimFreezeOptions,
    SimilarityOptions,
    SmartFRZOptions,
    SVCCAOptions,
    UnfreezingOptions,
)
from experiments.policies import Setting, interval, reference_run
from experiments.validation import checked
from smartfrz import Policy

__all__ = ["METHODS", "Method", "Schedule", "Setting", "interval", "make_config", "reference_run"]


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


# Okabe and Ito's palette, which is distinguishable with all forms of colour blindness, and beyond
# its eight colours some of Tol's. Where two are similar, the markers tell methods apart.
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
        policies.linear,
        schedule=Schedule(policies.linear_freeze_steps, "epochs"),
        sets_learning_rates=True,
    ),
    "autofreeze": Method("AutoFreeze", "#E69F00", "D", AutoFreezeOptions, policies.autofreeze),
    "smartfrz": Method("SmartFRZ", "#009E73", "o", SmartFRZOptions, policies.smartfrz),
    "similarity": Method(
        "Similarity-guided",
        "#56B4E9",
        "P",
        SimilarityOptions,
        policies.similarity,
        is_control=True,
        reference_runs=lambda config: [reference_run(config)],
    ),
    "displacement": Method(
        "Displacement rule",
        "#CC79A7",
        "v",
        DisplacementOptions,
        policies.displacement,
        is_control=True,
    ),
    "random": Method(
        "Random order",
        "#999999",
        "h",
        RandomOptions,
        policies.random,
        is_control=True,
        schedule=Schedule(policies.random_freeze_steps, "span"),
    ),
    "simfreeze": Method(
        "CKA to the start", "#F0E442", "p", SimFreezeOptions, policies.simfreeze, is_control=True
    ),
    "svcca": Method("SVCCA", "#882255", "<", SVCCAOptions, policies.svcca, is_control=True),
    "measured": Method(
        "Measured contribution",
        "#661100",
        r"$\clubsuit$",
        MeasuredOptions,
        policies.measured,
        is_control=True,
    ),
    "plan": Method("Plan alone", "#44AA99", r"$P$", ComputeOptions, policies.plan, is_control=True),
    "static_prefix": Method(
        "Static prefix", "#332288", "8", ComputeOptions, policies.static_prefix, is_control=True
    ),
    "prefix_then_body": Method(
        "Prefix, then body",
        "#CC3311",
        "*",
        PrefixThenBodyOptions,
        policies.prefix_then_body,
        is_control=True,
    ),
    "paced": Method("Even pace", "#117733", ">", ComputeOptions, policies.paced, is_control=True),
    "unfreezing": Method(
        "Gradual unfreezing",
        "#AA4499",
        "d",
        UnfreezingOptions,
        policies.unfreezing,
        is_control=True,
    ),
    "head_first": Method(
        "Head first", "#999933", "H", ComputeOptions, policies.head_first, is_control=True
    ),
    "frozen_group": Method(
        "Frozen group",
        "#DDCC77",
        "$G$",
        FrozenGroupOptions,
        policies.frozen_group,
        is_control=True,
    ),
    "record": Method("Recording", options=RecordOptions, policy=policies.record, is_recording=True),
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
    if config.schedule != "cosine" and METHODS[config.method].sets_learning_rates:
        raise UserError(
            f"Method {config.method!r} sets the learning rates and takes no schedule: remove "
            f"schedule = {config.schedule!r}."
        )
    if config.budget is not None and METHODS[config.method].schedule:
        raise UserError(
            f"Method {config.method!r} freezes on a fixed schedule of steps and takes no budget: "
            "set its option `match` to a method with a budget, or its option `compute`, instead."
        )
    if config.budget is not None and getattr(config.options, "compute", None) is not None:
        raise UserError(
            f"Method {config.method!r} spends its option `compute` and takes no budget: set the "
            "option instead."
        )
    return config
