"""The predictor's training data (Sec. 3.4): recorded histories, labelled by CKA; and training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smartfrz.cka import gram_vectors
from smartfrz.layers import Layer
from smartfrz.predictor import AttentionPredictor
from smartfrz.tailoring import Tailor
from smartfrz.tracing import Inputs


@dataclass(frozen=True)
class History:
    """One training, recorded: R records of L layers.

    Attributes:
        weights: (R, L, size) tailored weights, oldest first.
        cka: (R, L) similarity of each layer's output to what it is at the last record.
        gradient: (R, L) L1 norm of each layer's gradient, summed over the steps since the record
            before; the record's own step, the only one of the first record, is included.
        loss: (R,) the mean training loss of the same steps.
    """

    weights: Tensor
    cka: Tensor
    gradient: Tensor
    loss: Tensor


class HistoryRecorder:
    """A policy that freezes nothing and records what the predictor learns from.

    The paper's "well-trained model" (Sec. 3.4), to which the layers are compared, is here the model
    that the training itself ends with. So no other one is needed: of every record the Gram matrices
    are kept, and compared with the last record's once the training is over.

    Args:
        model: the model that trains.
        probe: batches of inputs on which its layers are compared.
        interval: steps between two records.
        size: sampled weights per layer.
    """

    def __init__(
        self, model: nn.Module, probe: Iterable[Inputs], interval: int, size: int = 1024
    ) -> None:
        self.model, self.probe = model, list(probe)
        self.interval = interval
        self._records: dict[str, list[Tensor]] = {"weights": [], "gram": [], "gradient": []}
        self._losses: list[float] = []
        self._gradients: dict[str, Tensor] = {}
        self._tailor = Tailor(size)

    def is_due(self, step: int) -> bool:
        """Whether this step records."""
        return step % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Records all layers but the head; never freezes."""
        layers = [layer for layer in active if not layer.is_head]
        self._add_gradients(layers)
        if self.is_due(step):
            self._record(layers)
        return []

    def observe_loss(self, loss: float) -> None:
        """Takes the training loss of a step; to be called once after every step."""
        self._losses.append(loss)

    def history(self) -> History:
        """What has been recorded so far."""
        weights, grams, gradient = (torch.stack(rows) for rows in self._records.values())
        # The first record, of step 0, comes after one loss, the next ones after an interval each.
        losses = torch.tensor(self._losses)
        ends = [1 + record * self.interval for record in range(len(weights))]
        means = [losses[max(0, end - self.interval) : end].mean() for end in ends]
        cka = torch.linalg.vecdot(grams, grams[-1])
        return History(weights, cka, gradient, torch.stack(means))

    def state_dict(self) -> dict[str, Any]:
        """The records, the losses, and the gradient summed since the last record."""
        records = {name: list(rows) for name, rows in self._records.items()}
        return {**records, "losses": list(self._losses), "gradients": dict(self._gradients)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from earlier records."""
        self._records = {name: [row.cpu() for row in state[name]] for name in self._records}
        self._losses = list(state["losses"])
        self._gradients = dict(state["gradients"])

    def _add_gradients(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            for i, param in enumerate(layer.params):
                if param.grad is not None:
                    key = f"{layer.name}.{i}"
                    past = self._gradients.get(key, param.grad.new_zeros(()))
                    # A sum from a checkpoint may be on another device.
                    self._gradients[key] = past.to(param.device) + param.grad

    def _record(self, layers: Sequence[Layer]) -> None:
        rows = [self._tailor(layer) for layer in layers]
        self._records["weights"].append(torch.stack(rows).cpu())
        self._records["gram"].append(gram_vectors(self.model, layers, self.probe).float().cpu())
        self._records["gradient"].append(torch.stack([self._summed(layer) for layer in layers]))
        self._gradients = {}

    def _summed(self, layer: Layer) -> Tensor:
        """L1 norm of a layer's summed gradient, as in AutoFreeze's own code."""
        parts = [self._gradients.get(f"{layer.name}.{i}") for i in range(len(layer.params))]
        return sum((g.abs().sum().cpu() for g in parts if g is not None), torch.zeros(()))


def stabilised(cka: Tensor, tolerance: float) -> Tensor:
    """The label: from this record on, the layer's CKA stays within a band.

    Record t of a layer is labelled "freeze" if ``|CKA_s - CKA_t| <= tolerance`` for every later
    record s of the training. The paper says "the CKA value of a layer stabilizes" and leaves the
    rule open. The last record is labelled so whatever it holds, but that a CKA that is not a
    number is never stable.

    Args:
        cka: (R, L), oldest record first.
        tolerance: half the width of the band.

    Returns:
        (R, L) bool.
    """
    highest = cka.flip(0).cummax(0).values.flip(0)
    lowest = cka.flip(0).cummin(0).values.flip(0)
    return (highest - cka <= tolerance) & (cka - lowest <= tolerance)


def train_predictor(
    predictor: AttentionPredictor,
    histories: Sequence[History],
    tolerance: float,
    steps: int,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Trains a predictor on labelled histories.

    Each step draws some histories, some layers of each, and how many records to skip between two,
    so that the predictor learns to work at any recording interval. All records but the first are
    examples, each with the window that ends there. Labels occur as often as they do, so that the
    probabilities are those of the data. AdamW with a learning rate that falls to zero along a
    cosine: with SGD, which the paper names (Sec. 4.1), it takes far longer to the same loss.
    Reproducible to the bit on one thread of a CPU.

    Args:
        predictor: what is trained, in place; left in eval mode.
        histories: the recorded trainings, of at least four records each.
        tolerance: of the label, see :func:`stabilised`.
        steps: how many batches.
        lr: base learning rate.
        weight_decay: of AdamW.
        seed: of the order of the examples.
        on_step: called with the step and the loss.

    Raises:
        ValueError: the histories hold only one of the two labels, or one holds too few records.
    """
    least = 2 * min(STRIDES)
    if any(len(history.weights) < least for history in histories):
        raise ValueError(f"Histories of less than {least} records are too short to learn from.")
    labels = [stabilised(history.cka, tolerance) for history in histories]
    if len({bool(each) for label in labels for each in label[1:].unique()}) < 2:
        raise ValueError(
            f"With tolerance {tolerance} all records have the same label: nothing can be learned."
        )
    optimizer = torch.optim.AdamW(predictor.parameters(), lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    predictor.train()
    for step in range(steps):
        total = 0.0
        for _ in range(_HISTORIES_PER_STEP):
            i = int(torch.randint(len(histories), (1,), generator=generator))
            loss = _loss(predictor, histories[i].weights, labels[i], generator)
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
"""Every how many-th record of a history a predictor sees while it is trained."""


def _loss(
    predictor: AttentionPredictor, weights: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Cross-entropy over some layers of a history, thinned out."""
    strides = [stride for stride in STRIDES if len(weights) // stride >= 2]
    stride = strides[int(torch.randint(len(strides), (1,), generator=generator))]
    offset = int(torch.randint(stride, (1,), generator=generator))
    layers = torch.randperm(weights.shape[1], generator=generator)[:_LAYERS_PER_HISTORY]
    with torch.no_grad():
        records, _ = predictor.encode(weights[offset::stride].transpose(0, 1))
    targets = labels[offset::stride, layers].T.long()
    logits = predictor.decide_at_every_record(records[layers])
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), targets[:, 1:].flatten())
