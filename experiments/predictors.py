"""Predictors that are made for a table: how, and where they are kept."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from experiments.config import RunConfig, SmartFreezing
from experiments.fitting import Training
from experiments.paths import cache_folder
from smartfrz.predictor import AttentionPredictor


@dataclass(frozen=True)
class Recipe:
    """All that a predictor is made from.

    Attributes:
        training: how it is trained.
        recordings: the trainings that it learns from.
    """

    training: Training
    recordings: tuple[RunConfig, ...]

    @property
    def id(self) -> str:
        """A hash of all that the predictor depends on: 12 hexadecimal digits."""
        text = json.dumps([dataclasses.asdict(self.training), [run.id for run in self.recordings]])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def kept() -> dict[str, Path]:
    """The folders of the predictors in the cache, by the ids of their recipes."""
    return {folder.name: folder for folder in cache_folder("predictors").iterdir()}


def keep(recipe: Recipe, predictor: AttentionPredictor) -> None:
    """Puts a predictor into the cache."""
    folder = cache_folder("predictors") / recipe.id
    partial = folder.with_suffix(".partial")
    predictor.save_pretrained(partial)
    # Whoever is killed before leaves nothing under the name that is looked for.
    partial.replace(folder)


def load_predictor(options: SmartFreezing) -> AttentionPredictor:
    """The predictor of a run: the one that is kept under its fingerprint, or else by its name.

    Raises:
        ValueError: there is neither, or its files are bad.
    """
    return AttentionPredictor.from_pretrained(kept().get(options.fingerprint, options.predictor))
