"""Recording of the histories that the predictor is trained on (Section 3.4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.cka import gram_vectors
from smartfrz.graph import Inputs
from smartfrz.layers import Layer
from smartfrz.predictor.tailoring import Tailor
from smartfrz.sharding import full


@dataclass(frozen=True)
class History:
    """The recording of one run: R records of L layers.

    Attributes:
        weights: (R, L, size) tailored weights, oldest first.
        cka: (R, L) CKA between each layer's output and its output at the last record.
        gradient: (R, L) L1 norm of the sum of each layer's gradients over the steps since the
            previous record. The record's own step is included; the first record has no other.
        loss: (R,) mean training loss over the same steps.
    """

    weights: Tensor
    cka: Tensor
    gradient: Tensor
    loss: Tensor


class HistoryRecorder:
    """Policy: freezes nothing, and records the training data of the predictor.

    The paper's "well-trained model" (Sec. 3.4), to which the layers are compared, is here the final
    model of the recorded run itself, so no other model is needed. The Gram matrices of every record
    are kept and compared with those of the last record at the end of the run.

    Args:
        model: the model to train.
        probe: batches of inputs on which the layers are compared.
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
        """Whether a record is made at this step."""
        return step % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Records all layers but the head; never freezes."""
        layers = [layer for layer in active if not layer.is_head]
        self._add_gradients(layers)
        if self.is_due(step):
            self._record(layers)
        return []

    def observe_loss(self, loss: float) -> None:
        """Adds the training loss of a step. Must be called once after every step."""
        self._losses.append(loss)

    def history(self) -> History:
        """Returns the records so far."""
        weights, grams, gradient = (torch.stack(rows) for rows in self._records.values())
        # The first record, at step 0, covers one loss, and each later one an interval of losses.
        losses = torch.tensor(self._losses)
        ends = [1 + record * self.interval for record in range(len(weights))]
        means = [losses[max(0, end - self.interval) : end].mean() for end in ends]
        cka = torch.linalg.vecdot(grams, grams[-1])
        return History(weights, cka, gradient, torch.stack(means))

    def state_dict(self) -> dict[str, Any]:
        """Returns the records, the losses, and the gradient summed since the last record."""
        records = {name: list(rows) for name, rows in self._records.items()}
        return {**records, "losses": list(self._losses), "gradients": dict(self._gradients)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
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
        """Computes the L1 norm of a layer's summed gradient, as in AutoFreeze's code."""
        parts = [self._gradients.get(f"{layer.name}.{i}") for i in range(len(layer.params))]
        return sum((full(g.abs().sum()).cpu() for g in parts if g is not None), torch.zeros(()))
