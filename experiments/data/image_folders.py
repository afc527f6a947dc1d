"""Images in folders, one for each class, as ImageNet comes; they are read when they are needed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder

FOLDERS: dict[str, int | None] = {"imagenet": 1000, "imagefolder": None}
"""Data sets of this kind, and how many classes they have to have; None for any number."""

_HUB = "ILSVRC/imagenet-1k"


@dataclass(frozen=True)
class FolderData:
    """Training and test images, which come as (picture, label), in random order."""

    train: Subset
    test: Subset
    num_classes: int


@lru_cache(maxsize=2)
def load_folders(name: str) -> FolderData:
    """Looks a data set through: ``$SMARTFRZ_DATA/<name>/{train,val}/<class>/*``, or the Hub's.

    Raises:
        ValueError: it is missing, or a part of it is.
    """
    root = Path(os.environ.get("SMARTFRZ_DATA", ""), name)
    if not os.environ.get("SMARTFRZ_DATA") or not root.is_dir():
        return _from_hub(name, root)
    train, test = _folder(root / "train"), _folder(root / "val")
    wanted = FOLDERS[name]
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(
            f"{root} is not whole: {len(odd)} classes are in train or in val but not in both, "
            f"{odd[0]} for one."
        )
    if wanted is not None and len(train.classes) != wanted:
        raise ValueError(f"{root} is not whole: it has {len(train.classes)} classes of {wanted}.")
    return FolderData(_shuffled(train), _shuffled(test), len(train.classes))


def _folder(root: Path) -> ImageFolder:
    try:
        return ImageFolder(str(root))
    except FileNotFoundError as error:  # no such folder, no class in it, or a class without images
        raise ValueError(f"{root} is not whole: {error}") from error


def _from_hub(name: str, root: Path) -> FolderData:
    import datasets

    if name != "imagenet":
        raise ValueError(f"{root} was looked for and is not there: set SMARTFRZ_DATA.")
    try:
        sets = datasets.load_dataset(_HUB)
    except Exception as error:  # whatever the network, the Hub or the cache raise
        raise ValueError(
            f"The data set imagenet is missing. {root}/{{train,val}}/<class> was looked for, then "
            f"{_HUB} on the Hugging Face Hub ({type(error).__name__}), which asks for an account "
            "that has accepted its terms. Set SMARTFRZ_DATA to the folder that holds imagenet/."
        ) from error
    train, test = _Rows(sets["train"]), _Rows(sets["validation"])
    return FolderData(_shuffled(train), _shuffled(test), 1000)


def _shuffled(images: "ImageFolder | _Rows") -> Subset:
    """Once and for all: folders come class by class, and the first images stand for all."""
    generator = torch.Generator().manual_seed(0)
    return Subset(images, torch.randperm(len(images), generator=generator).tolist())


class _Rows(Dataset):
    """Rows of a data set of the Hub as (picture, label)."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        return row["image"].convert("RGB"), row["label"]


class Transformed(Dataset):
    """A data set with a transform, as random as the example's number says and no more.

    Args:
        images: (picture, label) by number.
        transform: of a picture.
        seeded: enters a context in which random numbers depend on an example's number.
    """

    def __init__(
        self, images: Dataset, transform: Callable[[Any], Any], seeded: Callable[[int], Any]
    ) -> None:
        self.images, self.transform, self.seeded = images, transform, seeded

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture, label = self.images[index]
        with self.seeded(index):
            return self.transform(picture), label
