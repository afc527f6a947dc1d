"""Incremental evaluation of a predictor, record by record during a run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.predictor.attention import AttentionPredictor, confidence
from smartfrz.predictor.encodings import ENCODINGS
from smartfrz.predictor.history import WeightHistory
from smartfrz.predictor.records import Records, WeightRecords


class IncrementalPredictor:
    """Computes ``predictor.freeze_probability`` of all records so far at a fixed cost.

    Each record is encoded once. Its key and value (Eq. 1) are kept while it is in the window, like
    the key-value cache of a transformer, so a decision costs the work of one record and not of 30.

    A layer that is frozen and trains again starts with an empty window. Its displacements still
    refer to all of its records.

    Args:
        predictor: the trained predictor; it moves to the device of the weights.
        records: what is recorded; by default the layers' weights.

    Attributes:
        counts: (layers,) the number of records of each of the layers recorded last, since it began
            to train. Records at which no layer had moved are not counted.
    """

    def __init__(self, predictor: AttentionPredictor, records: Records | None = None) -> None:
        self.predictor = predictor
        self.encoding = ENCODINGS[predictor.encoding]
        self.records = records or WeightRecords(self.encoding, predictor.size)
        self.counts = torch.zeros(0, dtype=torch.long)
        # Cached results of the records in the window, for the layers recorded last. A new record
        # replaces the oldest one, because attention does not depend on their order.
        self._window = self._empty_window(0)
        self._slot = -1
        self._newest = next(predictor.parameters()).new_zeros(0, predictor.size)

    @property
    def history(self) -> WeightHistory:
        """All records so far."""
        return self.records.history

    @torch.inference_mode(False)  # inference tensors could not be written to later
    @torch.no_grad()
    def record(self, layers: Sequence[Layer]) -> None:
        """Adds a record of ``layers``.

        Args:
            layers: all layers at first, later those that train, in the same order; at least one,
                their weights on one device. See `WeightHistory.record`.
        """
        rows_before = self.history.rows
        encoded, moved, finite = self.records.record(layers)
        rows = self.history.rows
        self._follow(encoded.device)
        if rows != rows_before:
            self._select(rows_before)
        self.counts += 1 if self.history.is_first else self.history.has_moved
        if len(rows) < len(encoded):
            encoded, moved, finite = encoded[rows], moved[rows], finite[rows]
        self._newest = encoded.to(self._newest.dtype)
        self._slot = (self._slot + 1) % self.predictor.window
        new = {
            "keys": self.predictor.mlp_k(self._newest),
            "values": self.predictor.mlp_v(self._newest),
            # The first record, without an earlier one to compare with, is not attended to.
            "attended": not (self.history.is_first and self.encoding.compares),
            "moved": moved,
            "broken": ~finite,
        }
        for name, values in new.items():
            self._window[name][:, self._slot] = values

    @torch.no_grad()
    def freeze_probability(self) -> Tensor:
        """Returns the confidence in [0, 1] that each of the layers recorded last can be frozen."""
        # Another run on another device may have moved the predictor since.
        self._follow(self._newest.device)
        keys, values, attended, moved, broken = self._window.values()
        logits = self.predictor.decide(self._newest, keys, values, attended)
        return confidence(logits, moved.any(dim=1), ~broken.any(dim=1))

    def state_dict(self) -> dict[str, Any]:
        """Returns the history and the cached results of its records."""
        return {
            "history": self.records.state_dict(),
            "window": {name: kept.clone() for name, kept in self._window.items()},
            "slot": self._slot,
            "newest": self._newest.clone(),
            "counts": self.counts.clone(),
        }

    @torch.inference_mode(False)
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the records of another instance with the same predictor.

        Args:
            state: returned by `state_dict`.

        Raises:
            ValueError: its predictor has another ``size``, ``window`` or ``features``.
        """
        expected, found = self._window["keys"].shape[1:], state["window"]["keys"].shape[1:]
        if found != expected:
            raise ValueError(
                f"The state was saved with a predictor of (window, features) = {tuple(found)}, not "
                f"{tuple(expected)}. Resume with the predictor that was used before."
            )
        self.records.load_state_dict(state["history"])
        device = next(self.predictor.parameters()).device
        self._window = {n: kept.to(device, copy=True) for n, kept in state["window"].items()}
        self._slot, self._newest = state["slot"], state["newest"].to(device, copy=True)
        self.counts = state["counts"].to(device, copy=True)

    def _select(self, rows_before: Sequence[int]) -> None:
        """Restricts the window to the layers recorded last, with empty rows for returning ones."""
        rows = self.history.rows
        old = [(rows_before.index(row), i) for i, row in enumerate(rows) if row in rows_before]
        sources, targets = ([pair[side] for pair in old] for side in (0, 1))
        window, counts = self._empty_window(len(rows)), self.counts.new_zeros(len(rows))
        for name, kept in self._window.items():
            window[name][targets] = kept[sources]
        counts[targets] = self.counts[sources]
        self._window, self.counts = window, counts

    def _empty_window(self, layers: int) -> dict[str, Tensor]:
        window, features = self.predictor.window, self.predictor.features
        weight = next(self.predictor.parameters())
        return {
            "keys": weight.new_zeros(layers, window, features),
            "values": weight.new_zeros(layers, window, features),
            "attended": weight.new_zeros(layers, window, dtype=torch.bool),
            "moved": weight.new_zeros(layers, window, dtype=torch.bool),
            "broken": weight.new_zeros(layers, window, dtype=torch.bool),
        }

    def _follow(self, device: torch.device) -> None:
        """Moves the predictor and the cached results to the device of the weights."""
        if next(self.predictor.parameters()).device != device:  # .to() walks all parameters
            self.predictor.to(device)
        self._window = {name: kept.to(device) for name, kept in self._window.items()}
        self.counts = self.counts.to(device)
