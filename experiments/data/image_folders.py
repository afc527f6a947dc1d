"""Image data sets with one folder per class, such as ImageNet, read from disk on demand."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from experiments.errors import UserError
from experiments.files import check_may_download

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

FOLDERS: dict[str, int | None] = {"imagenet": 1000, "imagefolder": None}
"""Data sets of this kind, and their number of classes; None for any number."""

_HUB = "ILSVRC/imagenet-1k"


@dataclass(frozen=True)
class FolderData:
    """Training and test sets of (image, label) in a fixed random order."""

    train: Subset
    test: Subset
    num_classes: int


@lru_cache(maxsize=2)
def load_folders(name: str) -> FolderData:
    """Loads the file list of a data set from ``$SMARTFRZ_DATA/<name>/{train,val}/<class>/*``.

    ImageNet is loaded from the Hub if there is no such folder.

    Raises:
        UserError: the data set is missing or incomplete.
    """
    root = Path(os.environ.get("SMARTFRZ_DATA", ""), name)
    if not os.environ.get("SMARTFRZ_DATA") or not root.is_dir():
        return _from_hub(name)
    train, test = _folder(root / "train"), _folder(root / "val")
    wanted = FOLDERS[name]
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(
            f"{root} is incomplete: {len(odd)} classes are in only one of train and val, for "
            f"example {odd[0]}. Add the missing folders."
        )
    if wanted is not None and len(train.classes) != wanted:
        raise UserError(
            f"{root} is incomplete: it has {len(train.classes)} of {wanted} classes. Add the "
            "missing folders."
        )
    return FolderData(_shuffled(train), _shuffled(test), len(train.classes))


def _folder(root: Path) -> "ImageFolder":
    from torchvision.datasets import ImageFolder  # takes seconds

    try:
        return ImageFolder(str(root))
    except FileNotFoundError as error:  # no such folder, no class in it, or a class without images
        raise UserError(f"{root} is incomplete: {error}") from error


def _from_hub(name: str) -> FolderData:
    import datasets

    root = os.environ.get("SMARTFRZ_DATA")
    state = f"$SMARTFRZ_DATA ({root}) has no {name}" if root else "$SMARTFRZ_DATA is not set"
    if name != "imagenet":
        raise UserError(
            f"The data set {name} is missing: {state}. Set SMARTFRZ_DATA to the folder that "
            f"contains {name}/{{train,val}}/<class>."
        )
    check_may_download("The data set imagenet")
    try:
        sets = datasets.load_dataset(_HUB)
    except Exception as error:  # the network, the Hub and the cache raise errors of many types
        raise UserError(
            f"The data set imagenet is missing: {state}, and downloading {_HUB} from the Hugging "
            f"Face Hub failed ({type(error).__name__}). Set SMARTFRZ_DATA to the folder that "
            "contains imagenet/{train,val}/<class>, or log in with an account that has accepted "
            "the terms of the data set."
        ) from error
    train, test = _Rows(sets["train"]), _Rows(sets["validation"])
    return FolderData(_shuffled(train), _shuffled(test), 1000)


def _shuffled(images: "ImageFolder | _Rows") -> Subset:
    """The images in a fixed random order, in which the first ones represent all classes."""
    generator = torch.Generator().manual_seed(0)
    return Subset(images, torch.randperm(len(images), generator=generator).tolist())


class _Rows(Dataset):
    """A data set of the Hub as (image, label)."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        return row["image"].convert("RGB"), row["label"]


class Transformed(Dataset):
    """A data set with a random transform that depends on the example's index only.

    Args:
        images: a data set of (image, label).
        transform: the transform of an image.
        seeded: returns a context in which random numbers depend on the index that it is given.
    """

    def __init__(
        self, images: Dataset, transform: Callable[[Any], Any], seeded: Callable[[int], Any]
    ) -> None:
        self.images, self.transform, self.seeded = images, transform, seeded

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.images[index]
        with self.seeded(index):
            return self.transform(image), label
