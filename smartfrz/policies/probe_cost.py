"""What a forward pass of a policy's probe costs."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from smartfrz.cka import samples_in
from smartfrz.distributed import world_size
from smartfrz.graph import Inputs

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer


def check_batch_size(probe: Collection[Inputs], batch_size: int | None) -> None:
    """Raises a ValueError if there is a probe, and no number of examples of an optimizer step."""
    if probe and batch_size is None:
        raise ValueError(
            "A probe requires batch_size, to tell what its forward passes cost: pass the "
            "number of examples of an optimizer step."
        )


def probe_cost(freezer: "Freezer", probe: Collection[Inputs], batch_size: int | None) -> float:
    """Returns the compute of a forward pass of a probe, in steps with no layer frozen.

    Args:
        freezer: the freezer of the model.
        probe: batches of inputs, of which every process takes all.
        batch_size: the number of examples of an optimizer step, in all processes together.
    """
    if batch_size is None:
        return 0.0
    examples = world_size() * sum(map(samples_in, probe))
    return freezer.costs.forward * examples / batch_size
