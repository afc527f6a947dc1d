"""Batches of images that are read from folders, with timm's transforms and mixup."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from experiments.config import RunConfig
from experiments.data.batches import Batch, Batches
from experiments.data.image_folders import FolderData, Transformed
from experiments.errors import UserError
from smartfrz.graph import Inputs

RECIPES: dict[str, dict[str, Any]] = {
    "": {"auto_augment": None, "color_jitter": None, "interpolation": "bilinear"},
    "deit": {
        **{"auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": None},
        **{"interpolation": "bicubic", "re_prob": 0.25, "re_mode": "pixel"},
    },
}
"""timm's options for augmentation: crops and flips; DeiT's recipe (Touvron et al., Table 9)."""

MIXUP = {"deit": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1}}
"""timm's options for mixing the images of a batch; labels become probabilities (B, classes)."""


class FolderBatches(Batches):
    """Batches of images that are read from disk, see `Batches`.

    Args:
        config: the run: image size, number of images, augmentation, recipe.
        data: the data set.
        device: device of the batches.
        rank, world_size: as in `Batches`.
        normalisation: mean and standard deviation of pixels in [0, 1] to normalise with; None for
            those of ImageNet.
    """

    def __init__(
        self,
        config: RunConfig,
        data: FolderData,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        normalisation: tuple[float, float] | None = None,
    ) -> None:
        from timm.data import Mixup, create_transform

        if config.recipe not in RECIPES:
            known = ", ".join(filter(None, RECIPES))
            raise UserError(f"There is no recipe {config.recipe!r}: choose from {known}.")
        self.device, self.data = device, data
        create = partial(create_transform, input_size=config.image_size)
        if normalisation:
            mean, std = normalisation
            create = partial(create, mean=[mean] * 3, std=[std] * 3)
        self._plain = create(is_training=False)
        options = RECIPES[config.recipe]
        self._random = create(is_training=True, **options) if config.augment else self._plain
        mixing = MIXUP.get(config.recipe)
        self._mixup = Mixup(num_classes=data.num_classes, **mixing) if mixing else None
        num_train = min(config.train_images or len(data.train), len(data.train))
        num_test = min(config.test_images or len(data.test), len(data.test))
        super().__init__(config, num_train, num_test, data.num_classes, rank, world_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; augmentation depends on seed, epoch and example only."""
        chosen = [mine for mine, _ in self._order(seed, epoch)]
        loader = self._loader(
            Transformed(self.data.train, self._random, partial(_seeded, seed, epoch)),
            [each.tolist() for each in chosen],
        )
        for keys, (images, labels) in zip(chosen, loader, strict=True):
            images, labels = images.to(self.device), labels.to(self.device)
            if self._mixup is not None:
                with _seeded(seed, epoch, -1 - int(keys[0])):
                    images, labels = self._mixup(images, labels)
            yield Batch(self._in_format(images), labels, keys)

    def test(
        self, examples: int = 0, batch_size: int = 250, shared: bool = False
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches of test images and labels, see `Batches.test`."""
        parts = [
            list(range(part.start, part.stop)) for part in self._parts(examples, batch_size, shared)
        ]
        plain = Transformed(self.data.test, self._plain, partial(_seeded, 0, 0))
        for images, labels in self._loader(plain, parts):
            yield self._in_format(images.to(self.device)), labels.to(self.device)

    def probe(self, examples: int, batch_size: int = 32) -> list[Inputs]:
        """The first training images, not augmented."""
        plain = Transformed(self.data.train, self._plain, partial(_seeded, 0, 0))
        first = Subset(plain, range(min(examples, self._num_train)))
        loader = DataLoader(first, batch_size=batch_size)
        return [self._in_format(images.to(self.device)) for images, _ in loader]

    def example(self) -> Tensor:
        """A black image."""
        return torch.zeros(1, 3, self.config.image_size, self.config.image_size)

    def _loader(self, images: Transformed, batches: list[list[int]]) -> DataLoader:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        cores = len(os.sched_getaffinity(0)) // processes
        return DataLoader(
            images,
            batch_sampler=batches,
            generator=torch.Generator(),  # keeps it from drawing a seed from the global generator
            num_workers=min(cores - 1, 12) if cores > 2 else 0,
            pin_memory=self.device.type == "cuda",
        )

    def _in_format(self, images: Tensor) -> Tensor:
        if self.config.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images


@contextmanager
def _seeded(seed: int, epoch: int, number: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's generators from three numbers; restores them after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = random.Random(f"{seed} {epoch} {number}").getrandbits(32)
    random.seed(drawn)
    np.random.seed(drawn)
    torch.default_generator.manual_seed(drawn)  # torch.manual_seed would seed the GPUs as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
