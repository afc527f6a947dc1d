"""Cache of the predictors trained for tables, by recipe id."""

from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import cache_folder, replacing
from smartfrz.predictor import AttentionPredictor

_WEIGHTS = "model.safetensors"


def kept() -> dict[str, Path]:
    """Returns the folders of the cached predictors, by recipe id."""
    folder = cache_folder("predictors")
    return {each.parent.name: each.parent for each in folder.glob(f"*/{_WEIGHTS}")}


def keep(recipe_id: str, predictor: AttentionPredictor) -> None:
    """Saves a predictor in the cache."""
    with replacing(cache_folder("predictors") / recipe_id) as partial:
        predictor.save_pretrained(partial)


def load_predictor(name: str, fingerprint: str) -> AttentionPredictor:
    """Loads the predictor of a run: by fingerprint from the cache, otherwise by name.

    Raises:
        UserError: there is no such predictor, or its files are invalid.
    """
    return pretrained(kept().get(fingerprint, name))


def pretrained(source: str | Path | None, **download: Any) -> AttentionPredictor:
    """Loads a predictor that the user has named, see `AttentionPredictor.from_pretrained`.

    Raises:
        UserError: there is no such predictor, or its files are invalid.
    """
    try:
        return AttentionPredictor.from_pretrained(source, **download)
    except ValueError as error:
        raise UserError(str(error)) from error
