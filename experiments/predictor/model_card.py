"""Model card of a predictor, written from the facts recorded at its training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smartfrz.predictor import STRIDES

_TEXT = """\
---
license: apache-2.0
library_name: smartfrz
tags: [layer-freezing]
---
# Convergence predictor of SmartFRZ

The attention-based predictor of SmartFRZ (ICLR 2023, Eqs. 1-4) with the encoding `{encoding}`. From
the recent weights of a network's layers, it predicts for each layer the probability that the layer
can be frozen. {encoding_text}
Trained by `{command}`.

## Training data
{recorded}

During each run, {records_per_epoch} times per epoch, the weights of every layer but the head were
sampled, and the CKA between the layer's output and its output at the end of the same run was
measured on {probe_images} test images (unbiased minibatch CKA, Nguyen et al. 2021).

## Label
{label_text}

## Training and calibration
AdamW, {steps} steps, learning rate {lr:g}, weight decay {weight_decay:g}, on three quarters of the
runs. The remaining runs were used to calibrate the probabilities (Platt scaling) and to choose the
threshold, {threshold:.2f}: the lowest at which at least {precision:.0%} of the frozen layers are
labelled "freeze" at the record at which they are frozen. Trained on {machine}, torch {torch},
commit {git}, {date}; recipe {id}.

## Evaluation
On the runs held out for calibration, at {pace:g} records per epoch: {held_out}. The networks of
these runs belong to families seen in training. `make evidence` evaluates predictors on unseen
families and compares them with regressions and rules: results/evidence-{scale}/.

## Limitations
- Trained on runs of {models} on {datasets} only, with {optimizers} and the learning-rate schedules
  {schedules}, for a few hundred steps.
- Trained for {paces} records per epoch, and calibrated at {pace:g}.
- The label refers to the end of the run, where the last records count as stable whatever the layer
  does.
- A layer with a non-finite weight, with a single record, or that has not moved at all gets
  probability 0. Layers must be passed in execution order.
"""

_LABELS = {
    "cka": """\
A layer is labelled "freeze" at record $t$ if its CKA stays within a tolerance of its current value
up to the last record $T$:

$$\\max_{{s \\ge t}} |\\mathrm{{CKA}}_s - \\mathrm{{CKA}}_t| \\le {tolerance:g}$$
""",
    "contribution": """\
Between two records, a layer lowers the loss on held-out examples, to first order, by minus the dot
product of its displacement with the mean of this loss's gradients at the two records. The layer is
labelled "freeze" at a record after which it lowers the loss by at most {tolerance:g} times what a
layer contributes in the whole run, on average over layers.
""",
}

_ENCODINGS = {
    "raw": "Its input is the sampled weights themselves, as in the paper.",
    "drift": "Its input is the distance that each layer, and the layers before it, have moved "
    "since several earlier points of the run (not in the paper).",
    "outputs": "Its input is how much each layer's outputs on a small probe have changed since "
    "several earlier points of the run, and the learning rate (not in the paper).",
}


def model_card(facts: Mapping[str, Any]) -> str:
    """Returns the model card in Markdown.

    Args:
        facts: contents of ``results/predictor-<scale>/<encoding>.json``: the recorded runs, the
            training settings, the scores, and where and when the predictor was trained.
    """
    recordings, training = facts["recordings"], facts["training"]
    recorded = recordings[0]["options"]
    return _TEXT.format(
        **training,
        **recorded,
        **{key: facts[key] for key in ("id", "command", "torch", "git", "date", "threshold")},
        scale=facts["command"].rpartition("=")[2],
        encoding_text=_ENCODINGS.get(training["encoding"], ""),
        machine=facts["machine"]["gpu"] or facts["machine"]["cpu"],
        pace=recorded["records_per_epoch"] / training["stride"],
        paces=" to ".join(
            f"{recorded['records_per_epoch'] / pick(STRIDES):g}" for pick in (max, min)
        ),
        recorded=recordings_table(recordings),
        label_text=_LABELS[training.get("label", "cka")].format(**training).rstrip(),
        optimizers=_listed(_optimizer(each) for each in recordings),
        schedules=_listed(each.get("schedule", "cosine") for each in recordings),
        held_out=_scores(facts["held_out"]),
        datasets=_listed(each["dataset"] for each in recordings),
        models=_listed(each["model"] for each in recordings),
    )


def recordings_table(recordings: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table with a row for each recorded run.

    Args:
        recordings: configs of the recorded runs.
    """
    return _table([_recorded(each) for each in recordings])


def _recorded(config: Mapping[str, Any]) -> dict[str, str]:
    return {
        "run": config["id"],
        "network": config["model"],
        "data": config["dataset"],
        "images": str(config["train_images"] or "all"),
        "pixels": str(config["image_size"]),
        "epochs": f"{config['epochs']:g}",
        "learning rate": f"{config['lr']:g}",
        "optimizer": ", ".join([_optimizer(config), config.get("schedule", "cosine")]),
        "starts from": _start(config["pretraining"]),
        "seed": str(config["seed"]),
    }


def _optimizer(config: Mapping[str, Any]) -> str:
    return {"sgd": "SGD", "adamw": "AdamW"}[config.get("optimizer", "sgd")]


def _start(pretraining: Mapping[str, Any] | None) -> str:
    if pretraining is None:
        return "random weights"
    epochs = f", {pretraining['epochs']:g} epochs" if pretraining["epochs"] else ""
    return pretraining["dataset"] + epochs


def _scores(scores: Mapping[str, float]) -> str:
    names = {
        "auroc": "AUROC",
        "average_precision": "average precision",
        "calibration_error": "calibration error",
        "f1": "F1",
        "positive_rate": 'labelled "freeze"',
    }
    return ", ".join(f"{names[key]} {scores[key]:.3f}" for key in names)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
