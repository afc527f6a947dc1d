"""What a run is: a frozen, validated description, whose hash is the run's id."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.methods import METHODS
from experiments.validation import checked

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
    options: Any = None
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
            if METHODS[self.method].schedule:
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
    kind = METHODS[method].options if method in METHODS else None
    if kind is not None:
        options = {} if values.get("options") is None else values["options"]
        values["options"] = checked(kind, options, f"options.{method}")
    elif values.get("options") is not None:
        raise ValueError(f"Method {method!r} takes no options.")
    return checked(RunConfig, values, "run")
