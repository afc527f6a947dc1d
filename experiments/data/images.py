"""Image data sets as tensors: scikit-learn's digits, CIFAR from ``$SMARTFRZ_DATA`` or the Hub."""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.errors import UserError
from experiments.files import (
    DamagedFileError,
    cache_folder,
    check_may_download,
    is_dry_run,
    replacing,
    set_damaged_aside,
    unless_damaged,
)

_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_FOLDERS = {"cifar10": ("cifar10", "cifar10-jpeg"), "cifar100": ("cifar100", "cifar100-jpeg")}
_LABELS = {"cifar10": "label", "cifar100": "fine_label"}

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}


@dataclass(frozen=True)
class ImageData:
    """Training and test images, (N, 3, height, width) uint8, and their labels, (N,) int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int

    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Channel mean and standard deviation of pixels in [0, 1], both (1, 3, 1, 1).

        They are computed on the first 5,000 training images.
        """
        pixels = self.train_images[:5000].double() / 255
        mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
        return mean.float().view(1, 3, 1, 1), std.float().view(1, 3, 1, 1)


@lru_cache(maxsize=2)
def load_data(name: str) -> ImageData:
    """Loads a data set, or some of its classes.

    Args:
        name: a key of `CLASSES`, optionally with a range of classes: ``cifar100[0:50]`` is the
            classes 0 to 49.

    Raises:
        UserError: the name is unknown, or the data is neither on disk nor available on the Hub.
    """
    whole, first, end = parse_name(name)
    data = _digits() if whole == "digits" else _cifar(whole)
    return data if end - first == data.num_classes else _classes(data, first, end)


def parse_name(name: str) -> tuple[str, int, int]:
    """Splits a name such as ``cifar100[0:50]`` into data set, first class and end of the range.

    Raises:
        UserError: there is no such data set, or it does not have these classes.
    """
    match = re.fullmatch(r"(\w+?)(?:\[(\d+):(\d+)\])?", name)
    if not match or match[1] not in CLASSES:
        raise UserError(f"There is no data set {name!r}: choose from {', '.join(CLASSES)}.")
    classes = CLASSES[match[1]]
    first, end = (int(match[2]), int(match[3])) if match[2] else (0, classes)
    if not 0 <= first < end <= classes:
        raise UserError(
            f"{name!r} is not a range of classes: {match[1]} has the classes [0:{classes}]."
        )
    return match[1], first, end


def _classes(data: ImageData, first: int, end: int) -> ImageData:
    train = (data.train_labels >= first) & (data.train_labels < end)
    test = (data.test_labels >= first) & (data.test_labels < end)
    return ImageData(
        data.train_images[train],
        data.train_labels[train] - first,
        data.test_images[test],
        data.test_labels[test] - first,
        end - first,
    )


def _digits() -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().mul(255 / 16).unsqueeze(1)
    images = torch.nn.functional.interpolate(images, size=16, mode="bilinear").round().byte()
    images = images.expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1297], order[1297:]
    return ImageData(images[train], labels[train], images[test], labels[test], 10)


def _cifar(name: str) -> ImageData:
    """Loads CIFAR-10 or CIFAR-100; decoded images are cached."""
    files = _parquet_files(name)
    stamp = ["hub"]
    if files is not None:
        stamp = [files["train"].parent.name, *(str(f.stat().st_size) for f in files.values())]
    cached = cache_folder("data") / f"{'-'.join([name, *stamp])}.safetensors"
    tensors = unless_damaged(cached, _read)
    if tensors is None:
        tensors = _decode(name, files)
        if not is_dry_run():
            set_damaged_aside(cached, _read)
            with replacing(cached) as partial:
                save_file(tensors, partial)
    return ImageData(**tensors, num_classes=CLASSES[name])


def _read(cached: Path) -> dict[str, Tensor]:
    try:
        return load_file(cached)
    except SafetensorError as error:
        raise DamagedFileError(str(error)) from error


def _parquet_files(name: str) -> dict[str, Path] | None:
    root = os.environ.get("SMARTFRZ_DATA")
    for folder in _FOLDERS[name] if root else ():
        files = {
            split: Path(root or "", folder, f"{split}-00000.parquet") for split in ("train", "test")
        }
        if all(file.exists() for file in files.values()):
            return files
    return None


def _decode(name: str, files: dict[str, Path] | None) -> dict[str, Tensor]:
    import numpy as np

    if files is None:
        check_may_download(f"The data set {name}")
    sets = _from_files(name, files) if files is not None else _from_hub(name)
    tensors = {}
    for split in ("train", "test"):
        images = np.stack([np.asarray(image.convert("RGB")) for image in sets[split]["img"]])
        tensors[f"{split}_images"] = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        tensors[f"{split}_labels"] = torch.tensor(list(sets[split][_LABELS[name]]))
    return tensors


def _from_files(name: str, files: dict[str, Path]) -> dict[str, Any]:
    """The columns of both files, read by pandas: ``datasets`` would write a copy of them."""
    import pandas as pd

    folder = files["train"].parent
    try:
        frames = {split: pd.read_parquet(file) for split, file in files.items()}
    except (ValueError, OSError) as error:
        raise UserError(
            f"The data set {name} in {folder} cannot be read ({error}). Replace its files."
        ) from error
    for column in ("img", _LABELS[name]):
        if not all(column in frame for frame in frames.values()):
            raise UserError(
                f"The data set {name} in {folder} has no column {column!r}. Replace its files."
            )
    return {
        split: {**frame, "img": (Image.open(BytesIO(each["bytes"])) for each in frame["img"])}
        for split, frame in frames.items()
    }


def _from_hub(name: str):
    import datasets

    try:
        return datasets.load_dataset(_HUB[name])
    except Exception as error:  # the network, the Hub and the cache raise errors of many types
        folders = " or ".join(_FOLDERS[name])
        root = os.environ.get("SMARTFRZ_DATA")
        state = f"$SMARTFRZ_DATA ({root}) has no {folders}" if root else "$SMARTFRZ_DATA is not set"
        raise UserError(
            f"The data set {name} is missing: {state}, and downloading {_HUB[name]} from the "
            f"Hugging Face Hub failed ({type(error).__name__}). Set SMARTFRZ_DATA to a folder that "
            f"contains {folders} with train-00000.parquet and test-00000.parquet, or go online "
            "once."
        ) from error
