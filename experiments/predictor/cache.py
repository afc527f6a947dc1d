"""Cache of the predictors trained for tables, by recipe id."""

from pathlib import Path

from experiments.errors import UserError
from experiments.files import cache_folder, replacing
from smartfrz.predictor import AttentionPredictor


def kept() -> dict[str, Path]:
    """Returns the folders of the cached predictors, by recipe id."""
    return {folder.name: folder for folder in cache_folder("predictors").iterdir()}


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


def pretrained(source: str | Path | None) -> AttentionPredictor:
    """Loads a predictor that the user has named, see `AttentionPredictor.from_pretrained`.

    Raises:
        UserError: there is no such predictor, or its files are invalid.
    """
    try:
        return AttentionPredictor.from_pretrained(source)
    except ValueError as error:
        raise UserError(str(error)) from error
