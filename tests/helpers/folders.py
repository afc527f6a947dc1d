"""Synthetic images on disk in ImageNet's folder layout."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_folders(root: Path, classes: int = 3, train: int = 16, val: int = 6) -> None:
    """Writes ``root/{train,val}/<class>/*.png``; the images of a class share a colour."""
    noise = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / split / f"n{label:08}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 100, (20 + i % 5, 24, 3))
                pixels[..., label % 3] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
