"""Checkpoints that survive a kill at any moment, and files that are set aside when corrupt."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes the state beside ``path`` and renames it: the old one or the new one, never half."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state; ``None`` where there is none, or it can't be read and was set aside."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zip, pickle and key errors, whatever a damaged file leads to
        set_aside(path, error)
        return None


def set_aside(path: Path, error: Exception) -> None:
    """Renames a damaged file, says so, and lets the work be done again."""
    aside = path.with_name(path.name + ".corrupt")
    os.replace(path, aside)
    warnings.warn(f"{path} can't be read ({error}): set aside as {aside.name}.", stacklevel=3)
