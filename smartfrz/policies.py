"""Who decides which layers to freeze: SmartFRZ, and the similarity-guided oracle of Table 1."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.cka import gram_vectors
from smartfrz.encodings import ENCODINGS
from smartfrz.incremental import IncrementalPredictor
from smartfrz.layers import Layer
from smartfrz.predictor import AttentionPredictor
from smartfrz.tailoring import judged_by
from smartfrz.tracing import Inputs


class SmartFRZ:
    """Asks the predictor, from each layer's recent weights, whether the layer is done.

    Source: Sections 3.1-3.3. Every ``interval`` steps the tailored weights of all layers that
    still train are recorded; every ``records_per_decision`` records there is a freezing stage, in
    which one batched call of the predictor decides about each of them. The paper leaves both open;
    the bundled predictor learned from 2 to 10 records an epoch.

    With a cumulative encoding, as the bundled predictor's ``"drift"``, a layer freezes only if all
    in front of it are frozen too: the output of a layer is not done before its input is, and a
    frozen norm, whose statistics stand still, does not survive an input that moves on.

    An embedding freezes with the layer behind it, see :func:`smartfrz.tailoring.judged_by`.

    Args:
        predictor: the trained predictor; its ``window`` and ``size`` are those of the history.
        interval: steps between two records.
        records_per_decision: records between two decisions.
        threshold: freeze above this probability; by default above the predictor's own threshold.

    Raises:
        ValueError: ``interval`` or ``records_per_decision`` is less than 1.
    """

    def __init__(
        self,
        predictor: AttentionPredictor,
        interval: int,
        records_per_decision: int = 1,
        threshold: float | None = None,
    ) -> None:
        self.predictor = predictor
        self.interval = _checked(interval)
        self.records_per_decision = _checked(records_per_decision)
        self.threshold = predictor.threshold if threshold is None else threshold
        self._records = IncrementalPredictor(predictor)

    def is_due(self, step: int) -> bool:
        """Whether this step decides."""
        return step % (self.interval * self.records_per_decision) == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """The layers that the predictor holds for done."""
        candidates = [layer for layer in active if not layer.is_head]
        if step % self.interval or not candidates:
            return []
        self._records.record(candidates)
        if not self.is_due(step):
            return []
        done = self._records.freeze_probability() > self.threshold
        done = done[judged_by(candidates)]
        if ENCODINGS[self.predictor.encoding].cumulative:
            done = done.cumprod(dim=0)
        return [layer for layer, is_done in zip(candidates, done.tolist(), strict=True) if is_done]

    def state_dict(self) -> dict[str, Any]:
        """What is kept of the recorded history."""
        return self._records.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a recorded history."""
        self._records.load_state_dict(state)


class SimilarityGuided:
    """The oracle that labels the predictor's training data, used as a policy (Table 1).

    A layer is frozen when its CKA to the same layer of an already trained model (Section 3.4) has
    moved by no more than ``tolerance`` since the last look. In practice there is no such model.

    Args:
        model: the model that trains.
        reference: the trained model, of the same architecture.
        probe: batches of inputs on which the two are compared.
        interval: steps between two looks; in the paper one epoch.
        tolerance: change of CKA up to which it counts as stable.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        probe: Iterable[Inputs],
        interval: int,
        tolerance: float = 0.01,
    ) -> None:
        self.model, self.reference, self.probe = model, reference, list(probe)
        self.interval, self.tolerance = _checked(interval), tolerance
        self._last: dict[str, float] = {}
        self._of_reference: dict[str, Tensor] = {}

    def is_due(self, step: int) -> bool:
        """Whether this step looks at the similarity: the last one of each interval."""
        return (step + 1) % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """The layers whose CKA has stabilised."""
        candidates = [layer for layer in active if not layer.is_head]
        if not self.is_due(step) or not candidates:
            return []
        similarity = self._similarity(candidates)
        # A NaN (constant features, or no look before) compares false: the layer goes on training.
        done = [
            layer
            for layer, now in zip(candidates, similarity, strict=True)
            if abs(now - self._last.get(layer.name, math.nan)) <= self.tolerance
        ]
        self._last = {layer.name: s for layer, s in zip(candidates, similarity, strict=True)}
        return done

    def _similarity(self, layers: Sequence[Layer]) -> list[float]:
        missing = [layer for layer in layers if layer.name not in self._of_reference]
        if missing:
            vectors = gram_vectors(self.reference, missing, self.probe)
            names = [layer.name for layer in missing]
            self._of_reference |= dict(zip(names, vectors, strict=True))
        reference = torch.stack([self._of_reference[layer.name] for layer in layers])
        return torch.linalg.vecdot(gram_vectors(self.model, layers, self.probe), reference).tolist()

    def state_dict(self) -> dict[str, Any]:
        """The similarities of the last look."""
        return {"last": dict(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the similarities of the last look."""
        self._last = dict(state["last"])


def _checked(interval: int) -> int:
    if interval < 1:
        raise ValueError(f"An interval is at least 1, not {interval}.")
    return interval
