"""Training and calibration of a predictor on recorded runs."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.errors import UserError
from experiments.predictor.metrics import flattened
from smartfrz.predictor import (
    ENCODINGS,
    LABELS,
    WIDTH,
    AttentionPredictor,
    History,
    calibrate,
    encoded,
    freezing_threshold,
    train_predictor,
)

# A record of outputs has few values.
_SIZES_FOR_OUTPUTS = {"size": WIDTH, "hidden": 8, "features": 8, "head_hidden": 8}

# As for runs: the ids of older recipes must not change.
_DEFAULTS_OF_LATER_FIELDS = {"label": "cka"}


@dataclass(frozen=True)
class Training:
    """Training settings of a predictor.

    Attributes:
        encoding: encoding of the weight records, see `ENCODINGS`.
        tolerance: tolerance of the label, see `stabilised` and `exhausted`.
        steps, lr, weight_decay: arguments of `train_predictor`.
        stride: calibration uses every ``stride``-th record of a history.
        precision: required fraction of correctly frozen layers on the calibration set, which
            determines the threshold.
        window: number of records attended to.
        size: number of sampled weights per layer.
        pooling: ``attention``, or ``mean`` for equal weights of all records (an ablation).
        label: what is predicted, one of `LABELS`.
    """

    encoding: str
    tolerance: float
    steps: int
    lr: float
    weight_decay: float
    stride: int = 5
    precision: float = 0.9
    window: int = 30
    size: int = 1024
    pooling: str = "attention"
    label: str = "cka"

    def __post_init__(self) -> None:
        if self.pooling not in ("attention", "mean"):
            raise UserError(f"pooling must be 'attention' or 'mean', not {self.pooling!r}.")
        if self.encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise UserError(f"There is no encoding {self.encoding!r}: choose from {known}.")
        if self.label not in LABELS:
            raise UserError(f"There is no label {self.label!r}: choose from {', '.join(LABELS)}.")
        if min(self.steps, self.stride, self.window, self.size) < 1:
            raise UserError("steps, stride, window and size must be at least 1.")

    @property
    def identity(self) -> dict[str, Any]:
        """The settings as they enter ids: without later fields that have their defaults."""
        values = dataclasses.asdict(self)
        later = _DEFAULTS_OF_LATER_FIELDS
        return {k: v for k, v in values.items() if k not in later or v != later[k]}


def split(histories: Sequence[History], seed: int) -> tuple[list[History], list[History]]:
    """Splits histories into three quarters for training and one quarter for calibration.

    Each part contains at least one history.

    Raises:
        UserError: there are fewer than two histories.
    """
    if len(histories) < 2:
        raise UserError(
            "A predictor needs at least one recorded run for training and another for calibration: "
            "record more runs."
        )
    order = torch.randperm(len(histories), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(1, len(histories) // 4)
    return [histories[i] for i in order[held_out:]], [histories[i] for i in order[:held_out]]


def fit(
    histories: Sequence[History],
    training: Training,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> AttentionPredictor:
    """Trains a predictor, calibrates it, and chooses its threshold.

    Args:
        histories: recorded runs, at least two.
        training: training settings.
        seed: seed of the initial weights, the order of the examples, and the calibration split.
        on_step: called with the step and the loss.

    Returns:
        The predictor, with ``threshold`` set.

    Raises:
        UserError: there are too few runs, or all their records have the same label.
    """
    to_learn, held_out = split(histories, seed)
    labels = [labels_of(each, training) for each in held_out]
    for part in (labels, [all_labels_of(each, training)[1:] for each in to_learn]):
        if len(flattened(part).unique()) < 2:
            raise UserError(
                f"With tolerance = {training.tolerance}, all records for training or all for "
                "calibration have the same label: choose another tolerance, or record more runs."
            )
    torch.manual_seed(seed)
    of_outputs = ENCODINGS[training.encoding].of_outputs
    sizes = _SIZES_FOR_OUTPUTS if of_outputs else {"size": training.size}
    predictor = AttentionPredictor(**sizes, window=training.window, encoding=training.encoding)
    if training.pooling == "mean":
        predictor.mlp_q = nn.Sequential(_ZeroQuery(predictor.features))
    train_predictor(
        predictor,
        to_learn,
        training.tolerance,
        training.steps,
        training.lr,
        training.weight_decay,
        seed,
        on_step,
        training.label,
    )
    logits = [logits_of(predictor, each, training) for each in held_out]
    calibrate(predictor, torch.cat([x.flatten(0, 1) for x in logits]), flattened(labels))
    scores = [probability_of(predictor, each, training) for each in held_out]
    predictor.threshold = freezing_threshold(scores, labels, training.precision)
    return predictor


def all_labels_of(history: History, training: Training) -> Tensor:
    """Returns the labels of all layers at every record, (R, L) bool."""
    return LABELS[training.label](history, training.tolerance)


def labels_of(history: History, training: Training) -> Tensor:
    """Returns the labels of all layers at every ``stride``-th record but the first, (R, L) bool."""
    return all_labels_of(history, training)[:: training.stride][1:]


@torch.no_grad()
def logits_of(predictor: AttentionPredictor, history: History, training: Training) -> Tensor:
    """Returns the predictor's logits for the examples of `labels_of`, (R, L, 2)."""
    records = encoded(predictor, history, training.stride)
    return predictor.decide_at_every_record(records)[:, 1:].transpose(0, 1)


def probability_of(predictor: AttentionPredictor, history: History, training: Training) -> Tensor:
    """Returns the predicted probability of "freeze" for the same examples, (R, L)."""
    return logits_of(predictor, history, training).softmax(dim=2)[..., 1]


class _ZeroQuery(nn.Module):
    """Replacement of MLP_q that returns zeros, which gives all records equal attention."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, records: Tensor) -> Tensor:
        return records.new_zeros(*records.shape[:-1], self.features)
