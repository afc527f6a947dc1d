"""Batches that depend on the seed and the epoch alone, so that a resumed run sees the same ones."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.config import RunConfig
from smartfrz.graph import Inputs


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
    """Batches of examples that are all in memory, see `Batches`.

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
