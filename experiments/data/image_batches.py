"""Batches of images that are in memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.config import RunConfig
from experiments.data.batches import StoredBatches
from experiments.data.images import ImageData
from smartfrz.graph import Inputs


class ImageBatches(StoredBatches):
    """Batches of images, see `Batches`.

    Args:
        config: the run: image size, number of images, augmentation.
        data: the data set.
        device: device of the images and the batches.
        rank, world_size: as in `Batches`.
        normalisation: mean and standard deviation of pixels in [0, 1] to normalise with; None for
            those of the data set's channels.
    """

    random_numbers = 3

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        normalisation: tuple[float, float] | None = None,
    ) -> None:
        self.device = device
        self._train = data.train_images[: config.train_images or None].to(device)
        self._train_labels = data.train_labels[: config.train_images or None].to(device)
        self._test = data.test_images[: config.test_images or None].to(device)
        self._test_labels = data.test_labels[: config.test_images or None].to(device)
        mean_and_std = map(torch.tensor, normalisation) if normalisation else data.normalisation()
        self._mean, self._std = (each.to(device) for each in mean_and_std)
        num_train, num_test = len(self._train), len(self._test)
        super().__init__(config, num_train, num_test, data.num_classes, rank, world_size)

    def probe(self, examples: int, batch_size: int = 32) -> list[Inputs]:
        """The first training images, not augmented."""
        return [self._prepared(part) for part in self._train[:examples].split(batch_size)]

    def example(self) -> Tensor:
        """A black image."""
        return torch.zeros(1, 3, self.config.image_size, self.config.image_size)

    def _train_batch(self, chosen: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
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
    """Pads by an eighth of the height, crops at a random position, and flips half of the images.

    Args:
        images: (N, C, H, W).
        uniform: (N, 3) random numbers in [0, 1): row, column, flip.

    Returns:
        The augmented images, (N, C, H, W).
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
