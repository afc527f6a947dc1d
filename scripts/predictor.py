"""Records trainings and trains a predictor on them: ``python -m scripts.predictor``."""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.card import model_card
from experiments.config import Recording, RunConfig, checked
from experiments.execute import execute
from experiments.held_out import score
from experiments.histories import is_recorded, load_history, record_history
from experiments.machine import provenance
from experiments.paths import cache_folder
from experiments.plan import SCALES, check_data, load_spec, plan
from experiments.results import write_json_atomic, write_text_atomic
from experiments.series import missing_prerequisites, run_series
from experiments.train import OnStep
from scripts.cli import check_asked, run_command
from smartfrz.labeller import train_predictor
from smartfrz.predictor import AttentionPredictor


@dataclass(frozen=True)
class Training:
    """How the predictor is trained; ``tolerance`` is that of the label."""

    encoding: str
    tolerance: float
    steps: int
    batch_size: int
    lr: float
    momentum: float


def main() -> None:
    """Reads the command line, records what is missing, trains, and tells how good it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results go")
    parser.add_argument("--output", type=Path, required=True, help="folder of the predictor")
    parser.add_argument("--models", nargs="+", help="only record these models, train nothing")
    options = parser.parse_args()

    spec = load_spec("predictor")
    training = training_at(options.scale, spec.predictor)
    recordings = plan(spec, options.scale)
    check_asked(options.models, {config.model for config in recordings}, "model")
    command = f"make predictor SCALE={options.scale}"
    runs = options.results / "runs"
    if options.models:
        record_all([c for c in recordings if c.model in options.models], runs, command)
        return
    card, facts = options.output / "README.md", options.results / f"predictor-{options.scale}.json"
    job = job_id(recordings, training)
    if not all(file.exists() and job in file.read_text() for file in (card, facts)):
        record_all(recordings, runs, command)
        measured = {"id": job, **measure(recordings, training), **provenance(command)}
        trained(recordings, training, "all").save_pretrained(options.output)
        write_text_atomic(card, model_card(measured))
        write_json_atomic(facts, measured)
    print(card.read_text())
    print(f"The predictor is in {options.output}.")


def training_at(scale: str, values: Mapping[str, Any]) -> Training:
    """How the predictor is trained at a scale: as at all scales, but for what is set for it."""
    common = {key: value for key, value in values.items() if key not in SCALES}
    return checked(Training, common | values.get(scale, {}), "predictor")


def record_all(recordings: Sequence[RunConfig], runs: Path, command: str) -> None:
    """Does the missing runs: pretraining, reference, recording; each goes on where it stopped."""
    check_data(list(recordings))
    missing = [config for config in recordings if not is_recorded(config)]
    todo = missing_prerequisites(missing, runs) + missing
    print(f"{len(recordings)} trainings to learn from, {len(todo)} runs to do.")

    def run_one(config: RunConfig, on_step: OnStep) -> None:
        if isinstance(config.options, Recording):
            record_history(config, on_step)
        else:
            execute(config, runs, command, on_step, lambda run, curves: None, keep_weights=True)

    run_series(todo, run_one)


def measure(recordings: Sequence[RunConfig], training: Training) -> dict[str, Any]:
    """What the predictor learns from, how, and how good one that leaves a model out is there."""
    held_out = {}
    for model in dict.fromkeys(config.model for config in recordings):
        mine = [load_history(config) for config in recordings if config.model == model]
        others = [config for config in recordings if config.model != model]
        if others:
            predictor = trained(others, training, f"all but {model}")
            held_out[model] = score(predictor, mine, training.tolerance)
    return {
        "held_out": held_out,
        "training": dataclasses.asdict(training),
        "recordings": [{"id": each.id, **dataclasses.asdict(each)} for each in recordings],
    }


def trained(recordings: Sequence[RunConfig], training: Training, what: str) -> AttentionPredictor:
    """A predictor trained on these recordings, or the cached one that was."""
    folder = cache_folder("predictors") / job_id(recordings, training)
    if folder.exists():
        return AttentionPredictor.from_pretrained(folder)
    torch.manual_seed(0)
    predictor = AttentionPredictor(encoding=training.encoding)
    with tqdm(total=training.steps, desc=f"train predictor on {what}") as bar:
        train_predictor(
            predictor,
            [load_history(config) for config in recordings],
            training.tolerance,
            training.steps,
            training.batch_size,
            training.lr,
            training.momentum,
            on_step=lambda step, loss: bar.update(),
        )
    partial = folder.with_suffix(".partial")
    predictor.save_pretrained(partial)
    partial.replace(folder)
    return predictor


def job_id(recordings: Sequence[RunConfig], training: Training) -> str:
    """A hash of all that a trained predictor depends on: 12 hexadecimal digits."""
    text = json.dumps([dataclasses.asdict(training), [config.id for config in recordings]])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    run_command(main)
