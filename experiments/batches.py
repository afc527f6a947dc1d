"""Batches that depend on the seed and the epoch alone, so that a resumed run sees the same ones."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.config import RunConfig
from experiments.data import ImageData
from smartfrz.tracing import Inputs


class Batch(NamedTuple):
    """What a step trains on: what the model is called with, the labels, and which examples."""

    inputs: Inputs
    labels: Tensor
    keys: Tensor


class Batches(ABC):
    """The training and test batches of a run, on its device.

    Args:
        config: the run: batch size, over all processes.
        num_train, num_test: how many examples there are.
        rank, world_size: this process takes every ``world_size``-th example of a batch.

    Raises:
        ValueError: the training examples fill no batch, or a batch does not divide evenly.
    """

    def __init__(
        self, config: RunConfig, num_train: int, num_test: int, rank: int, world_size: int
    ) -> None:
        self.config, self.rank, self.world_size = config, rank, world_size
        self._num_train, self._num_test = num_train, num_test
        self.steps_per_epoch = num_train // config.batch_size
        if self.steps_per_epoch == 0 or config.batch_size % world_size:
            raise ValueError(
                f"{num_train} training images and {world_size} processes do not go with "
                f"batches of {config.batch_size}."
            )

    @abstractmethod
    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, in an order, and with random changes, of their own."""

    @abstractmethod
    def test(
        self, examples: int = 0, batch_size: int = 250, shared: bool = False
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """The first test examples (0 for all); ``shared``: only this process's part of them."""

    @abstractmethod
    def probe(self, examples: int, batch_size: int = 32) -> list[Inputs]:
        """The first training examples as they are: no policy sees a test example."""

    @abstractmethod
    def example(self) -> Inputs:
        """One example to trace the model with, on the CPU."""

    def _order(
        self, seed: int, epoch: int, random_numbers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each step of an epoch this process's examples, and random numbers for each."""
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(self._num_train, generator=generator)
        size = self.config.batch_size
        mine = slice(self.rank, None, self.world_size)
        for step in range(self.steps_per_epoch):
            chosen = order[step * size : (step + 1) * size]
            uniform = torch.rand(len(chosen), random_numbers, generator=generator)
            yield chosen[mine], uniform[mine]

    def _parts(self, examples: int, batch_size: int, shared: bool) -> Iterator[slice]:
        """The test examples batch by batch."""
        end = min(examples or self._num_test, self._num_test)
        starts = range(0, end, batch_size)
        for start in starts[self.rank :: self.world_size] if shared else starts:
            yield slice(start, min(start + batch_size, end))


class StoredBatches(Batches):
    """Batches of examples that are all in memory, see :class:`Batches`.

    Attributes:
        random_numbers: how many a training example takes.
    """

    random_numbers = 0

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, in an order, and with random changes, of their own."""
        for chosen, uniform in self._order(seed, epoch, self.random_numbers):
            inputs, labels = self._train_batch(chosen, uniform)
            yield Batch(inputs, labels, chosen)

    def test(
        self, examples: int = 0, batch_size: int = 250, shared: bool = False
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """The first test examples (0 for all); ``shared``: only this process's part of them."""
        for chosen in self._parts(examples, batch_size, shared):
            yield self._test_batch(chosen)

    @abstractmethod
    def _train_batch(self, chosen: Tensor, uniform: Tensor) -> tuple[Inputs, Tensor]:
        """Inputs and labels of training examples, changed at random."""

    @abstractmethod
    def _test_batch(self, chosen: slice) -> tuple[Inputs, Tensor]:
        """Inputs and labels of test examples."""


class ImageBatches(StoredBatches):
    """Batches of images, see :class:`Batches`.

    Args:
        config: the run: image size, how many images, augmentation.
        data: the data set.
        device: where the images are kept and the batches come out.
        rank, world_size: as in :class:`Batches`.
    """

    random_numbers = 3

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.device = device
        self._train = data.train_images[: config.train_images or None].to(device)
        self._train_labels = data.train_labels[: config.train_images or None].to(device)
        self._test = data.test_images[: config.test_images or None].to(device)
        self._test_labels = data.test_labels[: config.test_images or None].to(device)
        self._mean, self._std = (each.to(device) for each in data.normalisation())
        super().__init__(config, len(self._train), len(self._test), rank, world_size)

    def probe(self, examples: int, batch_size: int = 32) -> list[Inputs]:
        """The first training images, not augmented."""
        return [self._prepared(part) for part in self._train[:examples].split(batch_size)]

    def example(self) -> Tensor:
        """A black image."""
        return torch.zeros(1, 3, self.config.image_size, self.config.image_size)

    def _train_batch(self, chosen: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        chosen, uniform = chosen.to(self.device), uniform.to(self.device)
        images = self._train[chosen]
        if self.config.augment:
            images = crop_and_flip(images, uniform)
        return self._prepared(images), self._train_labels[chosen]

    def _test_batch(self, chosen: slice) -> tuple[Tensor, Tensor]:
        return self._prepared(self._test[chosen]), self._test_labels[chosen]

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
