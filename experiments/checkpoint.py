"""Checkpoints that survive a kill at any moment, and files that are set aside when corrupt."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors import SafetensorError


@contextmanager
def replacing(path: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Gives a file beside ``path`` to write to, and renames it: the old or the new, never half.

    Raises:
        OSError: it can't be written, as on a full disk. Nothing is left behind.
    """
    partial = path.with_name(path.name + suffix)
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch hides the reason behind an error of its own.
        reason = error if isinstance(error, OSError) else error.__context__ or error
        raise OSError(f"{path} can't be written: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Saves the state for :func:`load_checkpoint`, as safely as :func:`replacing`."""
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


def set_aside(path: Path, error: Exception) -> None:
    """Renames a damaged file, says so, and lets the work be done again."""
    aside = path.with_name(path.name + ".corrupt")
    with suppress(FileNotFoundError):  # another process of this run was faster
        os.replace(path, aside)
    warnings.warn(f"{path} can't be read ({error}): set aside as {aside.name}.", stacklevel=3)
