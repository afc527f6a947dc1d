"""Records trainings and trains the bundled predictors on them: ``python -m scripts.predictor``."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from experiments.card import model_card
from experiments.fitting import Training, fit, labels_of, probability_of, split
from experiments.held_out import metrics
from experiments.histories import is_recorded, load_history
from experiments.machine import provenance
from experiments.plan import SCALES, load_spec, plan, training_at
from experiments.predictors import Recipe, keep, kept
from experiments.results import write_json_atomic, write_text_atomic
from scripts.cli import is_main_process, run_command
from scripts.dry import print_todo
from scripts.histories import record_all, to_record
from smartfrz.distributed import is_distributed
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
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    options = parser.parse_args()

    spec = load_spec("predictor")
    recordings = tuple(plan(spec, options.scale))
    command, runs = f"make predictor SCALE={options.scale}", options.results / "runs"
    for encoding in BUNDLED:
        training = dataclasses.replace(
            training_at(options.scale, spec.predictor), encoding=encoding
        )
        recipe = Recipe(training, recordings)
        folder = options.output / encoding
        facts = options.results / f"predictor-{options.scale}" / f"{encoding}.json"
        if options.dry:
            made = is_made(folder, facts, recipe.id)
            print(f"The predictor {encoding} is {'made already' if made else 'to be made'}.")
            print_todo(recordings, [] if made else to_record(recordings, runs), runs)
            continue
        if not is_made(folder, facts, recipe.id):
            record_all(recordings, runs, command)
            make(recipe, folder, facts, {"id": recipe.id, **provenance(command)})
        print((folder / "README.md").read_text())
        print(f"The predictor is in {folder}.")


def is_made(folder: Path, facts: Path, recipe_id: str) -> bool:
    """Whether a recipe's predictor, card and facts are there."""
    texts = (folder / "README.md", facts)
    has_weights = (folder / "model.safetensors").exists()
    return has_weights and all(file.exists() and recipe_id in file.read_text() for file in texts)


def make(recipe: Recipe, folder: Path, facts: Path, origin: Mapping[str, Any]) -> None:
    """Trains a predictor; writes it, its card, and the facts that the card is made from."""
    training, recordings = recipe.training, recipe.recordings
    predictor, histories = trained(recipe, training.encoding)
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


def make_for_table(recipes: Mapping[str, Recipe], scale: str, results: Path) -> None:
    """Trains those of a table's own predictors that are not kept yet, in the main process.

    Raises:
        ValueError: trainings are to be recorded for them, and there are several processes.
    """
    for name, recipe in recipes.items():
        if recipe.id not in kept():
            if is_distributed() and not all(is_recorded(config) for config in recipe.recordings):
                raise ValueError(
                    f"To make the predictor {name!r}, trainings have to be recorded, which one "
                    f"process does alone: python -m scripts.histories predictor --scale {scale} "
                    f"--results {results}."
                )
            if is_main_process():
                record_all(recipe.recordings, results / "runs", f"make predictor SCALE={scale}")
                keep(recipe, trained(recipe, name)[0])
        if is_distributed():
            dist.barrier()


def trained(recipe: Recipe, name: str) -> tuple[AttentionPredictor, list[History]]:
    """Trains a predictor under a progress bar; gives it, and what it was trained on."""
    training = recipe.training
    histories = [load_history(config, training.size) for config in recipe.recordings]
    with tqdm(total=training.steps, desc=f"train predictor {name}") as bar:
        predictor = fit(histories, training, seed=0, on_step=lambda step, loss: bar.update())
    return predictor, histories


def held_out_metrics(
    predictor: AttentionPredictor, histories: Sequence[History], training: Training
) -> dict[str, float]:
    """How good it is on the trainings held out, on which it was calibrated."""
    _, held_out = split(histories, seed=0)
    labels = [labels_of(each, training) for each in held_out]
    scores = [probability_of(predictor, each, training) for each in held_out]
    return metrics(labels, scores, predictor.threshold, True)


if __name__ == "__main__":
    run_command(main)
