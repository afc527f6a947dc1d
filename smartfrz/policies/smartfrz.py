"""The SmartFRZ policy: freezing by the attention-based predictor (Sections 3.1-3.3)."""

from collections.abc import Sequence
from typing import Any

from smartfrz.layers import Layer
from smartfrz.policies.intervals import checked_interval
from smartfrz.predictor import ENCODINGS, AttentionPredictor, IncrementalPredictor, deciding_layers


class SmartFRZ:
    """Policy: freezes the layers that the predictor classifies as converged.

    Source: Sections 3.1-3.3. Every ``interval`` steps, the tailored weights of all layers that
    still train are recorded. Every ``records_per_decision`` records, in a freezing stage, one
    batched call of the predictor decides about all of these layers. The paper leaves both numbers
    open; the bundled predictor was trained on 2 to 10 records per epoch.

    With a cumulative encoding, such as ``"drift"`` of the bundled predictor, a layer freezes only
    if all preceding layers are frozen, too. A layer's output cannot have converged before its input
    has, and a frozen norm, whose running statistics are fixed, fails on an input that keeps
    changing.

    An embedding freezes together with the layer behind it, see `deciding_layers`.

    A plateau at the start of a run looks like convergence. No layer is therefore frozen before it
    has ``min_records`` records, nor at a record since which no layer has moved, as when a
    `GradScaler` skips steps or a warmup starts at zero; such records are not counted. A longer
    plateau is not recognised.

    Args:
        predictor: the trained predictor; it determines the ``window`` and ``size`` of the history.
        interval: steps between two records.
        records_per_decision: records between two decisions.
        threshold: probability above which to freeze; by default the predictor's own threshold.
        min_records: records of a layer before the first decision about it. With the default, the
            times to which the encoding ``"drift"`` looks back, from the start of the run to the
            last record but one, all differ for the first time.

    Raises:
        ValueError: ``interval``, ``records_per_decision`` or ``min_records`` is less than 1.
    """

    def __init__(
        self,
        predictor: AttentionPredictor,
        interval: int,
        records_per_decision: int = 1,
        threshold: float | None = None,
        min_records: int = 10,
    ) -> None:
        self.predictor = predictor
        self.interval = checked_interval(interval)
        self.records_per_decision = checked_interval(records_per_decision)
        self.threshold = predictor.threshold if threshold is None else threshold
        if min_records < 1:
            raise ValueError(f"min_records must be at least 1, not {min_records}.")
        self.min_records = min_records
        self._records = IncrementalPredictor(predictor)

    def is_due(self, step: int) -> bool:
        """Whether this step is a freezing stage."""
        return step % (self.interval * self.records_per_decision) == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Returns the layers that the predictor classifies as converged."""
        candidates = [layer for layer in active if not layer.is_head]
        if step % self.interval or not candidates:
            return []
        self._records.record(candidates)
        if not self.is_due(step):
            return []
        converged = self._records.freeze_probability() > self.threshold
        converged &= self._records.counts >= self.min_records
        converged &= self._records.history.has_moved
        converged = converged[deciding_layers(candidates)]
        if ENCODINGS[self.predictor.encoding].cumulative:
            converged = converged.cumprod(dim=0)
        return [
            layer for layer, freeze in zip(candidates, converged.tolist(), strict=True) if freeze
        ]

    def state_dict(self) -> dict[str, Any]:
        """Returns the recorded history."""
        return self._records.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a recorded history."""
        self._records.load_state_dict(state)
