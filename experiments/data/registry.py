"""Registry of data sets: the loader, batches, label and metrics of each.

To add a data set, write a function that loads it, and an entry in `DATASETS`. Specs, runs, tables
and figures read the registry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from experiments.config import RunConfig
from experiments.data.batches import Batches
from experiments.data.held_out import held_out
from experiments.data.image_batches import ImageBatches
from experiments.data.image_folder_batches import FolderBatches
from experiments.data.image_folders import load_folders
from experiments.data.images import load_data, parse_name
from experiments.data.sentence_batches import MaskedTextBatches, TextBatches
from experiments.data.sentences import load_text
from experiments.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        load: loads the data of a run; the result has the attribute ``num_classes``.
        batches: builds the batches of a run, see `Batches`.
        label: its name in tables and figures; by default the name in specs.
        metrics: its metrics, beginning with the one shown in tables.
        majority_rate: accuracy of the most frequent class on the test set that tables report on,
            if it is known and the first metric is accuracy.
    """

    load: Callable[[RunConfig], Any]
    batches: Callable[..., Batches]
    label: str = ""
    metrics: tuple[str, ...] = ("accuracy",)
    majority_rate: float = 0.0


def _load_images(config: RunConfig) -> Any:
    return load_data(config.dataset)


def _load_folders(config: RunConfig) -> Any:
    return load_folders(config.dataset)


def _load_sentences(config: RunConfig) -> Any:
    return load_text(config.dataset, config.max_length)


DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(_load_images, ImageBatches, "CIFAR-10"),
    "cifar100": Dataset(_load_images, ImageBatches, "CIFAR-100"),
    "imagenet": Dataset(_load_folders, FolderBatches, "ImageNet"),
    "mrpc": Dataset(_load_sentences, TextBatches, "MRPC", ("accuracy", "f1"), 279 / 408),
    # Constant predictions have a Matthews correlation of 0.
    "cola": Dataset(_load_sentences, TextBatches, "CoLA", ("matthews", "accuracy")),
    "sst2": Dataset(_load_sentences, TextBatches, "SST-2", majority_rate=444 / 872),
    "digits": Dataset(_load_images, ImageBatches),
    "imagefolder": Dataset(_load_folders, FolderBatches),
    "sentences": Dataset(_load_sentences, MaskedTextBatches),
    "made": Dataset(_load_sentences, TextBatches),
}
"""All data sets by their names in specs, in the order of tables and figures.

For the data sets in `experiments.data.images.CLASSES`, a spec may select classes:
``cifar100[0:50]``.
"""


def dataset(name: str) -> Dataset:
    """Returns the data set with a name in a spec.

    Raises:
        UserError: there is no such data set, or it does not have these classes.
    """
    base, bracket, _ = name.partition("[")
    if base not in DATASETS:
        raise UserError(f"There is no data set {name!r}: choose from {', '.join(DATASETS)}.")
    if bracket:
        parse_name(name)
    return DATASETS[base]


def load(config: RunConfig) -> Any:
    """Loads the data set of a run, with held-out training examples as its test set if it asks so.

    Raises:
        UserError: the data set is unknown or missing, or its examples cannot be held out.
    """
    data = dataset(config.dataset).load(config)
    return held_out(data) if config.validation else data


def make_batches(
    config: RunConfig,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    normalisation: tuple[float, float] | None = None,
) -> Batches:
    """Builds the batches of a run, see `Batches`.

    Args:
        config: the run.
        device: device of the batches.
        rank: this process, see `Batches`.
        world_size: number of processes.
        normalisation: of images, see `ImageBatches`.
    """
    build = dataset(config.dataset).batches
    if normalisation:
        build = partial(build, normalisation=normalisation)
    return build(config, load(config), device, rank, world_size)
