"""Training of the predictor on labelled histories (Section 3.4)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.labels import LABELS
from smartfrz.predictor.outputs import output_drift_of
from smartfrz.predictor.recorded import History


def train_predictor(
    predictor: AttentionPredictor,
    histories: Sequence[History],
    tolerance: float,
    steps: int,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    label: str = "cka",
) -> None:
    """Trains a predictor on labelled histories.

    Each step draws some histories, some layers of each, and a stride between records, from which
    the predictor learns to work at any recording interval. All records except the first are
    examples, each with the window that ends there. Labels are not rebalanced, so the probabilities
    are those of the data. The optimizer is AdamW with cosine annealing to zero. SGD, which the
    paper names (Sec. 4.1), takes far longer to reach the same loss. The result is bitwise
    reproducible on a single CPU thread.

    Args:
        predictor: the predictor, trained in place and left in eval mode.
        histories: the recorded runs, with at least four records each.
        tolerance: the tolerance of the labels, see `stabilised` and `exhausted`.
        steps: the number of optimizer steps.
        lr: the base learning rate.
        weight_decay: the weight decay of AdamW.
        seed: the seed for drawing the examples.
        on_step: called with the step and the loss.
        label: what is learned, one of `LABELS`.

    Raises:
        ValueError: the histories contain only one of the two labels, or one is too short.
    """
    least = 2 * min(STRIDES)
    if any(len(history.weights) < least for history in histories):
        raise ValueError(
            f"Histories with less than {least} records are too short to learn from. Record longer "
            "runs or more often."
        )
    labels = [LABELS[label](history, tolerance) for history in histories]
    if len({bool(each) for label in labels for each in label[1:].unique()}) < 2:
        raise ValueError(
            f"With tolerance {tolerance}, all records have the same label and nothing can be "
            "learned. Choose another tolerance."
        )
    optimizer = torch.optim.AdamW(predictor.parameters(), lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    predictor.train()
    for step in range(steps):
        total = 0.0
        for _ in range(_HISTORIES_PER_STEP):
            i = int(torch.randint(len(histories), (1,), generator=generator))
            loss = _loss(predictor, histories[i], labels[i], generator)
            (loss / _HISTORIES_PER_STEP).backward()
            total += loss.item() / _HISTORIES_PER_STEP
        nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        on_step(step, total)
    predictor.eval()


_HISTORIES_PER_STEP, _LAYERS_PER_HISTORY = 2, 8


STRIDES = (2, 5, 10)
"""Strides between the records of a history from which a predictor is trained."""


@torch.no_grad()
def encoded(
    predictor: AttentionPredictor, history: History, stride: int = 1, offset: int = 0
) -> Tensor:
    """Encodes every ``stride``-th record of a recorded run for a predictor.

    Args:
        predictor: the predictor; its encoding says what it reads of the history.
        history: R records of L layers.
        stride: the distance between records.
        offset: the first record.

    Returns:
        (L, R', size), for `AttentionPredictor.decide_at_every_record`.
    """
    if predictor.reads_outputs:
        return predictor.encode(output_drift_of(history, stride, offset))[0]
    return predictor.encode(history.weights[offset::stride].transpose(0, 1))[0]


def _loss(
    predictor: AttentionPredictor, history: History, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Computes the cross-entropy over some layers of a history, at a random stride."""
    strides = [stride for stride in STRIDES if len(labels) // stride >= 2]
    stride = strides[int(torch.randint(len(strides), (1,), generator=generator))]
    offset = int(torch.randint(stride, (1,), generator=generator))
    layers = torch.randperm(labels.shape[1], generator=generator)[:_LAYERS_PER_HISTORY]
    records = encoded(predictor, history, stride, offset)
    targets = labels[offset::stride, layers].T.long()
    logits = predictor.decide_at_every_record(records[layers])
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), targets[:, 1:].flatten())
