"""The attention-based predictor of layer convergence (Sec. 3.3)."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartfrz.predictor.encodings import ENCODINGS, fill_gaps
from smartfrz.predictor.files import CONFIG_FILE, WEIGHTS_FILE, locate


class AttentionPredictor(nn.Module, PyTorchModelHubMixin):
    """Predicts from a layer's weight history whether to freeze it (Eqs. 1-4).

    Each record is encoded into a key and a value, and the newest record also into a query. The
    query attends to all records, and the weighted sum of their values is classified. The default
    sizes are those of the paper's Appendix C (1.037 M parameters).

    Args:
        size: sampled weights per record.
        hidden: width of the two hidden layers of each encoder.
        features: length of keys, queries and values.
        head_hidden: width of the two hidden layers of the classifier.
        window: number of newest records that are attended to.
        encoding: preprocessing of the weights, a name in ``smartfrz.predictor.ENCODINGS``:
            ``"raw"`` as in the paper, or ``"drift"``. With ``"outputs"``, a record is not of
            weights, but the ``size`` values of `OutputDrift`.
        threshold: the probability above which to freeze; 0.5 is the argmax of Eq. 4.

    Raises:
        ValueError: a size is not a positive integer, or the encoding is unknown.
    """

    def __init__(
        self,
        size: int = 1024,
        hidden: int = 256,
        features: int = 64,
        head_hidden: int = 32,
        window: int = 30,
        encoding: str = "drift",
        threshold: float = 0.5,
    ) -> None:
        sizes = (size, hidden, features, head_hidden, window)
        if not all(isinstance(number, int) and number > 0 for number in sizes):
            raise ValueError(f"The predictor's sizes must be positive integers, not {sizes}.")
        if encoding not in ENCODINGS:
            raise ValueError(f"Unknown encoding {encoding!r}: choose from {sorted(ENCODINGS)}.")
        super().__init__()
        self.size = size
        self.features = features
        self.window = window
        self.encoding = encoding
        self.threshold = threshold
        self.mlp_k = _mlp(size, hidden, features)
        self.mlp_q = _mlp(size, hidden, features)
        self.mlp_v = _mlp(size, hidden, features)
        self.mlp_z = _mlp(features, head_hidden, 2)

    @property
    def reads_outputs(self) -> bool:
        """Whether histories consist of `output_drift`, not of weights."""
        return ENCODINGS[self.encoding].of_outputs

    def forward(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """Computes the confidence scores of each layer, before the softmax (MLP_z in Eq. 4).

        Args:
            history: (L, T, size) tailored weights of L layers, in execution order, at T >= 1
                points in time, oldest first; of any float type and on any device.
            valid: (L, T) bool, whether each record is present, by default all. The newest must be.
                The contents of missing records are ignored.

        Returns:
            (L, 2) logits, on the predictor's device. Class 0 means keep training, class 1 freeze.

        Raises:
            ValueError: a shape or type is wrong, or a newest record is not valid.
        """
        records, attended = self.encode(history, valid)
        records, attended = records[:, -self.window :], attended[:, -self.window :]
        return self.decide(records[:, -1], self.mlp_k(records), self.mlp_v(records), attended)

    def encode(self, history: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encodes a history as input of the MLPs.

        Args:
            history: (L, T, size), as in `forward`.
            valid: (L, T) bool, as in `forward`.

        Returns:
            The encoded records, (L, T, size), and whether each is attended to, (L, T) bool.

        Raises:
            ValueError: as `forward`.
        """
        history, valid = self._checked(history, valid)
        encoding = ENCODINGS[self.encoding]
        records = encoding(history).to(next(self.parameters()).dtype)
        if encoding.compares:
            # Without an earlier record to compare with, the first is attended to only if alone.
            compared = valid & (valid.cumsum(dim=1) > 1)
            valid = torch.where(compared.any(dim=1, keepdim=True), compared, valid)
        return records, valid

    def decide(self, newest: Tensor, keys: Tensor, values: Tensor, attended: Tensor) -> Tensor:
        """Computes Eqs. 2-4 from keys and values, which callers can keep from earlier records.

        Args:
            newest: (L, size) encoded newest records.
            keys: (L, T, features) keys of the records in the window, in any order.
            values: (L, T, features) values, in the same order.
            attended: (L, T) bool, whether each record is attended to.

        Returns:
            (L, 2) logits.
        """
        attention = _attention(self.mlp_q(newest), keys, attended)
        return self.mlp_z(torch.einsum("lt,ltf->lf", attention, values))  # Eqs. 3 and 4

    def decide_at_every_record(self, records: Tensor) -> Tensor:
        """Computes the logits of `forward` for every prefix of a history, in one pass.

        Args:
            records: (L, T, size) encoded records from `encode`, all valid.

        Returns:
            (L, T, 2) logits; those at index t are for the records up to t.
        """
        index = torch.arange(records.shape[1], device=records.device)
        age = index[:, None] - index
        attended = (age >= 0) & (age < self.window)
        if ENCODINGS[self.encoding].compares:
            attended[1:, 0] = False
        scores = torch.einsum("lqf,lkf->lqk", self.mlp_q(records), self.mlp_k(records))
        attention = scores.masked_fill(~attended, -torch.inf).softmax(dim=-1)
        return self.mlp_z(attention @ self.mlp_v(records))

    @torch.no_grad()
    def freeze_probability(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """Computes the confidence that each layer can be frozen (Eq. 4).

        Freeze a layer if it is above ``threshold``. The newest ``window`` records are attended to;
        older ones only serve to measure displacements. The result is 0 where the history is
        inconclusive: if a weight is not finite, if there is only one record, or if no weight moved
        within the window. In the last case the layer has not converged; it has not started to
        train, as while warmup keeps the learning rate at zero.

        Args:
            history: (L, T, size) tailored weights, oldest first, T >= 1: all records of the layers,
                in execution order, frozen layers included. The encoding ``"drift"`` refers to
                earlier records by fractions of the elapsed time, and to all preceding layers.
            valid: (L, T) bool, as in `forward`.

        Returns:
            (L,) in [0, 1], on the predictor's device.

        Raises:
            ValueError: as `forward`.
        """
        logits = self(history, valid)
        history, _ = self._checked(history, valid)
        moved = has_moved(history[:, 1:], history[:, :-1])[:, -self.window :]
        finite = is_finite(history[:, -self.window :])
        return confidence(logits, moved.any(dim=1), finite.all(dim=1))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | Path | None = None, **download: Any
    ) -> Self:
        """Loads a trained predictor from its ``config.json`` and ``model.safetensors``.

        Args:
            source: the name of a bundled predictor (by default ``"drift"``), a folder, or the id
                ``user/name`` of a repository on the Hugging Face Hub.
            **download: options of ``huggingface_hub.hf_hub_download``, such as ``revision``.

        Returns:
            The predictor, in eval mode, on the CPU.

        Raises:
            ValueError: there is no such predictor, or one of its files is missing or invalid.
        """
        config_file = locate(source, CONFIG_FILE, download)
        weights_file = locate(source, WEIGHTS_FILE, download)
        try:
            # Loading a predictor must not change the random numbers of a run, such as its dropout.
            with torch.random.fork_rng(devices=[]):
                predictor = cls(**json.loads(config_file.read_text(encoding="utf-8")))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{config_file} is not a valid predictor configuration: {error}"
            ) from error
        try:
            predictor.load_state_dict(load_file(weights_file))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{weights_file} does not match the predictor configuration in {CONFIG_FILE}: "
                f"{reason}"
            ) from error
        return predictor.eval()

    def save_pretrained(self, save_directory: str | Path, **hub: Any) -> str | None:
        """Writes ``config.json`` and ``model.safetensors``, without a model card.

        Args:
            save_directory: the folder, created if it does not exist.
            **hub: as in ``huggingface_hub.PyTorchModelHubMixin.save_pretrained``.

        Returns:
            The URL of the commit if ``push_to_hub=True``, otherwise ``None``.
        """
        card = Path(save_directory) / "README.md"
        had_card = card.exists()
        # The mixin writes the constructor arguments, but the threshold is chosen after training.
        assert isinstance(self._hub_mixin_config, dict)
        self._hub_mixin_config["threshold"] = self.threshold
        try:
            return super().save_pretrained(save_directory, **hub)
        finally:  # the mixin writes a card before it uploads, which may fail
            if not had_card and card.exists():
                card.unlink()

    def _checked(self, history: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the validated arguments on the predictor's device, gaps in the history filled."""
        if history.ndim != 3 or history.shape[1] < 1 or history.shape[2] != self.size:
            raise ValueError(
                f"history must have shape (layers, records, {self.size}) with at least one record, "
                f"not {tuple(history.shape)}."
            )
        weight = next(self.parameters())
        # Less than float32 is too imprecise to measure displacements.
        history = history.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        if valid is None:
            return history, torch.ones(history.shape[:2], dtype=torch.bool, device=weight.device)
        if valid.shape != history.shape[:2] or valid.dtype != torch.bool:
            raise ValueError(
                f"valid must be bool and {tuple(history.shape[:2])} in shape, "
                f"not {valid.dtype} and {tuple(valid.shape)}."
            )
        if not valid[:, -1].all():
            raise ValueError("The newest record of every layer must be valid: valid[:, -1].")
        valid = valid.to(weight.device)
        return fill_gaps(history, valid), valid


def has_moved(records: Tensor, before: Tensor) -> Tensor:
    """Whether any of a record's finite weights differs from ``before``: (..., size) -> (...)."""
    return (records - before).abs().amax(dim=-1) > 0


def is_finite(records: Tensor) -> Tensor:
    """Whether all weights of a record are finite: (..., size) -> (...)."""
    return records.abs().amax(dim=-1).isfinite()


def confidence(logits: Tensor, moved: Tensor, finite: Tensor) -> Tensor:
    """Returns the probability of class 1, or 0 for layers not moved or not finite: (L,)."""
    probability = logits.softmax(dim=-1)[:, 1]
    return torch.where(moved & finite & probability.isfinite(), probability, 0.0)


def _attention(query: Tensor, keys: Tensor, attended: Tensor) -> Tensor:
    """Eq. 2: (L, features), (L, T, features), (L, T) -> (L, T)."""
    scores = torch.einsum("lf,ltf->lt", query, keys)
    return scores.masked_fill(~attended, -torch.inf).softmax(dim=1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
