"""File helpers of the harness: the cache folder, atomic writes, setting damaged files aside."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError

from experiments.errors import UserError

ROOT = Path(__file__).parents[1]
"""The root of the checkout."""


def cache_folder(name: str) -> Path:
    """A folder under ``$SMARTFRZ_CACHE`` (default: ``.cache``) for weights, data, checkpoints.

    It is created if it does not exist.

    Raises:
        UserError: it cannot be created.
    """
    folder = Path(os.environ.get("SMARTFRZ_CACHE", ".cache")) / name
    _make_folder(folder)
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Writes a file or a folder atomically: ``path`` is the old one or the complete new one.

    The block writes to the path that it is given, ``<name>.<process id>.partial`` beside ``path``;
    it replaces ``path`` once the block has ended without an error and its data is on disk.

    Args:
        path: the file or folder to write; missing folders above it are created. An existing folder
            is only replaced if it is empty.

    Raises:
        UserError: it cannot be written, for example because the disk is full. The message contains
            the path and the reason, and nothing is left behind.
    """
    _make_folder(path.parent)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise UserError(f"{path} cannot be written: {reason}") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _refusal(error: Exception) -> BaseException | None:
    """Returns the reason why the disk refused a file; None if an error is of another kind."""
    if isinstance(error, SafetensorError):
        return error if "I/O error" in str(error) else None
    # torch raises a RuntimeError while it handles the OSError.
    reason = error if isinstance(error, OSError) else error.__context__
    return reason if isinstance(reason, OSError) else None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be created: {error}") from error


def _sync(path: Path) -> None:
    """Flushes a file, or all files of a folder, to disk."""
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    for each in files:
        with each.open("r+b") as file:
            os.fsync(file.fileno())


def set_aside(path: Path, error: Exception) -> None:
    """Renames a damaged file to ``<name>.corrupt`` and warns; its content is computed again.

    Args:
        path: the file.
        error: the reason why it cannot be read.
    """
    aside = path.with_name(path.name + ".corrupt")
    with suppress(FileNotFoundError):  # another process of this run may have renamed it already
        os.replace(path, aside)
    warnings.warn(f"{path} cannot be read ({error}): renamed to {aside.name}.", stacklevel=3)


def write_json_atomic(path: Path, obj: Any) -> None:
    """Writes an object as JSON, atomically, see `replacing`.

    Args:
        path: the file to write; missing folders above it are created.
        obj: an object that `json.dumps` accepts. NaN is written as ``NaN``.

    Raises:
        UserError: the file cannot be written, for example because the disk is full.
    """
    write_text_atomic(path, json.dumps(obj, indent=1) + "\n")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes a data frame as CSV without its index, atomically, see `replacing`."""
    write_text_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def write_text_atomic(path: Path, text: str) -> None:
    """Writes a text in UTF-8, atomically, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
