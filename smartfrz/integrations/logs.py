"""What the callbacks add to the logs of a trainer."""

from smartfrz.freezer import Freezer
from smartfrz.memory import ActivationWatch, gradient_bytes, optimizer_state_bytes
from smartfrz.sharding import sharded_modules

_MB = 1e6


class FreezingLogs:
    """The numbers that a trainer logs about a freezer.

    - ``frozen_layers``: the fraction of the layers that are frozen, the head included in the count.
    - ``compute_spent``: the compute of the run so far as a fraction of full training's.
    - ``gradients_mb``, ``optimizer_state_mb``: the memory that these take, on this process.
    - ``activations_mb``: what the forward pass keeps for the backward pass, measured in the first
      step after each freeze, see `ActivationWatch`. Left out if the model is sharded or compiled.

    Args:
        freezer: the freezer.
    """

    def __init__(self, freezer: Freezer) -> None:
        self._freezer = freezer
        is_sharded = bool(sharded_modules(freezer.model))
        self._activations = None if is_sharded else ActivationWatch(freezer.model)
        self._events = 0

    def note_step(self) -> None:
        """Measures the activations again if the freezer's last step froze or thawed layers."""
        if self._activations is not None and len(self._freezer.events) != self._events:
            self._events = len(self._freezer.events)
            self._activations.measure_again()

    def numbers(self) -> dict[str, float]:
        """Returns the numbers of this moment by name."""
        freezer = self._freezer
        assert freezer.total_steps
        found = {
            "frozen_layers": len(freezer.frozen) / len(freezer.layers),
            "compute_spent": freezer.compute_spent / freezer.total_steps,
            "gradients_mb": gradient_bytes(freezer.model) / _MB,
            "optimizer_state_mb": optimizer_state_bytes(freezer.optimizer) / _MB,
        }
        if self._activations is not None and self._activations.bytes is not None:
            found["activations_mb"] = self._activations.bytes / _MB
        return found

    def end(self) -> None:
        """Measures no more."""
        if self._activations is not None:
            self._activations.remove()
