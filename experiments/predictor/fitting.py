"""A predictor from recorded trainings: trained on most, calibrated on the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.predictor.metrics import flattened
from smartfrz.predictor import (
    AttentionPredictor,
    History,
    calibrate,
    freezing_threshold,
    stabilised,
    train_predictor,
)


@dataclass(frozen=True)
class Training:
    """How a predictor is trained.

    Attributes:
        encoding: what it sees, see `ENCODINGS`.
        tolerance: of the label, see `stabilised`.
        steps, lr, weight_decay: of `train_predictor`.
        stride: every how many-th record of a history is calibrated on.
        precision: how often the predictor is to freeze rightly on what it is calibrated on, which
            decides its threshold.
        window: records attended to.
        size: sampled weights per layer.
        pooling: ``attention``, or ``mean`` to weigh all records alike (an ablation).
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

    def __post_init__(self) -> None:
        if self.pooling not in ("attention", "mean"):
            raise ValueError(f"pooling is 'attention' or 'mean', not {self.pooling!r}.")


def split(histories: Sequence[History], seed: int) -> tuple[list[History], list[History]]:
    """Three quarters to learn from, one quarter to calibrate on; at least one of each.

    Raises:
        ValueError: there are less than two.
    """
    if len(histories) < 2:
        raise ValueError("One training is to learn from and another to calibrate on: record more.")
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
        histories: recorded trainings, at least two.
        training: how.
        seed: of the weights, the order of the examples, and what is held out for calibration.
        on_step: called with the step and the loss.

    Returns:
        The predictor, with ``threshold`` set.
    """
    to_learn, held_out = split(histories, seed)
    torch.manual_seed(seed)
    predictor = AttentionPredictor(
        size=training.size, window=training.window, encoding=training.encoding
    )
    if training.pooling == "mean":
        predictor.mlp_q = nn.Sequential(_NoQuery(predictor.features))
    train_predictor(
        predictor,
        to_learn,
        training.tolerance,
        training.steps,
        training.lr,
        training.weight_decay,
        seed,
        on_step,
    )
    labels = [labels_of(each, training) for each in held_out]
    logits = [logits_of(predictor, each, training) for each in held_out]
    calibrate(predictor, torch.cat([x.flatten(0, 1) for x in logits]), flattened(labels))
    scores = [probability_of(predictor, each, training) for each in held_out]
    predictor.threshold = freezing_threshold(scores, labels, training.precision)
    return predictor


def labels_of(history: History, training: Training) -> Tensor:
    """The labels of all layers at every ``stride``-th record but the first, (R, L) bool."""
    return stabilised(history.cka, training.tolerance)[:: training.stride][1:]


@torch.no_grad()
def logits_of(predictor: AttentionPredictor, history: History, training: Training) -> Tensor:
    """What a predictor says of these examples, (R, L, 2)."""
    records, _ = predictor.encode(history.weights[:: training.stride].transpose(0, 1))
    return predictor.decide_at_every_record(records)[:, 1:].transpose(0, 1)


def probability_of(predictor: AttentionPredictor, history: History, training: Training) -> Tensor:
    """The probability that it gives to "freeze", (R, L)."""
    return logits_of(predictor, history, training).softmax(dim=2)[..., 1]


class _NoQuery(nn.Module):
    """In place of MLP_q: with a query of zeros all records count alike."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, records: Tensor) -> Tensor:
        return records.new_zeros(*records.shape[:-1], self.features)
