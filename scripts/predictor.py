"""Records trainings and trains a predictor on them: ``python -m scripts.predictor``."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from experiments.config import RunConfig, checked
from experiments.execute import execute, is_finished
from experiments.machine import provenance
from experiments.methods import reference_run
from experiments.paths import cache_folder
from experiments.plan import SCALES, check_data, load_spec, plan
from experiments.pretraining import pretraining_run
from experiments.progress import TableBar, duration, estimate
from experiments.results import write_json_atomic
from experiments.train import train
from scripts.cli import run_command
from smartfrz.labeller import History, HistoryRecorder, stabilised, train_predictor, window_at
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
    training = checked(Training, spec.predictor, "predictor")
    recordings = plan(spec, options.scale)
    if options.models:
        recordings = [config for config in recordings if config.model in options.models]
    check_data(recordings)
    command = f"make predictor SCALE={options.scale}"
    record_all(recordings, options.results / "runs", command)
    if options.models:
        return
    held_out = measure_held_out(recordings, training)
    predictor = trained([load_history(config) for config in recordings], training, "all")
    predictor.save_pretrained(options.output)
    facts = {
        "held_out": held_out,
        "training": vars(training),
        "recordings": [config.cell for config in recordings],
        **provenance(command),
    }
    write_json_atomic(options.results / f"predictor-{options.scale}.json", facts)
    print(f"AUROC on the model left out: {held_out}")
    print(f"The predictor is in {options.output}.")


def record_all(recordings: list[RunConfig], runs: Path, command: str) -> None:
    """Does the missing runs: pretraining, reference, recording; each goes on where it stopped."""
    sources = dict.fromkeys(source for c in recordings if (source := pretraining_run(c)))
    references = dict.fromkeys(map(reference_run, recordings))
    needed = [c for c in (*sources, *references) if not is_finished(c, runs, needs_weights=True)]
    todo = [c for c in recordings if not history_file(c).exists()]
    print(f"{len(recordings)} trainings to learn from, {len(needed) + len(todo)} runs to do.")
    if not needed + todo:
        return
    estimates = estimate(needed + todo)
    seconds = sum(each.seconds for each in estimates.values())
    print(f"This takes at least {duration(seconds)} here, without measuring CKA.")
    bar = TableBar(estimates, quiet=False)
    for config in needed:
        execute(config, runs, command, bar.for_run(config), lambda run, curves: None, True)
        bar.finish_run(config)
    for config in todo:
        run, _ = train(config, bar.for_run(config), lambda run, curves: None)
        assert isinstance(run.freezer.policy, HistoryRecorder)
        history = run.freezer.policy.history()
        partial = history_file(config).with_suffix(".partial")
        save_file({"weights": history.weights, "cka": history.cka}, partial)
        partial.replace(history_file(config))
        (cache_folder("checkpoints") / f"{config.id}.pt").unlink(missing_ok=True)
        bar.finish_run(config)
    bar.close()


def history_file(config: RunConfig) -> Path:
    """Where the history of a recorded run is kept."""
    return cache_folder("histories") / f"{config.id}.safetensors"


def load_history(config: RunConfig) -> History:
    """The history of a recorded run."""
    return History(**load_file(history_file(config)))


def trained(histories: list[History], training: Training, what: str) -> AttentionPredictor:
    """A predictor trained on these histories."""
    torch.manual_seed(0)
    predictor = AttentionPredictor(encoding=training.encoding)
    with tqdm(total=training.steps, desc=f"train predictor on {what}") as bar:
        train_predictor(
            predictor,
            histories,
            training.tolerance,
            training.steps,
            training.batch_size,
            training.lr,
            training.momentum,
            on_step=lambda step, loss: bar.update(),
        )
    return predictor


def measure_held_out(
    recordings: list[RunConfig], training: Training
) -> dict[str, dict[str, float]]:
    """For each model, a predictor trained on the others: its AUROC there, and that of a rule.

    The rule that learns nothing takes the last relative displacement: the less, the rather freeze.
    """
    from sklearn.metrics import roc_auc_score

    scores = {}
    for model in dict.fromkeys(config.model for config in recordings):
        others = [load_history(config) for config in recordings if config.model != model]
        mine = [load_history(config) for config in recordings if config.model == model]
        predictor = trained(others, training, f"all but {model}")
        examples = [example for history in mine for example in judged(predictor, history, training)]
        labels, probability, rule = zip(*examples, strict=True)
        scores[model] = {
            "positive_rate": sum(labels) / len(labels),
            "auroc": float(roc_auc_score(labels, probability)),
            "auroc_last_displacement": float(roc_auc_score(labels, rule)),
            "accuracy": sum((p > 0.5) == label for label, p, _ in examples) / len(examples),
        }
    return scores


def judged(predictor: AttentionPredictor, history: History, training: Training):  # type: ignore[no-untyped-def]
    """Label, predicted probability and minus the last relative displacement of every record."""
    labels = stabilised(history.cka, training.tolerance)
    for record in range(1, len(history.weights)):
        windows = [
            window_at(history, record, layer, predictor.window) for layer in range(labels.shape[1])
        ]
        rows, valid = (torch.stack(part) for part in zip(*windows, strict=True))
        probability = predictor.freeze_probability(rows, valid)
        moved = (rows[:, -1] - rows[:, -2]).norm(dim=1) / rows[:, -1].norm(dim=1)
        yield from zip(
            labels[record].tolist(), probability.tolist(), (-moved).tolist(), strict=True
        )


if __name__ == "__main__":
    run_command(main)
