"""Where the harness keeps what can be made again."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder under ``$SMARTFRZ_CACHE`` (by default ``.cache``) for weights, data, checkpoints."""
    folder = Path(os.environ.get("SMARTFRZ_CACHE", ".cache")) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
