"""Checkpoints: saving them atomically, and loading them with a check for damage."""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from experiments.files import replacing, set_aside


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Saves a state for `load_checkpoint`, atomically, see `replacing`.

    Only one process may save a run's checkpoint at a time.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(state, file)
    # Processes that were killed while saving leave their temporary files behind.
    for leftover in path.parent.glob(f"{path.name}.*.partial"):
        leftover.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Loads a saved state.

    Returns:
        The state; ``None`` if there is no file, or if it is damaged and was set aside.
    """
    if not path.exists():
        return None
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load checks no checksums
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file leads to zip, pickle, key and other errors
        set_aside(path, error)
        return None
