"""Training of the bundled predictors, with their model cards, and of tables' own predictors."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from experiments.errors import UserError
from experiments.files import dry_run, write_json_atomic, write_text_atomic
from experiments.locks import locked
from experiments.plan import plan, training_at
from experiments.predictor.cache import keep, kept
from experiments.predictor.fitting import Training, fit, labels_of, probability_of, split
from experiments.predictor.metrics import metrics
from experiments.predictor.model_card import model_card
from experiments.predictor.recipes import Recipe
from experiments.predictor.recordings import record_all, to_record
from experiments.runs.processes import is_main_process
from experiments.runs.provenance import provenance
from experiments.runs.recording import is_recorded, load_history
from experiments.spec import load_spec
from experiments.tables.dry_run import print_todo
from smartfrz.distributed import is_distributed
from smartfrz.predictor import AttentionPredictor, History

BUNDLED: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "cka": {
        "drift": ("predictor", {"encoding": "drift"}),
        "raw": ("predictor", {"encoding": "raw"}),
        "outputs": ("recordings", {}),
    },
    "contribution": {"contribution": ("recordings", {"tolerance": 0.1})},
}
"""By label, the predictors by name: the spec of their recorded runs, and settings that differ."""


def bundled_recipes(scale: str, label: str = "cka") -> dict[str, Recipe]:
    """Returns the recipes of the predictors of a label, by name."""
    found = {}
    for name, (spec_name, changes) in BUNDLED[label].items():
        spec = load_spec(spec_name)
        training = dataclasses.replace(training_at(scale, spec.predictor), label=label, **changes)
        found[name] = Recipe(training, tuple(plan(spec, scale)))
    return found


def make_bundled(scale: str, results: Path, output: Path, label: str = "cka") -> None:
    """Executes missing recorded runs, trains predictors of a label, and prints their model cards.

    Args:
        scale: a scale of the label's spec.
        results: the folder of all results.
        output: the folder of the predictors.
        label: one of `BUNDLED`.
    """
    command = f"make predictor {'' if label == 'cka' else f'LABEL={label} '}SCALE={scale}"
    for name, recipe in bundled_recipes(scale, label).items():
        folder, facts = output / name, facts_file(results, scale, name)
        if not is_made(folder, facts, recipe.id):
            record_all(recipe.recordings, results / "runs", command)
            with locked(recipe.id, f"predictor {name}"):
                if not is_made(folder, facts, recipe.id):
                    make(recipe, folder, facts, {"id": recipe.id, **provenance(command)})
        print((folder / "README.md").read_text())
        print(f"The predictor is in {folder}.")


def print_dry(scale: str, results: Path, output: Path, label: str = "cka") -> None:
    """Prints the pending work for the predictors; arguments as for `make_bundled`."""
    with dry_run():
        runs = results / "runs"
        for name, recipe in bundled_recipes(scale, label).items():
            made = is_made(output / name, facts_file(results, scale, name), recipe.id)
            print(f"The predictor {name} is {'made already' if made else 'to be made'}.")
            print_todo(recipe.recordings, [] if made else to_record(recipe.recordings, runs), runs)


def facts_file(results: Path, scale: str, name: str) -> Path:
    """Returns the path of the facts from which a bundled predictor's model card is written."""
    return results / f"predictor-{scale}" / f"{name}.json"


def is_made(folder: Path, facts: Path, recipe_id: str) -> bool:
    """Whether a recipe's predictor, model card and facts exist."""
    texts = (folder / "README.md", facts)
    has_weights = (folder / "model.safetensors").exists()
    return has_weights and all(file.exists() and recipe_id in file.read_text() for file in texts)


def make(recipe: Recipe, folder: Path, facts: Path, origin: Mapping[str, Any]) -> None:
    """Trains a predictor and saves it with its model card and the facts of the card."""
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
    """Trains a table's own predictors that are not cached yet, in the main process.

    Raises:
        UserError: recorded runs are missing, and there are several processes.
    """
    for name, recipe in recipes.items():
        if recipe.id not in kept():
            if is_distributed() and not all(is_recorded(config) for config in recipe.recordings):
                raise UserError(
                    f"The predictor {name!r} needs runs that are not recorded yet, and recording "
                    "requires a single process: execute python -m scripts.histories predictor "
                    f"--scale {scale} --results {results} first."
                )
            if is_main_process():
                record_all(recipe.recordings, results / "runs", f"make predictor SCALE={scale}")
                with locked(recipe.id, f"predictor {name}"):
                    if recipe.id not in kept():
                        keep(recipe.id, trained(recipe, name)[0])
        if is_distributed():
            dist.barrier()


def trained(recipe: Recipe, name: str) -> tuple[AttentionPredictor, list[History]]:
    """Trains a predictor under a progress bar; returns it and the histories of its recipe."""
    training = recipe.training
    histories = [load_history(config, training.size) for config in recipe.recordings]
    with tqdm(total=training.steps, desc=f"train predictor {name}") as bar:
        predictor = fit(histories, training, seed=0, on_step=lambda step, loss: bar.update())
    return predictor, histories


def held_out_metrics(
    predictor: AttentionPredictor, histories: Sequence[History], training: Training
) -> dict[str, float]:
    """Computes a predictor's metrics on the recorded runs held out for calibration."""
    _, held_out = split(histories, seed=0)
    labels = [labels_of(each, training) for each in held_out]
    scores = [probability_of(predictor, each, training) for each in held_out]
    return metrics(labels, scores, predictor.threshold, True)
