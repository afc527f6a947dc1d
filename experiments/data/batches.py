"""Training and test batches, determined by the seed and the epoch to make runs resumable."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.config import RunConfig
from experiments.errors import UserError
from smartfrz.graph import Inputs


class Batch(NamedTuple):
    """A batch of training examples.

    Attributes:
        inputs: arguments of the model.
        labels: classes, (B,) or (B, K), or class probabilities, (B, classes).
        keys: indices of the examples in the training set, (B,).
    """

    inputs: Inputs
    labels: Tensor
    keys: Tensor


class Batches(ABC):
    """The training and test batches of a run, on its device.

    Args:
        config: the run; its batch size is that of all processes together.
        num_train, num_test: number of training and test examples.
        num_classes: number of classes of the data set.
        rank, world_size: this process takes every ``world_size``-th example of a batch.

    Raises:
        UserError: the batch size is larger than the number of training examples, or not divisible
            by the number of processes.
    """

    def __init__(
        self,
        config: RunConfig,
        num_train: int,
        num_test: int,
        num_classes: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.config, self.rank, self.world_size = config, rank, world_size
        self.num_classes = num_classes
        self._num_train, self._num_test = num_train, num_test
        self.steps_per_epoch = num_train // config.batch_size
        if self.steps_per_epoch == 0 or config.batch_size % world_size:
            raise UserError(
                f"{num_train} training images and {world_size} processes do not fit a batch size "
                f"of {config.batch_size}: it must be at most the number of images, and divisible "
                "by the number of processes."
            )

    @abstractmethod
    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; their order and augmentation depend on seed and epoch."""

    @abstractmethod
    def test(
        self, examples: int = 0, batch_size: int = 250, shared: bool = False
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches of test inputs and labels.

        Args:
            examples: number of test examples, counted from the first; 0 for all.
            batch_size: examples per batch.
            shared: whether to return only this process's share of the batches.
        """

    @abstractmethod
    def probe(self, examples: int, batch_size: int = 32) -> list[Inputs]:
        """The first training examples without augmentation; policies use no test examples."""

    @abstractmethod
    def example(self) -> Inputs:
        """One example on the CPU, for tracing the model."""

    def _order(
        self, seed: int, epoch: int, random_numbers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each step of an epoch, this process's share of the examples and random numbers.

        Yields:
            Indices of the examples, (B,), and uniform random numbers, (B, ``random_numbers``).
        """
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(self._num_train, generator=generator)
        size = self.config.batch_size
        mine = slice(self.rank, None, self.world_size)
        for step in range(self.steps_per_epoch):
            chosen = order[step * size : (step + 1) * size]
            uniform = torch.rand(len(chosen), random_numbers, generator=generator)
            yield chosen[mine], uniform[mine]

    def _parts(self, examples: int, batch_size: int, shared: bool) -> Iterator[slice]:
        """The test batches as slices of the test set."""
        end = min(examples or self._num_test, self._num_test)
        starts = range(0, end, batch_size)
        for start in starts[self.rank :: self.world_size] if shared else starts:
            yield slice(start, min(start + batch_size, end))


class StoredBatches(Batches):
    """Batches of examples that are all in the memory of their device, see `Batches`.

    Attributes:
        device: the device.
        random_numbers: number of random numbers for augmenting an example.
    """

    device: torch.device
    random_numbers = 0

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, see `Batches.epoch`."""
        keys, uniform = zip(*self._order(seed, epoch, self.random_numbers), strict=True)
        # One copy for all steps: with a copy in each step, the host would wait for the GPU.
        chosen, numbers = (torch.stack(each).to(self.device) for each in (keys, uniform))
        for step, of_step in enumerate(keys):
            inputs, labels = self._train_batch(chosen[step], numbers[step])
            yield Batch(inputs, labels, of_step)

    def test(
        self, examples: int = 0, batch_size: int = 250, shared: bool = False
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches of test inputs and labels, see `Batches.test`."""
        for chosen in self._parts(examples, batch_size, shared):
            yield self._test_batch(chosen)

    @abstractmethod
    def _train_batch(self, chosen: Tensor, uniform: Tensor) -> tuple[Inputs, Tensor]:
        """Inputs and labels of training examples, augmented with the random numbers.

        Args:
            chosen: indices of the examples, (B,), on the device.
            uniform: random numbers, (B, ``random_numbers``), on the device.
        """

    @abstractmethod
    def _test_batch(self, chosen: slice) -> tuple[Inputs, Tensor]:
        """Inputs and labels of test examples."""
