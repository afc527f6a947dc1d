"""File helpers of the harness: the cache folder, atomic writes, damaged files, dry runs."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from safetensors import SafetensorError, safe_open

from experiments.errors import UserError

ROOT = Path(__file__).parents[1]
"""The root of the checkout."""

T = TypeVar("T")
_dry = ContextVar("_dry", default=False)


class DamagedFileError(Exception):
    """The content of a file is not what was written to it.

    Other errors of reading, such as a lack of memory or of permission, say nothing about the file.
    """


class NeedsDownloadError(UserError):
    """Something has to be downloaded first, which a dry run does not do."""


@contextmanager
def dry_run() -> Iterator[None]:
    """Within this block, nothing is written or downloaded: data and weights are only looked up."""
    token = _dry.set(True)
    try:
        yield
    finally:
        _dry.reset(token)


def is_dry_run() -> bool:
    """Whether this is within a `dry_run`."""
    return _dry.get()


def check_may_download(what: str) -> None:
    """Checks that this is no dry run.

    Args:
        what: what is to be downloaded, for the error message.

    Raises:
        NeedsDownloadError: it is one.
    """
    if is_dry_run():
        raise NeedsDownloadError(
            f"{what} is neither in $SMARTFRZ_DATA nor in the cache, and has to be fetched first."
        )


def cache_folder(name: str) -> Path:
    """A folder under ``$SMARTFRZ_CACHE`` (default: ``.cache``) for weights, data, checkpoints.

    It does not exist before something is written to it.
    """
    return Path(os.environ.get("SMARTFRZ_CACHE", ".cache")) / name


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
    assert not is_dry_run(), f"a dry run writes {path}"
    make_folder(path.parent)
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


def make_folder(folder: Path) -> None:
    """Creates a folder, and those above it, if it does not exist.

    Raises:
        UserError: it cannot be created.
    """
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


def unless_damaged(path: Path, read: Callable[[Path], T]) -> T | None:
    """Reads a file without changing anything on disk.

    Args:
        path: the file.
        read: reads it, and raises `DamagedFileError` if its content is damaged.

    Returns:
        What ``read`` returns; None if there is no file, or, with a warning, if it is damaged.
    """
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedFileError as error:
        warnings.warn(
            f"{path} cannot be read ({error}): it counts as missing, and is set aside before it is "
            "made again.",
            stacklevel=3,
        )
        return None


def names_in(path: Path) -> set[str]:
    """Reads the names of the tensors in a safetensors file.

    Raises:
        FileNotFoundError: there is no file.
        DamagedFileError: its header is damaged, or it is not as long as its header says.
    """
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise DamagedFileError(str(error)) from error


def set_damaged_aside(path: Path, read: Callable[[Path], object]) -> None:
    """Sets a file aside if it is damaged, before it is made again.

    Args:
        path: the file, which may be missing.
        read: as for `unless_damaged`.
    """
    try:
        read(path)
    except FileNotFoundError:
        pass
    except DamagedFileError as error:
        set_aside(path, f"it cannot be read: {error}")


def set_aside(path: Path, reason: str, kind: str = "corrupt") -> None:
    """Renames a file to ``<name>.<kind>``, and warns; ``<name>.<kind>.txt`` contains the reason.

    Files that were set aside earlier are kept: the next is ``<name>.<kind>.2``. Only the process
    that makes the file again may call this.

    Args:
        path: the file.
        reason: why it is not used.
        kind: ``corrupt`` for damaged files, ``stale`` for those of other code.
    """
    assert not is_dry_run(), f"a dry run renames {path}"
    names = (f"{path.name}.{kind}{'' if n == 1 else f'.{n}'}" for n in count(1))
    aside = next(each for name in names if not (each := path.with_name(name)).exists())
    os.replace(path, aside)
    write_text_atomic(aside.with_name(aside.name + ".txt"), f"{reason}\n")
    warnings.warn(f"{path} is not used, because {reason}: renamed to {aside.name}.", stacklevel=3)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is a lack of memory, of the machine or of a GPU."""
    # torch raises RuntimeErrors, and its OutOfMemoryError is one.
    texts = ("out of memory", "allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


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
