"""Text data sets as tensors of BERT's WordPieces: GLUE tasks and synthetic sentences.

GLUE is read from ``$SMARTFRZ_DATA`` or downloaded from the Hub.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.errors import UserError
from experiments.files import check_may_download, is_out_of_memory

TASKS = {
    "mrpc": ("sentence1", "sentence2"),
    "cola": ("sentence",),
    "sst2": ("sentence",),
}
"""GLUE tasks by name, with the columns that contain their sentences."""

SENTENCES = "sentences"
"""The concatenated training sentences of all tasks, for predicting masked words."""

MADE = "made"
"""Synthetic sentences of random words; the label is whether a certain word is among them."""

SENTENCES_LENGTH = 80
"""Sequence length for predicting masked words, in tokens; few pairs of MRPC are longer."""

VOCABULARY = 30_522
CLS, SEP, MASK = 101, 102, 103

_HUB = "bert-base-uncased"
# Fraction of SENTENCES that is held out as the test set.
_TEST_FRACTION = 0.02


@dataclass(frozen=True)
class TextData:
    """Examples as int64 tensors.

    ``ids`` are token ids, (N, length), 0 for padding; ``types`` are token types, (N, length), 0 for
    the first and 1 for the second sentence of a pair. Labels are (N,), and unused for `SENTENCES`,
    whose labels are the words.
    """

    train_ids: Tensor
    train_types: Tensor
    train_labels: Tensor
    test_ids: Tensor
    test_types: Tensor
    test_labels: Tensor
    num_classes: int


@lru_cache(maxsize=4)
def load_text(name: str, length: int) -> TextData:
    """Loads a text data set; the test set of a GLUE task is its validation split.

    Args:
        name: one of `TASKS`, `SENTENCES` or `MADE`.
        length: number of tokens to which examples are cut or padded.

    Raises:
        UserError: the data or the vocabulary is neither on disk nor available on the Hub, or the
            length is below 8.
    """
    if length < 8:
        raise UserError(f"max_length = {length} is too short for a sentence: set at least 8.")
    if name == MADE:
        return _made(length)
    return _sentences(length) if name == SENTENCES else _task(name, length)


def _task(name: str, length: int) -> TextData:
    parts: dict[str, Tensor] = {}
    for ours, theirs in (("train", "train"), ("test", "validation")):
        rows = _rows(name, theirs)
        encoded = _tokenizer()(
            *[list(rows[column]) for column in TASKS[name]],
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        parts[f"{ours}_ids"] = encoded["input_ids"]
        parts[f"{ours}_types"] = encoded["token_type_ids"]
        parts[f"{ours}_labels"] = torch.tensor(list(rows["label"]))
    return TextData(**parts, num_classes=2)


def _sentences(length: int) -> TextData:
    """The shuffled sentences of all tasks, separated by ``[SEP]``, cut into equal lengths."""
    texts = list(dict.fromkeys(chain.from_iterable(_texts(name) for name in TASKS)))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    pieces = _tokenizer()([texts[i] for i in order], add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([token for piece in pieces for token in (*piece, SEP)])
    rows = tokens[: len(tokens) // (length - 1) * (length - 1)].view(-1, length - 1)
    ids = torch.cat([torch.full((len(rows), 1), CLS), rows], 1)
    held_out = max(1, int(len(ids) * _TEST_FRACTION))
    train, test = ids[held_out:], ids[:held_out]
    return TextData(
        **{"train_ids": train, "train_types": torch.zeros_like(train)},
        **{"test_ids": test, "test_types": torch.zeros_like(test)},
        train_labels=torch.zeros(len(train), dtype=torch.int64),
        test_labels=torch.zeros(len(test), dtype=torch.int64),
        num_classes=VOCABULARY,
    )


def _made(length: int, train: int = 1024, test: int = 256, words: int = 200) -> TextData:
    generator = torch.Generator().manual_seed(0)
    count = train + test
    labels = torch.arange(count) % 2
    # Word 1000 is the one that makes a sentence positive.
    ids = torch.randint(1001, 1000 + words, (count, length), generator=generator)
    places = torch.randint(1, length - 1, (count,), generator=generator)
    rows = torch.arange(count)
    ids[rows, places] = torch.where(labels == 1, 1000, ids[rows, places])
    ids[:, 0], ids[:, -1] = CLS, SEP
    types = torch.zeros_like(ids)
    first, rest = slice(train), slice(train, count)
    return TextData(
        *(ids[first], types[first], labels[first]), *(ids[rest], types[rest], labels[rest]), 2
    )


def _texts(name: str) -> Iterator[str]:
    rows = _rows(name, "train")
    for column in TASKS[name]:
        yield from rows[column]


def _rows(name: str, split: str) -> Any:
    """The rows of a task's split, indexable by column."""
    import datasets
    import pandas as pd

    root = os.environ.get("SMARTFRZ_DATA")
    file = Path(root or "", "glue", name, f"{split}-00000.parquet")
    is_local = root and file.exists()
    if not is_local:
        check_may_download(f"The task {name}")
    try:
        # datasets would write a copy of the local file.
        rows = (
            datasets.Dataset.from_pandas(pd.read_parquet(file))
            if is_local
            else datasets.load_dataset("nyu-mll/glue", name, split=split)
        )
    except Exception as error:  # the network, the Hub and the cache raise errors of many types
        if is_out_of_memory(error):
            raise
        raise _missing(f"The task {name}", f"glue/{name}/{split}-00000.parquet", error) from error
    columns = (*TASKS[name], "label")
    if missing := [column for column in columns if column not in rows.column_names]:
        raise UserError(
            f"The {split} split of {name} has no column {missing[0]!r}: it has "
            f"{', '.join(rows.column_names)}, but {' and '.join(columns)} are required."
        )
    return rows


@lru_cache
def _tokenizer() -> Any:
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    root = os.environ.get("SMARTFRZ_DATA")
    file = Path(root or "", _HUB, "vocab.txt")
    is_local = root and file.exists()
    if not is_local:
        check_may_download("BERT's vocabulary")
    try:
        if is_local:
            return BertTokenizerFast(vocab=str(file))
        return BertTokenizerFast.from_pretrained(_HUB)
    except Exception as error:  # the network, the Hub and the cache raise errors of many types
        if is_out_of_memory(error):
            raise
        raise _missing("BERT's vocabulary", f"{_HUB}/vocab.txt", error) from error


def _missing(what: str, file: str, error: Exception) -> UserError:
    root = os.environ.get("SMARTFRZ_DATA")
    state = f"$SMARTFRZ_DATA ({root}) has no {file}" if root else "$SMARTFRZ_DATA is not set"
    return UserError(
        f"{what} is missing: {state}, and downloading it from the Hugging Face Hub failed "
        f"({type(error).__name__}). Set SMARTFRZ_DATA to the folder that contains {file}, or go "
        "online once."
    )
