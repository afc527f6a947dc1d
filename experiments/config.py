"""Run configurations: frozen and validated dataclasses, whose hash is the run's id."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from experiments.errors import UserError

AMP = ("none", "bf16", "fp16")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant", "step", "restarts")
# Fields and options added later enter the hash only if they differ from these defaults: the ids of
# older runs must not change.
_DEFAULTS_OF_LATER_FIELDS = {
    "optimizer": "sgd",
    "warmup": 0.0,
    "max_length": 0,
    "recipe": "",
    "feature_cache": False,
    "budget": None,
    "layer_decay": 1.0,
    "validation": False,
    "schedule": "cosine",
}
_DEFAULTS_OF_LATER_OPTIONS = {
    **{"min_records": 2, "guard": False},
    **{"freeze": True, "compute": None, "spread": 0.0, "anneal": 0.0, "average": 0.0},
}


@dataclass(frozen=True)
class Pretraining:
    """The source of a run's initial weights.

    Attributes:
        dataset: ``imagenet``, ``books`` for BERT or ``sentence_pairs`` for MiniLM, for published
            weights; otherwise the data set of the pretraining run.
        epochs: passes over that data set. Unused for published weights, as are the fields below.
        train_images: number of its training images that are used; 0 for all.
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
    """One cell of a table: a model, a data set, a method, a seed and the hyperparameters.

    For text data sets, "images" stands for examples: sentences or pairs of sentences.

    Attributes:
        epochs: passes over the training images; a fractional value stops within an epoch.
        batch_size: images per step, in all processes together.
        image_size: side in pixels to which images are scaled.
        train_images: number of training images, counted from the first; 0 for all.
        test_images: number of test images for the final accuracy; 0 for all.
        curve_images: number of test images for the accuracy after each epoch; 0 for all.
        augment: random crops (padding: an eighth of the side) and horizontal flips.
        amp: autocast to ``bf16`` or ``fp16``, or ``none``.
        pretraining: source of the initial weights; ``None`` trains from scratch.
        options: the method's own options.
        optimizer: ``sgd``, or ``adamw``, which ignores ``momentum``.
        warmup: fraction of the run during which the learning rate rises linearly from zero.
        max_length: number of tokens to which sentences are cut or padded; unused for images.
        recipe: additional augmentation of images that are read from folders: ``deit``.
        feature_cache: cache the frozen prefix's features of each example, which disables dropout
            in the frozen prefix.
        budget: fraction of full training's compute. The run ends once it is spent, with the
            learning rate annealed by then; ``None`` ends it after ``epochs``, whatever they cost.
        layer_decay: factor by which the learning rate falls from each layer to the one before it,
            beginning with the head, which has ``lr``.
        validation: hold out the last tenth of the training set and test on it in place of the test
            set, for choosing hyperparameters.
        schedule: the learning rate after the warmup: ``cosine``, annealed to zero; ``constant``;
            ``step``, a tenth after half of the rest and a hundredth after three quarters; or
            ``restarts``, three cosines. Not for methods that set the learning rates.
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
    layer_decay: float = 1.0
    validation: bool = False
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        if self.amp not in AMP:
            raise UserError(f"There is no amp {self.amp!r}: choose from {', '.join(AMP)}.")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(
                f"There is no optimizer {self.optimizer!r}: choose from {', '.join(OPTIMIZERS)}."
            )
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"There is no schedule {self.schedule!r}: choose from {', '.join(SCHEDULES)}."
            )
        if not 0 <= self.warmup < 1:
            raise UserError("warmup is a fraction of the run: it must be at least 0 and below 1.")
        if not 0 < self.layer_decay <= 1:
            raise UserError(
                "layer_decay is a factor of learning rates: it must be above 0 and at most 1."
            )
        if self.epochs <= 0 or self.batch_size < 1 or self.lr <= 0:
            raise UserError("epochs, batch_size and lr must be positive.")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise UserError(
                "budget is a fraction of full training's compute: it must be above 0 and at most 1."
            )

    @property
    def id(self) -> str:
        """Hash of everything that determines the run's outcome: 12 hexadecimal digits."""
        values = _without(dataclasses.asdict(self), _DEFAULTS_OF_LATER_FIELDS)
        if values["options"]:
            values["options"] = _without(values["options"], _DEFAULTS_OF_LATER_OPTIONS)
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def full_training(self) -> "RunConfig":
        """The same run without freezing: method ``full``, without options and budget."""
        return dataclasses.replace(self, method="full", options=None, budget=None)

    @property
    def cell(self) -> str:
        """A short description of the run for progress bars and messages."""
        return f"{self.model} {self.dataset} {self.method} seed {self.seed}"


def _without(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns the values except those that equal their defaults."""
    return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}
