"""Recipes of predictors: training settings and recorded runs, identified by a hash."""

import hashlib
import json
from dataclasses import dataclass

from experiments.config import RunConfig
from experiments.predictor.fitting import Training


@dataclass(frozen=True)
class Recipe:
    """Training settings and training data of a predictor.

    Attributes:
        training: training settings.
        recordings: the recorded runs on which the predictor is trained.
    """

    training: Training
    recordings: tuple[RunConfig, ...]

    @property
    def id(self) -> str:
        """Hash of the settings and the recorded runs: 12 hexadecimal digits."""
        text = json.dumps([self.training.identity, [run.id for run in self.recordings]])
        return hashlib.sha256(text.encode()).hexdigest()[:12]
