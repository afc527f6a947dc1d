"""Checkpoints: saving them atomically, and loading them with a check for damage."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from experiments.files import DamagedFileError, is_out_of_memory, replacing, set_aside
from experiments.runs.processes import by_main_process, in_all_processes
from experiments.runs.provenance import code_hash


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Saves a state for `load_checkpoint`, with the hash of the code, atomically, see `replacing`.

    Only one process may save a run's checkpoint at a time.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save({"code": code_hash(), "state": state}, file)
    # Processes that were killed while saving leave their temporary files behind.
    for leftover in path.parent.glob(f"{path.name}.*.partial"):
        leftover.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, check: Callable[[dict[str, Any]], None] = lambda state: None
) -> dict[str, Any] | None:
    """Loads a saved state. It must be called by all processes, and the main process decides.

    A file that is damaged, or that was saved by other code, is set aside.

    Args:
        path: the file.
        check: raises `DamagedFileError` if the state is not one of the run.

    Returns:
        The state, on the CPU; ``None`` in all processes if there is no file or it was set aside.

    Raises:
        MemoryError, OSError, RuntimeError: it cannot be read now, by this or another process, for
            example for lack of memory or of permission. The file remains.
    """
    examined: list[dict[str, Any]] = []

    def is_usable() -> bool:
        try:
            code, state = _read(path)
            check(state)
        except FileNotFoundError:
            return False
        except DamagedFileError as error:
            set_aside(path, f"it cannot be read: {error}")
            return False
        if code != code_hash():
            set_aside(path, f"the code {code} saved it, and this is {code_hash()}", "stale")
            return False
        examined.append(state)
        return True

    if not by_main_process(is_usable):
        return None
    return in_all_processes(lambda: examined.pop() if examined else _read(path)[1])


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """The hash of the code that saved a state, and the state."""
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load checks no checksums
                raise DamagedFileError(f"{damaged} is damaged")
        # AdamW's step counts must stay on the CPU: on a GPU every step would synchronise.
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return saved["code"], saved["state"]
    except Exception as error:  # a damaged file leads to zip, pickle, key and other errors
        if isinstance(error, DamagedFileError) or not _is_of_content(error):
            raise
        raise DamagedFileError(str(error)) from error


def _is_of_content(error: Exception) -> bool:
    """Whether an error comes from what a file contains, not from the machine that reads it."""
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL  # a seek to an offset that a damaged file names
    return not is_out_of_memory(error)
