"""Predictors that were trained for a table, kept in the cache by the id of their recipe."""

from pathlib import Path

from experiments.files import cache_folder
from smartfrz.predictor import AttentionPredictor


def kept() -> dict[str, Path]:
    """The folders of the predictors in the cache, by the ids of their recipes."""
    return {folder.name: folder for folder in cache_folder("predictors").iterdir()}


def keep(recipe_id: str, predictor: AttentionPredictor) -> None:
    """Puts a predictor into the cache."""
    folder = cache_folder("predictors") / recipe_id
    partial = folder.with_suffix(".partial")
    predictor.save_pretrained(partial)
    # A process that is killed before this line leaves nothing under the final name.
    partial.replace(folder)


def load_predictor(name: str, fingerprint: str) -> AttentionPredictor:
    """The predictor of a run: the one in the cache with its fingerprint, or else by its name.

    Raises:
        ValueError: there is neither, or its files are bad.
    """
    return AttentionPredictor.from_pretrained(kept().get(fingerprint, name))
