"""Checkpoints that survive a kill at any moment, and files that are set aside when corrupt."""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from experiments.files import replacing, set_aside


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Saves the state for `load_checkpoint`, as safely as `replacing`."""
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state; ``None`` where there is none, or it can't be read and was set aside."""
    if not path.exists():
        return None
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load checks no checksums
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zip, pickle and key errors, whatever a damaged file leads to
        set_aside(path, error)
        return None
