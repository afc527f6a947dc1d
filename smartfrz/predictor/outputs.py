"""How far layers' outputs have drifted on a fixed probe: inputs of the predictor "outputs"."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.predictor.history import PREVIOUS, kept_before
from smartfrz.predictor.recorded import History

FRACTIONS = (0.0, 1 / 2, 3 / 4, 7 / 8, PREVIOUS)
"""Fractions of the elapsed time with which the outputs are compared."""

WIDTH = 2 * len(FRACTIONS) + 7
"""Number of a record's values."""

_SMALLEST, _LARGEST = 1e-5, 2.0
_WEIGHT = 0.4
_STILL, _FAR = 1e-20, 5.0


class OutputDrift:
    """Computes from the similarity of layers' outputs what the predictor "outputs" reads.

    A layer's drift is one minus the CKA (Eq. 5) of its outputs on a fixed probe at two records. It
    contains what the layers before it do, and means the same for layers of every kind, whereas
    displacements of the weights do not. The `WIDTH` values of a record are the logarithms of the
    drift since five earlier records; their running mean for the last one; all of these relative to
    the median layer; the layer's position from 0 to 1; the logarithm of the number of records; its
    learning rate relative to the highest so far, with the logarithm of that; and the running mean
    of the logarithm of its weights' squared displacement, relative to the median layer. Not in
    the paper.
    """

    def __init__(self) -> None:
        self._mean, self._moved, self._highest = (torch.zeros(0) for _ in range(3))
        self._records = 0

    def add(
        self, similarity: Tensor, displacement: Tensor, rates: Tensor, rows: Sequence[int]
    ) -> Tensor:
        """Returns the values of a record, of all layers.

        Args:
            similarity: (L, K) CKA of the outputs of all L layers to those at earlier records, in
                the order of `FRACTIONS`. NaN where it is undefined.
            displacement: (L,) squared norm of the change of each layer's weights since the record
                before.
            rates: (L,) learning rates.
            rows: the indices of the layers that train, which determine the median.

        Returns:
            (L, WIDTH), on the device of the similarity. Those of the first record, which has no
            earlier one, tell nothing.
        """
        drift = (1 - similarity).float().nan_to_num(nan=1.0).clamp(_SMALLEST, _LARGEST).log10()
        moved = displacement.to(drift).clamp_min(_STILL).log10()
        rates = rates.to(drift)
        if self._records <= 1:  # the first record tells nothing
            self._mean, self._moved = drift[:, -1], moved
        if not self._records:
            self._highest = rates
        self._mean = torch.lerp(self._mean.to(drift), drift[:, -1], _WEIGHT)
        self._moved = torch.lerp(self._moved.to(drift), moved, _WEIGHT)
        self._highest = torch.maximum(self._highest.to(drift), rates)
        values = torch.cat([drift, self._mean[:, None]], dim=1)
        relative = values - values[list(rows)].median(dim=0).values
        further = self._moved - self._moved[list(rows)].median()
        share = rates / self._highest.clamp_min(torch.finfo(rates.dtype).tiny)
        position = torch.linspace(0, 1, len(drift), device=drift.device)
        count = torch.full_like(position, math.log1p(self._records))
        self._records += 1
        others = [position, count, share, share.clamp_min(1e-3).log10(), further.clamp(-_FAR, _FAR)]
        return torch.cat([values + 2.5, relative, torch.stack(others, dim=1)], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Returns the running means, the highest learning rates and the number of records."""
        return {
            "mean": self._mean,
            "moved": self._moved,
            "highest": self._highest,
            "records": self._records,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._mean, self._moved = state["mean"], state["moved"]
        self._highest, self._records = state["highest"], state["records"]


def output_drift(similarity: Tensor, displacement: Tensor, rates: Tensor) -> Tensor:
    """Computes the inputs of the predictor "outputs" for a whole run, see `OutputDrift`.

    Args:
        similarity: (R, R, L) CKA of each layer's outputs at any two records, oldest first.
        displacement: (R, L) squared norms of the changes of the weights since the record before.
        rates: (R, L) learning rates.

    Returns:
        (L, R, WIDTH), a history for `AttentionPredictor`.
    """
    drift, layers = OutputDrift(), range(similarity.shape[2])
    return torch.stack(
        [
            drift.add(
                torch.stack([similarity[t, kept_before(t, each)] for each in FRACTIONS], dim=1),
                displacement[t],
                rates[t],
                layers,
            )
            for t in range(len(similarity))
        ],
        dim=1,
    )


def output_drift_of(history: History, stride: int = 1, offset: int = 0) -> Tensor:
    """Computes the `output_drift` of every ``stride``-th record of a recorded run.

    Args:
        history: R records of L layers.
        stride: the distance between records.
        offset: the first record.

    Returns:
        (L, R', WIDTH).
    """
    kept = slice(offset, None, stride)
    moved = squared_displacement(history.weights[kept], history.numel)
    return output_drift(history.cka_between[kept, kept], moved, history.lr[kept])


def squared_displacement(weights: Tensor, numel: Tensor) -> Tensor:
    """Estimates how far layers have moved since the record before from some of their weights.

    Args:
        weights: (R, L, size) tailored weights, oldest first.
        numel: (L,) number of the layers' weights.

    Returns:
        (R, L) squared norms; zero at the first record.
    """
    return weights.diff(dim=0, prepend=weights[:1]).square().mean(dim=2) * numel
