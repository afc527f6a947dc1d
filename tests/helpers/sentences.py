"""Synthetic sentences on disk in the layout of GLUE and of BERT's vocabulary."""

import random
from pathlib import Path

import datasets

WORDS = [f"w{i}" for i in range(200)]
_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


def write_sentences(root: Path, count: int = 96) -> None:
    """Writes MRPC, CoLA and SST-2; the label is whether w0 is in the (first) sentence."""
    vocabulary = [_SPECIAL.get(i, f"[unused{i}]") for i in range(30_522)]
    vocabulary[1000 : 1000 + len(WORDS)] = WORDS
    (root / "bert-base-uncased").mkdir(parents=True)
    (root / "bert-base-uncased" / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    made = random.Random(0)
    for task, columns in (("mrpc", 2), ("cola", 1), ("sst2", 1)):
        for split, size in (("train", count), ("validation", count // 4)):
            rows = [_row(columns, made) for _ in range(size)]
            table = datasets.Dataset.from_list(rows)
            (root / "glue" / task).mkdir(parents=True, exist_ok=True)
            table.to_parquet(root / "glue" / task / f"{split}-00000.parquet")


def _row(columns: int, made: random.Random) -> dict[str, object]:
    label = made.random() < 0.5
    texts = [made.sample(WORDS[1:], made.randint(3, 9)) for _ in range(columns)]
    if label:
        texts[0].insert(made.randint(0, 3), "w0")
    names = ["sentence"] if columns == 1 else ["sentence1", "sentence2"]
    return {**dict(zip(names, map(" ".join, texts), strict=True)), "label": int(label)}
