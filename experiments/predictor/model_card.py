"""The model card of a predictor, written from the facts recorded when it was made."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from smartfrz.predictor import STRIDES

_TEXT = """\
---
license: apache-2.0
library_name: smartfrz
tags: [layer-freezing]
---
# Is this layer done training?

The attention-based predictor of SmartFRZ (ICLR 2023, Eqs. 1-4) with the encoding `{encoding}`: from
the recent weights of a network's layers, the probability that each can be frozen. {encoding_text}
Made by `{command}`.

## Data
{recorded}

During each training, {records_per_epoch} times an epoch, the weights of every layer but the head
were sampled, and the CKA of the layer's output to its output at the end of that same training was
measured on {probe_images} test images (unbiased minibatch CKA, Nguyen et al. 2021).

## Label
A layer is labelled "freeze" at record $t$ if its CKA moves no more until the last record $T$:

$$\\max_{{s \\ge t}} |\\mathrm{{CKA}}_s - \\mathrm{{CKA}}_t| \\le {tolerance:g}$$

## Training
AdamW, {steps} steps, learning rate {lr:g}, weight decay {weight_decay:g}, on three quarters of the
trainings; on the others the probabilities were calibrated (Platt scaling) and the threshold,
{threshold:.2f}, was chosen: the lowest at which at least {precision:.0%} of the layers that it
freezes are labelled so at that moment. On {machine}, torch {torch}, commit {git}, {date};
job {id}.

## How good it is
On the trainings held out for calibration, at {pace:g} records an epoch, so of families that it has
seen: {held_out}. For families that it has not seen, beside its rivals, `make evidence` measures it:
results/evidence-{scale}/.

## Limits
- It has seen {datasets} with {models} and nothing else, trained by SGD with a learning rate that
  falls to zero along a cosine, in a few hundred steps.
- It was trained for paces of {paces} records an epoch, and calibrated at {pace:g}.
- The label looks ahead to the end of a training, whose last records count as stable whatever the
  layer does.
- A layer with a weight that is not finite, with one record only, or that has not moved at all gets
  probability 0. Layers are to be given in execution order.
"""

_ENCODINGS = {
    "raw": "It sees the sampled weights themselves, as in the paper.",
    "drift": "It sees how far each layer, and the layers before it, have moved since several "
    "moments of the training so far (not in the paper).",
}


def model_card(facts: Mapping[str, Any]) -> str:
    """The card, in Markdown.

    Args:
        facts: what ``results/predictor-<scale>/<encoding>.json`` holds: the recordings learned
            from, how the predictor was trained, its scores, and where and when it was made.
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
        held_out=_scores(facts["held_out"]),
        datasets=_listed(each["dataset"] for each in recordings),
        models=_listed(each["model"] for each in recordings),
    )


def recordings_table(recordings: Sequence[Mapping[str, Any]]) -> str:
    """What was trained, a Markdown row for each recorded run's config."""
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
        "starts from": _start(config["pretraining"]),
        "seed": str(config["seed"]),
    }


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
