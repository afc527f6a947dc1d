"""Validation examples, held out from the training set."""

from dataclasses import replace
from typing import TypeVar

from experiments.data.image_folders import FolderData
from experiments.data.images import ImageData
from experiments.data.sentences import TextData
from experiments.errors import UserError

_FRACTION = 0.1

Data = TypeVar("Data", ImageData, TextData, FolderData)


def held_out(data: Data) -> Data:
    """Returns a data set whose test set is the last tenth of the training set, which loses it.

    Raises:
        UserError: the images are read from folders.
    """
    if isinstance(data, FolderData):
        raise UserError("validation = true needs a data set in memory, not one in folders.")
    train = {name: rows for name, rows in vars(data).items() if name.startswith("train_")}
    size = round(_FRACTION * len(next(iter(train.values()))))
    kept = {name: rows[:-size] for name, rows in train.items()}
    tested = {name.replace("train_", "test_"): rows[-size:] for name, rows in train.items()}
    return replace(data, **kept, **tested)
