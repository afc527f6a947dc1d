"""Records trainings and trains the bundled predictors on them: ``python -m scripts.predictor``."""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.card import model_card
from experiments.config import RunConfig, checked
from experiments.fitting import Training, fit, labels_of, logits_of, split
from experiments.held_out import metrics
from experiments.histories import load_history
from experiments.machine import provenance
from experiments.plan import SCALES, load_spec, plan
from experiments.results import write_json_atomic, write_text_atomic
from scripts.cli import run_command
from scripts.histories import record_all
from smartfrz.labeller import History
from smartfrz.predictor import AttentionPredictor

BUNDLED = ("drift", "raw")
"""The encodings of the bundled predictors: ours, and the paper's."""


def main() -> None:
    """Reads the command line, records what is missing, trains, and writes the model cards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--output", type=Path, required=True, help="folder of the predictors")
    options = parser.parse_args()

    spec = load_spec("predictor")
    recordings = plan(spec, options.scale)
    command = f"make predictor SCALE={options.scale}"
    for encoding in BUNDLED:
        training = dataclasses.replace(
            training_at(options.scale, spec.predictor), encoding=encoding
        )
        folder = options.output / encoding
        facts = options.results / f"predictor-{options.scale}" / f"{encoding}.json"
        job = job_id(recordings, training)
        if not is_made(folder, facts, job):
            record_all(recordings, options.results / "runs", command)
            make(recordings, training, folder, facts, {"id": job, **provenance(command)})
        print((folder / "README.md").read_text())
        print(f"The predictor is in {folder}.")


def is_made(folder: Path, facts: Path, job: str) -> bool:
    """Whether a job's predictor, card and facts are there."""
    texts = (folder / "README.md", facts)
    has_weights = (folder / "model.safetensors").exists()
    return has_weights and all(file.exists() and job in file.read_text() for file in texts)


def training_at(scale: str, values: Mapping[str, Any]) -> Training:
    """How predictors are trained at a scale: as at all scales, but for what is set for it."""
    common = {key: value for key, value in values.items() if key not in SCALES}
    return checked(Training, common | values.get(scale, {}), "predictor")


def make(
    recordings: Sequence[RunConfig],
    training: Training,
    folder: Path,
    facts: Path,
    origin: Mapping[str, Any],
) -> None:
    """Trains a predictor; writes it, its card, and the facts that the card is made from."""
    histories = [load_history(config, training.size) for config in recordings]
    with tqdm(total=training.steps, desc=f"train predictor {training.encoding}") as bar:
        predictor = fit(histories, training, seed=0, on_step=lambda step, loss: bar.update())
    measured = {
        **origin,
        "held_out": held_out_metrics(predictor, histories, training),
        "threshold": predictor.threshold,
        "training": dataclasses.asdict(training),
        "recordings": [{"id": each.id, **dataclasses.asdict(each)} for each in recordings],
    }
    predictor.save_pretrained(folder)
    write_text_atomic(folder / "README.md", model_card(measured))
    write_json_atomic(facts, measured)


def held_out_metrics(
    predictor: AttentionPredictor, histories: Sequence[History], training: Training
) -> dict[str, float]:
    """How good it is on the trainings held out, on which it was calibrated."""
    _, held_out = split(histories, seed=0)
    labels = torch.cat([labels_of(each, training) for each in held_out])
    logits = torch.cat([logits_of(predictor, each, training) for each in held_out])
    return metrics(labels, logits.softmax(dim=1)[:, 1], predictor.threshold, True)


def job_id(recordings: Sequence[RunConfig], training: Training) -> str:
    """A hash of all that a trained predictor depends on: 12 hexadecimal digits."""
    text = json.dumps([dataclasses.asdict(training), [config.id for config in recordings]])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    run_command(main)
