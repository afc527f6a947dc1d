"""Runs of about one second: a small network on five classes of digits."""

from pathlib import Path
from typing import Any

import torch

from experiments.config import RunConfig
from experiments.methods import make_config
from smartfrz.predictor.attention import AttentionPredictor


def tiny_run(method: str = "full", **changes: Any) -> RunConfig:
    """A run of three epochs of ten steps; ``changes`` are fields of the config."""
    values = {
        "model": "residual",
        "dataset": "digits[5:10]",
        "method": method,
        "epochs": 3,
        "lr": 0.05,
        "image_size": 16,
        "train_images": 320,
        "test_images": 128,
        "augment": False,
    }
    return make_config(values | changes)


def save_random_predictor(folder: Path) -> dict[str, Any]:
    """Saves a predictor with random weights, which are large to make its outputs vary.

    Returns:
        Options of SmartFRZ with which it freezes some layers of a `tiny_run`.
    """
    torch.manual_seed(0)
    predictor = AttentionPredictor(window=5, encoding="log_displacement")
    with torch.no_grad():
        for weight in predictor.parameters():
            weight *= 2
    predictor.save_pretrained(folder)
    return {
        "predictor": str(folder),
        "records_per_epoch": 2,
        "records_per_decision": 1,
        "threshold": 0.87,
    }


def ignore(*_: object) -> None:
    """A callback that does nothing."""
