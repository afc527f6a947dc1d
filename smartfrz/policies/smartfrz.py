"""SmartFRZ: freezing by the attention-based predictor (Sections 3.1-3.3)."""

from collections.abc import Sequence
from typing import Any

from smartfrz.layers import Layer
from smartfrz.policies.intervals import checked_interval
from smartfrz.predictor import ENCODINGS, AttentionPredictor, IncrementalPredictor, judged_by


class SmartFRZ:
    """Asks the predictor, from each layer's recent weights, whether the layer is done.

    Source: Sections 3.1-3.3. Every ``interval`` steps the tailored weights of all layers that
    still train are recorded; every ``records_per_decision`` records there is a freezing stage, in
    which one batched call of the predictor decides about each of them. The paper leaves both open;
    the bundled predictor learned from 2 to 10 records an epoch.

    With a cumulative encoding, as the bundled predictor's ``"drift"``, a layer freezes only if all
    in front of it are frozen too: the output of a layer is not done before its input is, and a
    frozen norm, whose statistics stand still, does not survive an input that moves on.

    An embedding freezes with the layer behind it, see `judged_by`.

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
        self.interval = checked_interval(interval)
        self.records_per_decision = checked_interval(records_per_decision)
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
