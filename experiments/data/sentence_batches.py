"""Batches of sentences for classification and for predicting masked words."""

import torch
from torch import Tensor

from experiments.config import RunConfig
from experiments.data.batches import StoredBatches
from experiments.data.sentences import CLS, MASK, SEP, VOCABULARY, TextData
from smartfrz.graph import Inputs

_MASKED = 0.15
# The default ignore_index of cross_entropy.
_IGNORED = -100


class TextBatches(StoredBatches):
    """Batches of sentences for classification, see `Batches`.

    Args:
        config: the run: number of examples.
        data: the data set.
        device: device of the sentences and the batches.
        rank, world_size: as in `Batches`.
    """

    def __init__(
        self,
        config: RunConfig,
        data: TextData,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        train, test = config.train_images or None, config.test_images or None
        self.device = device
        self._train = {
            "ids": data.train_ids[:train].to(device),
            "types": data.train_types[:train].to(device),
        }
        self._test = {
            "ids": data.test_ids[:test].to(device),
            "types": data.test_types[:test].to(device),
        }
        self._train_labels = data.train_labels[:train].to(device)
        self._test_labels = data.test_labels[:test].to(device)
        num_train, num_test = len(self._train_labels), len(self._test_labels)
        super().__init__(config, num_train, num_test, data.num_classes, rank, world_size)

    def probe(self, examples: int, batch_size: int = 32) -> list[Inputs]:
        """The first training examples."""
        rows = torch.arange(min(examples, self._num_train)).split(batch_size)
        return [self._prepared(self._train, part) for part in rows]

    def example(self) -> dict[str, Tensor]:
        """The first test example."""
        return {name: rows.cpu() for name, rows in self._prepared(self._test, slice(1)).items()}

    def _train_batch(self, chosen: Tensor, uniform: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return self._prepared(self._train, chosen), self._train_labels[chosen]

    def _test_batch(self, chosen: slice) -> tuple[dict[str, Tensor], Tensor]:
        return self._prepared(self._test, chosen), self._test_labels[chosen]

    def _prepared(self, part: dict[str, Tensor], chosen: Tensor | slice) -> dict[str, Tensor]:
        ids, types = part["ids"][chosen], part["types"][chosen]
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": (ids > 0).long()}


class MaskedTextBatches(TextBatches):
    """Batches for predicting 15 % of the words of sentences (Devlin et al., 2019, Section 3.1).

    Of these words, 80 % are masked, 10 % are replaced by random words, and 10 % are unchanged. The
    masks of the test sentences are fixed. Inputs also contain the ``positions`` (B, K) of the
    words to predict; labels are these words, (B, K).
    """

    @property
    def random_numbers(self) -> int:  # type: ignore[override]
        """Two random numbers per word: for selecting it, and for replacing it."""
        return 2 * self._train["ids"].shape[1]

    def _train_batch(self, chosen: Tensor, uniform: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return self._masked(self._prepared(self._train, chosen), uniform)

    def _test_batch(self, chosen: slice) -> tuple[dict[str, Tensor], Tensor]:
        generator = torch.Generator().manual_seed(chosen.start)
        inputs = self._prepared(self._test, chosen)
        size = len(inputs["input_ids"]), self.random_numbers
        return self._masked(inputs, torch.rand(size, generator=generator).to(self.device))

    def probe(self, examples: int, batch_size: int = 32) -> list[Inputs]:
        """The first training examples without masks, with ``positions``."""
        rows = torch.arange(min(examples, self._num_train)).split(batch_size)
        return [_with_positions(self._prepared(self._train, part)) for part in rows]

    def example(self) -> dict[str, Tensor]:
        """The first test example without masks, with ``positions``."""
        return _with_positions(super().example())

    def _masked(
        self, inputs: dict[str, Tensor], uniform: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        ids = inputs["input_ids"]
        which, how = uniform.chunk(2, dim=1)
        is_word = (ids > 0) & (ids != CLS) & (ids != SEP)
        positions = which.masked_fill(~is_word, 2.0).argsort(1)[:, : _count(ids)]
        words, how = ids.gather(1, positions), how.gather(1, positions)
        random_words = (how * 10 % 1 * VOCABULARY).long()
        new = torch.where(how < 0.8, MASK, torch.where(how < 0.9, random_words, words))
        labels = words.masked_fill(~is_word.gather(1, positions), _IGNORED)
        masked = ids.scatter(1, positions, torch.where(labels == _IGNORED, words, new))
        return {**inputs, "input_ids": masked, "positions": positions}, labels


def _with_positions(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = inputs["input_ids"]
    return {**inputs, "positions": torch.arange(_count(ids)).expand(len(ids), -1).to(ids.device)}


def _count(ids: Tensor) -> int:
    """Number of words to predict per sequence."""
    return max(1, round(_MASKED * ids.shape[1]))
