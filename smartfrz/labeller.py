"""The predictor's training data (Sec. 3.4): recorded histories, labelled by CKA; and training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smartfrz.cka import layer_cka
from smartfrz.history import sample_positions, tailor
from smartfrz.layers import Layer
from smartfrz.predictor import AttentionPredictor
from smartfrz.tracing import Inputs


@dataclass(frozen=True)
class History:
    """One training, recorded: R records of L layers.

    Attributes:
        weights: (R, L, size) tailored weights, oldest first.
        cka: (R, L) similarity of each layer to the same layer of the reference model.
    """

    weights: Tensor
    cka: Tensor


class HistoryRecorder:
    """A policy that freezes nothing and records what the predictor learns from.

    Args:
        model: the model that trains.
        reference: a model of the same architecture, already trained on the same data.
        probe: batches of inputs on which the two are compared.
        interval: steps between two records.
        size: sampled weights per layer.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        probe: Iterable[Inputs],
        interval: int,
        size: int = 1024,
    ) -> None:
        self.model, self.reference, self.probe = model, reference, list(probe)
        self.interval, self.size = interval, size
        self._weights: list[Tensor] = []
        self._cka: list[Tensor] = []
        self._positions: dict[str, list[Tensor]] = {}

    def is_due(self, step: int) -> bool:
        """Whether this step records."""
        return step % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Records all layers but the head; never freezes."""
        if self.is_due(step):
            layers = [layer for layer in active if not layer.is_head]
            if not self._positions:
                self._positions = {x.name: sample_positions(x, self.size) for x in layers}
            rows = [tailor(layer, self._positions[layer.name]) for layer in layers]
            self._weights.append(torch.stack(rows).cpu())
            self._cka.append(layer_cka(self.model, self.reference, layers, self.probe).cpu())
        return []

    def history(self) -> History:
        """What has been recorded so far."""
        return History(torch.stack(self._weights), torch.stack(self._cka))

    def state_dict(self) -> dict[str, Any]:
        """The records."""
        return {"weights": list(self._weights), "cka": list(self._cka)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from earlier records."""
        self._weights = [record.cpu() for record in state["weights"]]
        self._cka = [record.cpu() for record in state["cka"]]


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
    batch_size: int = 32,
    lr: float = 0.01,
    momentum: float = 0.9,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Trains a predictor on labelled histories, with SGD and momentum as in the paper.

    Each example is a layer at a record, with the window that ends there; both labels are drawn
    equally often. The learning rate falls to zero along a cosine. Reproducible to the bit on one
    thread of a CPU.

    Args:
        predictor: what is trained, in place; left in eval mode.
        histories: the recorded trainings.
        tolerance: of the label, see :func:`stabilised`.
        steps: how many batches.
        batch_size: examples per batch.
        lr: base learning rate.
        momentum: of SGD.
        seed: of the order of the examples.
        on_step: called with the step and the loss.

    Raises:
        ValueError: the histories hold only one of the two labels.
    """
    optimizer = torch.optim.SGD(predictor.parameters(), lr, momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    predictor.train()
    batches = _batches(histories, tolerance, predictor.window, batch_size, seed)
    for step, (windows, valid, labels) in zip(range(steps), batches, strict=False):
        loss = F.cross_entropy(predictor(windows, valid), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        on_step(step, loss.item())
    predictor.eval()


def _batches(
    histories: Sequence[History], tolerance: float, window: int, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = [stabilised(history.cka, tolerance) for history in histories]
    by_label = [_positions(labels, label) for label in (False, True)]
    if not all(len(positions) for positions in by_label):
        raise ValueError(
            f"With tolerance {tolerance} all records have the same label: nothing can be learned."
        )
    while True:
        label = torch.randint(2, (batch_size,), generator=generator)
        examples = []
        for each in label.tolist():
            positions = by_label[each]
            chosen = int(torch.randint(len(positions), (1,), generator=generator))
            run, record, layer = positions[chosen].tolist()
            examples.append(window_at(histories[run], record, layer, window))
        windows, valid = (torch.stack(part) for part in zip(*examples, strict=True))
        yield windows, valid, label


def _positions(labels: Sequence[Tensor], label: bool) -> Tensor:
    """(N, 3) of run, record and layer with this label; the first record has no history yet."""
    found = []
    for run, of_run in enumerate(labels):
        positions = (of_run == label).nonzero()
        positions = positions[positions[:, 0] > 0]
        found.append(F.pad(positions, (1, 0), value=run))
    return torch.cat(found)


def window_at(history: History, record: int, layer: int, window: int) -> tuple[Tensor, Tensor]:
    """The window of one layer that ends at a record.

    Args:
        history: a recorded training.
        record: index of the newest record in the window.
        layer: index of the layer.
        window: how many records the predictor looks at.

    Returns:
        (window, size) weights and (window,) bool; records before the first are zeros, not valid.
    """
    start = max(0, record + 1 - window)
    rows = history.weights[start : record + 1, layer]
    missing = window - len(rows)
    valid = torch.arange(window) >= missing
    return F.pad(rows, (0, 0, missing, 0)), valid
