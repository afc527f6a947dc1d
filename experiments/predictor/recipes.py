"""Recipes: all that a predictor is trained from, and a hash of it."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from experiments.config import RunConfig
from experiments.predictor.fitting import Training


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
