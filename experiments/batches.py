"""Batches that depend on the seed and the epoch alone, so that a resumed run sees the same ones."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.config import RunConfig
from experiments.data import ImageData


class Batches:
    """The training and test batches of a run, on its device.

    Args:
        config: the run: batch size (over all processes), image size, how many images, augmentation.
        data: the data set.
        device: where the images are kept and the batches come out.
        rank, world_size: this process takes every ``world_size``-th image of a batch.

    Raises:
        ValueError: the training images fill no batch, or a batch does not divide evenly.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.config, self.device, self.rank, self.world_size = config, device, rank, world_size
        self._train = data.train_images[: config.train_images or None].to(device)
        self._train_labels = data.train_labels[: config.train_images or None].to(device)
        self._test = data.test_images[: config.test_images or None].to(device)
        self._test_labels = data.test_labels[: config.test_images or None].to(device)
        self._mean, self._std = (each.to(device) for each in data.normalisation())
        self.steps_per_epoch = len(self._train) // config.batch_size
        if self.steps_per_epoch == 0 or config.batch_size % world_size:
            raise ValueError(
                f"{len(self._train)} training images and {world_size} processes do not go with "
                f"batches of {config.batch_size}."
            )

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, in an order, and with crops and flips, of their own."""
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(self._train), generator=generator)
        size = self.config.batch_size
        for step in range(self.steps_per_epoch):
            chosen = order[step * size : (step + 1) * size]
            shifts = torch.rand(len(chosen), 3, generator=generator)
            mine = slice(self.rank, None, self.world_size)
            chosen, shifts = chosen[mine].to(self.device), shifts[mine].to(self.device)
            images = self._train[chosen]
            if self.config.augment:
                images = crop_and_flip(images, shifts)
            yield self._prepared(images), self._train_labels[chosen]

    def test(self, images: int = 0, batch_size: int = 250) -> Iterator[tuple[Tensor, Tensor]]:
        """The first ``images`` test images (0 for all)."""
        end = min(images or len(self._test), len(self._test))
        for start in range(0, end, batch_size):
            chosen = slice(start, min(start + batch_size, end))
            yield self._prepared(self._test[chosen]), self._test_labels[chosen]

    def probe(self, images: int, batch_size: int = 32) -> list[Tensor]:
        """The first ``images`` training images, not augmented: no policy sees a test image."""
        return [self._prepared(part) for part in self._train[:images].split(batch_size)]

    def _prepared(self, images: Tensor) -> Tensor:
        scaled = (images.float() / 255 - self._mean) / self._std
        if scaled.shape[-1] != self.config.image_size:
            scaled = F.interpolate(scaled, size=self.config.image_size, mode="bilinear")
        if self.config.channels_last:
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        return scaled


def crop_and_flip(images: Tensor, uniform: Tensor) -> Tensor:
    """Pads by an eighth of the side, crops at random, flips half of the images.

    Args:
        images: (N, C, H, W).
        uniform: (N, 3) random numbers in [0, 1): row, column, flip.
    """
    n, _, height, width = images.shape
    pad = height // 8
    padded = F.pad(images, (pad, pad, pad, pad))
    top, left = (uniform[:, :2].T * (2 * pad + 1)).long()
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    columns = torch.where(uniform[:, 2:] < 0.5, columns.flip(1), columns)
    index = torch.arange(n, device=images.device)
    return padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
