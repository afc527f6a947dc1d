"""Location of a predictor's files: bundled, in a folder, or on the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

_BUNDLED = Path(__file__).parent / "pretrained"


CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def locate(source: str | Path | None, filename: str, download: dict[str, Any]) -> Path:
    """Returns the path of a predictor's file: bundled, in a folder, or downloaded from the Hub."""
    bundled = sorted(config.parent.name for config in _BUNDLED.glob(f"*/{CONFIG_FILE}"))
    if source is None:
        folder = _BUNDLED / "drift"
    elif source in bundled:
        folder = _BUNDLED / source
    elif Path(source).is_dir() or isinstance(source, Path) or "/" not in source:
        folder = Path(source)
    else:
        return _fetch(source, filename, download)
    if not (folder / filename).is_file():
        raise ValueError(
            f"There is no {folder / filename}. Pass a folder with {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}, a Hub id user/name, or the name of a bundled predictor: {bundled}."
        )
    return folder / filename


def _fetch(repo_id: str, filename: str, download: dict[str, Any]) -> Path:
    try:
        return Path(hf_hub_download(repo_id, filename, **download))
    except (OSError, EntryNotFoundError) as error:
        raise ValueError(
            f"{repo_id!r} is not a folder, and {filename} cannot be downloaded from the Hugging "
            f"Face Hub repository of that name: {error}"
        ) from error
