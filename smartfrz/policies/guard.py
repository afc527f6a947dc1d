"""A guard against freezing before something is learned, and against changes of the task after."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from smartfrz.layers import Layer
from smartfrz.policies.gradient_agreement import GradientAgreement
from smartfrz.policies.gradient_samples import GradientSamples

_GROWN = 4.0
_SHRUNK = 0.5
_RECORDS = 3


class Guard:
    """Tells when it is too early to freeze, and which decisions were wrong.

    It is too early while the gradients of successive batches have not agreed and stopped agreeing
    again, see `GradientAgreement`, and while the loss still falls to a fraction: the heads'
    gradients have less than half of the norm that they had after two thirds of the steps so far.
    A layer is thawed, once, if the heads' gradients have since grown to four times their norm, as
    after a change of the task; the layer freezes again only after another peak of the agreement.

    It reads gradients in eight steps before each decision, of a few weights of a few layers, see
    `GradientSamples`, and waits for a GPU at the decision only. If a `GradScaler` scales them, they
    should be unscaled before ``Freezer.step``: a growing scale looks like growing gradients.

    Args:
        interval: steps between two decisions.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._samples = GradientSamples(interval)
        self._agreement = GradientAgreement()
        self._past_norms: list[float] = []  # root mean squares over the steps before decisions
        self._norms: dict[str, float] = {}
        self._thawed: list[str] = []

    def observe(self, active: Sequence[Layer], step: int) -> None:
        """Reads a step's gradients; called at every step, after its backward pass."""
        self._samples.observe(active, step)
        if step % self.interval:
            return
        cosines, squares = self._samples.take([layer for layer in active if layer.is_head])
        self._agreement.record(cosines)
        finite = [each for each in squares if math.isfinite(each)]  # with a GradScaler
        if finite:
            self._past_norms.append(math.sqrt(fmean(finite)))

    @property
    def permits_freezing(self) -> bool:
        """Whether something has been learned, and learning has slowed down."""
        return self._agreement.has_fallen and not self._is_shrinking

    @property
    def _norm(self) -> float:
        return self._past_norms[-1] if self._past_norms else math.nan

    @property
    def _is_shrinking(self) -> bool:
        past = self._past_norms
        end = 2 * len(past) // 3 + 1
        if end < _RECORDS:
            return False
        return fmean(past[-_RECORDS:]) < _SHRUNK * fmean(past[end - _RECORDS : end])

    def note_frozen(self, layers: Iterable[Layer]) -> None:
        """Remembers the heads' gradients for layers that freeze now."""
        self._norms |= {layer.name: self._norm for layer in layers}

    def wrongly_frozen(self, frozen: Sequence[Layer]) -> list[Layer]:
        """Returns the layers to thaw; each of them at most once in a run."""
        wrong = [
            layer
            for layer in frozen
            if layer.name in self._norms
            and layer.name not in self._thawed
            and self._norm > _GROWN * self._norms[layer.name]
        ]
        if wrong:
            self._agreement.reset()
            self._thawed += [layer.name for layer in wrong]
        return wrong

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next decisions depend on."""
        return {
            "samples": self._samples.state_dict(),
            "agreement": self._agreement.state_dict(),
            "past_norms": list(self._past_norms),
            "norms": dict(self._norms),
            "thawed": list(self._thawed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._samples.load_state_dict(state["samples"])
        self._agreement.load_state_dict(state["agreement"])
        self._norms, self._past_norms = dict(state["norms"]), list(state["past_norms"])
        self._thawed = list(state["thawed"])
