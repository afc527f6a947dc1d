"""The attention-based predictor (Sec. 3.3): is a layer, by its history, ready to be frozen?"""

import json
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from smartfrz.predictor.encodings import ENCODINGS, fill_gaps
from smartfrz.predictor.files import CONFIG_FILE, WEIGHTS_FILE, locate


class AttentionPredictor(nn.Module, PyTorchModelHubMixin):
    """Predicts from a layer's weight history whether to freeze it (Eqs. 1-4).

    Every record is encoded into a key and a value, the newest one into a query as well. The query
    attends to all records; what it gathers is classified. The default sizes are those of the
    paper's Appendix C, 1.037 M parameters.

    Args:
        size: sampled weights per record.
        hidden: width of the two hidden layers that encode a record.
        features: length of keys, queries and values.
        head_hidden: width of the two hidden layers of the classifier.
        window: how many records, counted from the newest, `freeze_probability` looks at.
        encoding: what is made of the weights first, a name in ``smartfrz.predictor.ENCODINGS``:
            ``"raw"`` as in the paper, or ``"drift"``.
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

    def forward(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """Confidence scores of each layer, before the softmax (MLP_z in Eq. 4).

        Args:
            history: (L, T, size) tailored weights of L layers, in execution order, at T >= 1
                points in time, oldest first; of any float type and on any device.
            valid: (L, T) bool, which records there are; the newest is always valid. By default
                all are. What stands in the others makes no difference.

        Returns:
            (L, 2) logits: class 0 trains on, class 1 freezes. On the predictor's device.

        Raises:
            ValueError: a shape or type is wrong, or a newest record is not valid.
        """
        records, attended = self.encode(history, valid)
        records, attended = records[:, -self.window :], attended[:, -self.window :]
        return self.decide(records[:, -1], self.mlp_k(records), self.mlp_v(records), attended)

    def encode(self, history: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the MLPs see of a history; arguments as in `forward`.

        Returns:
            The encoded records, (L, T, size), and which of them are attended to, (L, T) bool.
        """
        history, valid = self._checked(history, valid)
        encoding = ENCODINGS[self.encoding]
        records = encoding(history).to(next(self.parameters()).dtype)
        if encoding.compares:
            # The first record, compared with nothing, is attended to only if it is alone.
            compared = valid & (valid.cumsum(dim=1) > 1)
            valid = torch.where(compared.any(dim=1, keepdim=True), compared, valid)
        return records, valid

    def decide(self, newest: Tensor, keys: Tensor, values: Tensor, attended: Tensor) -> Tensor:
        """Eqs. 2-4 after the encoding, for those who keep keys and values from record to record.

        Args:
            newest: (L, size) encoded newest records.
            keys: (L, T, features) of the records in the window, in any order.
            values: (L, T, features), in the same order.
            attended: (L, T) bool, which of them to attend to.

        Returns:
            (L, 2) logits.
        """
        attention = _attention(self.mlp_q(newest), keys, attended)
        return self.mlp_z(torch.einsum("lt,ltf->lf", attention, values))  # Eqs. 3 and 4

    def decide_at_every_record(self, records: Tensor) -> Tensor:
        """What `forward` says at each record, of those up to it, all in one pass.

        Args:
            records: (L, T, size), all valid, as `encode` gives them.

        Returns:
            (L, T, 2) logits.
        """
        index = torch.arange(records.shape[1], device=records.device)
        age = index[:, None] - index
        attended = (age >= 0) & (age < self.window)
        if ENCODINGS[self.encoding].compares:
            attended[1:, 0] = False
        scores = torch.einsum("lqf,lkf->lqk", self.mlp_q(records), self.mlp_k(records))
        attention = scores.masked_fill(~attended, -torch.inf).softmax(dim=-1)
        return self.mlp_z(attention @ self.mlp_v(records))

    def attention_weights(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """How much each record counts (alpha of Eq. 2), (L, T); arguments as in `forward`.

        Records before the window count nothing.
        """
        records, attended = self.encode(history, valid)
        recent = records[:, -self.window :]
        attention = _attention(
            self.mlp_q(records[:, -1]), self.mlp_k(recent), attended[:, -self.window :]
        )
        return F.pad(attention, (records.shape[1] - recent.shape[1], 0))

    @torch.no_grad()
    def freeze_probability(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """The confidence that each layer can be frozen (Eq. 4); freeze above ``threshold``.

        The newest ``window`` records are attended to; older ones tell only how far those moved. A
        layer gets 0 where its history can't tell: if a weight is not finite, if there is one record
        only, or if no weight moved in the window. Such a layer has not converged but not begun to
        train, as while a warm-up holds the learning rate at zero.

        Args:
            history: (L, T, size) tailored weights, oldest first, T >= 1: all that were recorded of
                the layers, in execution order, frozen ones included. ``"drift"`` looks back by
                fractions of the time so far, and from each layer to those before it.
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
            ValueError: there is no such predictor, or one of its files is missing or bad.
        """
        config_file = locate(source, CONFIG_FILE, download)
        weights_file = locate(source, WEIGHTS_FILE, download)
        try:
            # Whoever trains with dropout gets the same random numbers with a predictor as without.
            with torch.random.fork_rng(devices=[]):
                predictor = cls(**json.loads(config_file.read_text(encoding="utf-8")))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{config_file} does not configure a predictor: {error}") from error
        try:
            predictor.load_state_dict(load_file(weights_file))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{weights_file} does not hold the weights of the predictor that {CONFIG_FILE} "
                f"beside it describes: {reason}"
            ) from error
        return predictor.eval()

    def save_pretrained(self, save_directory: str | Path, **hub: Any) -> str | None:
        """Writes ``config.json`` and ``model.safetensors``, and no model card.

        Args:
            save_directory: the folder, made if it does not exist.
            **hub: as in ``huggingface_hub.PyTorchModelHubMixin.save_pretrained``.

        Returns:
            The URL of the commit, with ``push_to_hub=True``.
        """
        card = Path(save_directory) / "README.md"
        had_card = card.exists()
        # The mixin writes what the predictor was made with; its threshold is chosen after training.
        assert isinstance(self._hub_mixin_config, dict)
        self._hub_mixin_config["threshold"] = self.threshold
        url = super().save_pretrained(save_directory, **hub)
        if not had_card:
            card.unlink()
        return url

    def _checked(self, history: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """The arguments on the predictor's device, and the history without gaps."""
        if history.ndim != 3 or history.shape[1] < 1 or history.shape[2] != self.size:
            raise ValueError(
                f"history must be (layers, records, {self.size}) with at least one record, "
                f"not {tuple(history.shape)}."
            )
        weight = next(self.parameters())
        # Less than float32 is too little to tell how far weights moved.
        history = history.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        if valid is None:
            return history, torch.ones(history.shape[:2], dtype=torch.bool, device=weight.device)
        if valid.shape != history.shape[:2] or valid.dtype != torch.bool:
            raise ValueError(
                f"valid must be bool and {tuple(history.shape[:2])}, "
                f"not {valid.dtype} and {tuple(valid.shape)}."
            )
        if not valid[:, -1].all():
            raise ValueError("The newest record, the last column of valid, must be valid.")
        valid = valid.to(weight.device)
        return fill_gaps(history, valid), valid


def has_moved(records: Tensor, before: Tensor) -> Tensor:
    """Whether a record's weights, all finite, differ from those before: (..., size) -> (...)."""
    return (records - before).abs().amax(dim=-1) > 0


def is_finite(records: Tensor) -> Tensor:
    """Whether all weights of a record are finite: (..., size) -> (...)."""
    return records.abs().amax(dim=-1).isfinite()


def confidence(logits: Tensor, moved: Tensor, finite: Tensor) -> Tensor:
    """The probability of class 1 of layers that moved and are finite, 0 of others: (L,)."""
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
