"""Files of the harness: where they are, writing them atomically, setting damaged ones aside."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError

ROOT = Path(__file__).parents[1]
"""The root of the checkout."""


def cache_folder(name: str) -> Path:
    """A folder under ``$SMARTFRZ_CACHE`` (by default ``.cache``) for weights, data, checkpoints."""
    folder = Path(os.environ.get("SMARTFRZ_CACHE", ".cache")) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def set_aside(path: Path, error: Exception) -> None:
    """Renames a damaged file, says so, and lets the work be done again."""
    aside = path.with_name(path.name + ".corrupt")
    with suppress(FileNotFoundError):  # another process of this run was faster
        os.replace(path, aside)
    warnings.warn(f"{path} can't be read ({error}): set aside as {aside.name}.", stacklevel=3)


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write an object as JSON so that `path` holds the old content or the whole new one.

    Args:
        path: The file to write; missing folders above it are made.
        obj: What `json.dumps` takes. A NaN is written as ``NaN``.

    Raises:
        OSError: The file cannot be written, as on a full disk. Nothing is left behind.
    """
    write_text_atomic(path, json.dumps(obj, indent=1) + "\n")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV, as atomically as `write_json_atomic`."""
    write_text_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text so that `path` holds the old content or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
