"""What a run trains on, by the name of its data set: images or sentences."""

import torch

from experiments.batches import Batches, ImageBatches
from experiments.config import RunConfig
from experiments.data import CLASSES, ImageData, load_data, parse_name
from experiments.folder_batches import FolderBatches
from experiments.folders import FOLDERS, FolderData, load_folders
from experiments.text import MADE, SENTENCES, TASKS, TextData, load_text
from experiments.text_batches import MaskedTextBatches, TextBatches

_TEXTS = (*TASKS, SENTENCES, MADE)


def load(config: RunConfig) -> ImageData | TextData | FolderData:
    """Loads the data set of a run.

    Raises:
        ValueError: it is unknown or missing.
    """
    if config.dataset in _TEXTS:
        return load_text(config.dataset, config.max_length)
    if config.dataset in FOLDERS:
        return load_folders(config.dataset)
    check_dataset(config.dataset)
    return load_data(config.dataset)


def check_dataset(name: str) -> None:
    """Makes sure that there is such a data set, without loading it.

    Raises:
        ValueError: there is not.
    """
    if name in _TEXTS or name in FOLDERS:
        return
    if name.partition("[")[0] not in CLASSES:
        known = ", ".join((*CLASSES, *FOLDERS, *_TEXTS))
        raise ValueError(f"There is no data set {name!r}: choose from {known}.")
    parse_name(name)


def make_batches(
    config: RunConfig, device: torch.device, rank: int = 0, world_size: int = 1
) -> Batches:
    """The batches of a run, see :class:`experiments.batches.Batches`."""
    data = load(config)
    if isinstance(data, ImageData):
        return ImageBatches(config, data, device, rank, world_size)
    if isinstance(data, FolderData):
        return FolderBatches(config, data, device, rank, world_size)
    kind = MaskedTextBatches if config.dataset == SENTENCES else TextBatches
    return kind(config, data, device, rank, world_size)
