"""What a run is: a frozen, validated description, whose hash is the run's id."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

METHODS = (
    *("full", "shorter", "linear", "autofreeze", "smartfrz", "similarity", "displacement"),
    *("random", "simfreeze", "record"),
)
AMP = ("none", "bf16", "fp16")
OPTIMIZERS = ("sgd", "adamw")
# Fields that came later count for a run's id only where they are set: older runs keep theirs.
_LATER = {
    "optimizer": "sgd",
    "warmup": 0.0,
    "max_length": 0,
    "recipe": "",
    "feature_cache": False,
    "budget": None,
}


@dataclass(frozen=True)
class Pretraining:
    """Where a run's first weights come from.

    Attributes:
        dataset: ``imagenet``, or ``books`` for BERT, for the published weights, or the data set to
            train on first.
        epochs: passes over it; with the fields below, unused for published weights.
        train_images: how many of its training images are used; 0 for all.
        batch_size: images per step.
        lr: base learning rate.
    """

    dataset: str
    epochs: float = 0.0
    train_images: int = 0
    batch_size: int = 32
    lr: float = 0.01


@dataclass(frozen=True)
class Shorter:
    """Full training that stops early, its learning rate annealed by then: the sceptic's control.

    ``match`` names the method whose compute, with the same seed, decides the number of epochs.
    """

    match: str = "smartfrz"


@dataclass(frozen=True)
class Linear:
    """Linear freezing (FreezeOut).

    ``match`` names the method whose compute, with the same seed, decides the number of epochs
    (Table 2); empty, the epochs are those of the config.
    """

    t0: float = 0.5
    how: str = "linear"
    scale: bool = False
    match: str = "smartfrz"


@dataclass(frozen=True)
class AutoFreezing:
    """AutoFreeze; the paper's choice (Appendix B) is M = 4 and N = 50.

    A fraction of an interval per epoch is for epochs that are shorter than the paper's.
    """

    intervals_per_epoch: int | float = 4
    percentile: float = 50.0


@dataclass(frozen=True)
class SmartFreezing:
    """SmartFRZ. ``predictor`` is the name of one that is bundled or made for the table, a folder or
    a Hub id; ``threshold`` is by default the predictor's own, and set by the plan; the fingerprint
    is the hash of its weights, or of its recipe."""

    predictor: str = "drift"
    records_per_epoch: int = 4
    records_per_decision: int = 1
    threshold: float | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Similarity:
    """Similarity-guided freezing, the oracle of Table 1, which looks once an epoch in the paper.

    CKA is measured on the first ``probe_images`` training images. The reference model is what the
    same run ends with by full training with ``reference_seed``.
    """

    looks_per_epoch: int | float = 1
    tolerance: float = 0.01
    probe_images: int = 128
    reference_seed: int = 1000


@dataclass(frozen=True)
class Displacement:
    """The rule that learns nothing: a layer is done when its weights hardly move any more."""

    records_per_epoch: int = 4
    threshold: float = 0.001


@dataclass(frozen=True)
class RandomOrdering:
    """Freezes layers in random order, which shows what a criterion is worth.

    The last freezes after ``span`` of the run. ``match`` names the method whose compute, with the
    same seed, decides the span; empty, it is that of the config.
    """

    match: str = "smartfrz"
    span: float = 1.0


@dataclass(frozen=True)
class InitialSimilarity:
    """Freezes by SimFreeze's criterion: CKA to the model that the run started from has stabilised.

    It is measured ``looks`` times in the run, on the first ``probe_images`` training images.
    """

    looks: int = 10
    tolerance: float = 0.01
    probe_images: int = 128


@dataclass(frozen=True)
class Recording:
    """Freezes nothing and records the predictor's training data.

    CKA is measured on the first ``probe_images`` test images.
    """

    records_per_epoch: int = 20
    sampled_weights: int = 4096
    probe_images: int = 256


OPTIONS: dict[str, type] = {
    "shorter": Shorter,
    "linear": Linear,
    "autofreeze": AutoFreezing,
    "smartfrz": SmartFreezing,
    "similarity": Similarity,
    "displacement": Displacement,
    "random": RandomOrdering,
    "simfreeze": InitialSimilarity,
    "record": Recording,
}


@dataclass(frozen=True)
class RunConfig:
    """One cell of a table: a model trained on a data set by a method with a seed.

    Attributes:
        epochs: passes over the training images; a fraction stops within an epoch. Where images are
            spoken of, sentences and pairs of them count as well.
        batch_size: images per step, over all processes.
        image_size: side in pixels that images are scaled to.
        train_images: how many training images are used, from the first; 0 for all.
        test_images: how many test images the final accuracy is measured on; 0 for all.
        curve_images: how many of them the accuracy after each epoch is measured on; 0 for all.
        augment: random crops (padding of an eighth) and horizontal flips.
        amp: autocast to ``bf16`` or ``fp16``, or ``none``.
        pretraining: where the first weights come from; ``None`` is from scratch.
        options: the method's own options.
        optimizer: ``sgd``, or ``adamw``, which has no use for the momentum.
        warmup: the part of the run in which the learning rate rises from zero, linearly.
        max_length: tokens that sentences are cut or padded to; for images unused.
        recipe: further random changes of images that are read from folders: ``deit``.
        feature_cache: remember what the frozen front says of each example; its dropout is off then.
        budget: the run ends, its learning rate annealed, when it has spent this part of the compute
            of full training; without, after so many epochs, whatever they cost.
    """

    model: str
    dataset: str
    method: str = "full"
    seed: int = 0
    epochs: float = 10.0
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    image_size: int = 32
    train_images: int = 0
    test_images: int = 0
    curve_images: int = 0
    augment: bool = True
    amp: str = "none"
    channels_last: bool = False
    compile: bool = False
    pretraining: Pretraining | None = None
    options: (
        Shorter
        | Linear
        | AutoFreezing
        | SmartFreezing
        | Similarity
        | Displacement
        | RandomOrdering
        | InitialSimilarity
        | Recording
        | None
    ) = field(default=None)
    optimizer: str = "sgd"
    warmup: float = 0.0
    max_length: int = 0
    recipe: str = ""
    feature_cache: bool = False
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"There is no method {self.method!r}: choose from {', '.join(METHODS)}."
            )
        if self.amp not in AMP:
            raise ValueError(f"There is no amp {self.amp!r}: choose from {', '.join(AMP)}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"There is no optimizer {self.optimizer!r}: choose from {', '.join(OPTIMIZERS)}."
            )
        if not 0 <= self.warmup < 1:
            raise ValueError("warmup is a part of the run, from 0 to below 1.")
        if self.epochs <= 0 or self.batch_size < 1 or self.lr <= 0:
            raise ValueError("epochs, batch_size and lr have to be positive.")
        if getattr(self.options, "records_per_epoch", 1) < 1:
            raise ValueError("records_per_epoch has to be at least 1.")
        for name in ("looks", "looks_per_epoch", "intervals_per_epoch"):
            if getattr(self.options, name, 1) <= 0:
                raise ValueError(f"{name} has to be positive.")
        if self.budget is not None:
            if not 0 < self.budget <= 1:
                raise ValueError("budget is a part of full training's compute, up to 1.")
            if isinstance(self.options, (Shorter, Linear, RandomOrdering)):
                raise ValueError(
                    f"Method {self.method!r} goes by a schedule of steps: match it with a method "
                    "that has a budget instead."
                )

    @property
    def id(self) -> str:
        """A hash of everything that the run's outcome depends on: 12 hexadecimal digits."""
        said = dataclasses.asdict(self)
        unset = {key for key, value in _LATER.items() if said[key] == value}
        text = json.dumps({k: v for k, v in said.items() if k not in unset}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def full_training(self) -> "RunConfig":
        """The same run with nothing frozen."""
        return dataclasses.replace(self, method="full", options=None, budget=None)

    @property
    def cell(self) -> str:
        """What the progress bar calls the run."""
        return f"{self.model} {self.dataset} {self.method} seed {self.seed}"


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """Builds a run's config from plain values, such as TOML or JSON gives.

    Raises:
        ValueError: a key is unknown, or a value has the wrong type.
    """
    values = dict(values)
    if values.get("pretraining") is not None:
        values["pretraining"] = checked(Pretraining, values["pretraining"], "pretraining")
    method = values.get("method", "full")
    if method in OPTIONS:
        options = {} if values.get("options") is None else values["options"]
        values["options"] = checked(OPTIONS[method], options, f"options.{method}")
    elif values.get("options") is not None:
        raise ValueError(f"Method {method!r} takes no options.")
    return checked(RunConfig, values, "run")


def checked(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``cls`` from ``values``, whose keys and types have to fit.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} = {values!r} is not a table of keys and values.")
    hints = typing.get_type_hints(cls)
    if unknown := values.keys() - hints.keys():
        raise ValueError(
            f"Unknown key {', '.join(sorted(unknown))} in {where}: it takes {', '.join(hints)}."
        )
    values = {key: _fitting(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _fitting(value: Any, hint: Any, where: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and int not in kinds and type(value) is int:
        return float(value)
    if not any(type(value) is kind for kind in kinds):
        raise ValueError(f"{where} = {value!r} is not of type {getattr(hint, '__name__', hint)}.")
    return value
