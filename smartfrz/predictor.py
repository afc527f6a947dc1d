"""The attention-based predictor (Sec. 3.3): is a layer, by its history, ready to be frozen?"""

import json
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartfrz.encodings import ENCODINGS, MIN_RECORDS

_BUNDLED = Path(__file__).parent / "pretrained"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


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
        window: how many records, counted from the newest, :meth:`freeze_probability` looks at.
        encoding: what is made of the weights first, a name in ``smartfrz.encodings.ENCODINGS``:
            ``"raw"`` as in the paper, or ``"displacement"``.

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
        encoding: str = "displacement",
    ) -> None:
        sizes = (size, hidden, features, head_hidden, window)
        if not all(isinstance(number, int) and number > 0 for number in sizes):
            raise ValueError(f"The predictor's sizes must be positive integers, not {sizes}.")
        if encoding not in ENCODINGS:
            raise ValueError(f"Unknown encoding {encoding!r}: choose from {sorted(ENCODINGS)}.")
        super().__init__()
        self.size = size
        self.window = window
        self.encoding = encoding
        self.mlp_k = _mlp(size, hidden, features)
        self.mlp_q = _mlp(size, hidden, features)
        self.mlp_v = _mlp(size, hidden, features)
        self.mlp_z = _mlp(features, head_hidden, 2)

    def forward(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """Confidence scores of each layer, before the softmax (MLP_z in Eq. 4).

        Args:
            history: (L, T, size) tailored weights of L layers at T >= 1 points in time, oldest
                first; of any float type and on any device.
            valid: (L, T) bool, which records there are; the newest is always valid. By default
                all are. What stands in the others makes no difference.

        Returns:
            (L, 2) logits: class 0 trains on, class 1 freezes. On the predictor's device.

        Raises:
            ValueError: a shape or type is wrong, or a newest record is not valid.
        """
        records, valid = self._encode(history, valid)
        attention = self._attend(records, valid)
        context = torch.einsum("lt,ltf->lf", attention, self.mlp_v(records))  # Eq. 3
        return self.mlp_z(context)

    def attention_weights(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """How much each record counts (alpha of Eq. 2), (L, T); arguments as in :meth:`forward`."""
        return self._attend(*self._encode(history, valid))

    @torch.no_grad()
    def freeze_probability(self, history: Tensor, valid: Tensor | None = None) -> Tensor:
        """The confidence that each layer can be frozen; freeze above 0.5 (Eq. 4).

        Only the last ``window`` records count. A layer whose weights are not finite gets 0, as
        does one with too few records to tell: one alone says nothing about displacement.

        Args:
            history: (L, T, size) tailored weights, oldest first, T >= 1.
            valid: (L, T) bool, as in :meth:`forward`.

        Returns:
            (L,) in [0, 1], on the predictor's device.

        Raises:
            ValueError: as :meth:`forward`.
        """
        history, valid = self._checked(history, valid)
        history, valid = history[:, -self.window :], valid[:, -self.window :]
        probability = self(history, valid).softmax(dim=-1)[:, 1]
        enough = valid.sum(dim=1) >= MIN_RECORDS[self.encoding]
        finite = history.isfinite().all(dim=2).all(dim=1) & probability.isfinite()
        return torch.where(enough & finite, probability, 0.0)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | Path | None = None, **download: Any
    ) -> Self:
        """Loads a trained predictor from its ``config.json`` and ``model.safetensors``.

        Args:
            source: the name of a bundled predictor (by default ``"displacement"``), a folder, or
                the id ``user/name`` of a repository on the Hugging Face Hub.
            **download: options of ``huggingface_hub.hf_hub_download``, such as ``revision``.

        Returns:
            The predictor, in eval mode, on the CPU.

        Raises:
            ValueError: there is no such predictor, or one of its files is missing or bad.
        """
        config_file = _locate(source, _CONFIG, download)
        weights_file = _locate(source, _WEIGHTS, download)
        try:
            predictor = cls(**json.loads(config_file.read_text(encoding="utf-8")))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{config_file} does not configure a predictor: {error}") from error
        try:
            predictor.load_state_dict(load_file(weights_file))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{weights_file} does not hold the weights of the predictor that {_CONFIG} "
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
        url = super().save_pretrained(save_directory, **hub)
        if not had_card:
            card.unlink()
        return url

    def _checked(self, history: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """The arguments on the predictor's device, in its float type, zero where not valid."""
        if history.ndim != 3 or history.shape[1] < 1 or history.shape[2] != self.size:
            raise ValueError(
                f"history must be (layers, records, {self.size}) with at least one record, "
                f"not {tuple(history.shape)}."
            )
        weight = next(self.parameters())
        history = history.to(weight)
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
        return history.masked_fill(~valid[..., None], 0), valid

    def _encode(self, history: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        history, valid = self._checked(history, valid)
        return ENCODINGS[self.encoding](history, valid), valid

    def _attend(self, records: Tensor, valid: Tensor) -> Tensor:
        """Eq. 2, with the keys and the query of Eq. 1."""
        query, keys = self.mlp_q(records[:, -1]), self.mlp_k(records)
        scores = torch.einsum("lf,ltf->lt", query, keys)
        return scores.masked_fill(~valid, -torch.inf).softmax(dim=1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def _locate(source: str | Path | None, filename: str, download: dict[str, Any]) -> Path:
    """The file of a predictor: bundled, in a folder, or fetched from the Hub."""
    bundled = sorted(config.parent.name for config in _BUNDLED.glob(f"*/{_CONFIG}"))
    if source is None:
        folder = _BUNDLED / "displacement"
    elif source in bundled:
        folder = _BUNDLED / source
    elif Path(source).is_dir() or isinstance(source, Path) or "/" not in source:
        folder = Path(source)
    else:
        return _fetch(source, filename, download)
    if not (folder / filename).is_file():
        raise ValueError(
            f"There is no {folder / filename}: give a folder with {_CONFIG} and {_WEIGHTS}, "
            f"a Hub id user/name, or the name of a bundled predictor, of which there are {bundled}."
        )
    return folder / filename


def _fetch(repo_id: str, filename: str, download: dict[str, Any]) -> Path:
    try:
        return Path(hf_hub_download(repo_id, filename, **download))
    except (OSError, EntryNotFoundError) as error:
        raise ValueError(
            f"{repo_id!r} is no folder, and {filename} can't be had from the Hugging Face Hub "
            f"under that name: {error}"
        ) from error
