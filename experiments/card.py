"""The model card of a predictor, written from the facts recorded when it was made."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TEXT = """\
---
license: apache-2.0
library_name: smartfrz
tags: [layer-freezing]
---
# Is this layer done training?

The attention-based predictor of SmartFRZ (ICLR 2023, Eqs. 1-4), encoding `{encoding}`: from the
recent weights of a layer, the probability that the layer can be frozen. Made by `{command}`.

## Data
{recorded}

Each network was trained twice. The first training, with seed {reference_seed}, gave a finished
model. During the second, {records_per_epoch} times an epoch, the weights of every layer but the
head were sampled, and the CKA of the layer's output to that of the finished model was measured on
{probe_images} test images.

## Label
A layer is labelled "freeze" at record $t$ if its CKA moves no more until the last record:

$$\\max_{{s \\ge t}} |\\mathrm{{CKA}}_s - \\mathrm{{CKA}}_t| \\le {tolerance:g}$$

## Training
SGD with momentum {momentum:g}: {steps} batches of {batch_size}, learning rate {lr:g}. On {machine},
torch {torch}, commit {git}, {date}; job {id}.

## How good it is
{held_out}

## Limits
- It has seen {datasets} with {models} and nothing else, trained by SGD with a learning rate that
  falls to zero along a cosine. Any score above is of a predictor that had seen even less.
- Displacements depend on the time between two records: ask it as often as it was trained,
  {records_per_epoch} times an epoch.
- The label looks ahead to the end of a training, whose last records count as stable whatever the
  layer does.
- SGD leaves no layer perfectly still, so that what it says of one that is means nothing.
"""

_HELD_OUT = """\
For each network, a predictor that learned from the other networks alone, beside the rule "the
smaller the last relative displacement, the sooner freeze". AUROC is the chance that an example
labelled "freeze" scores higher than one that is not.

{scores}

The predictor does better than the rule on {better} of {known} networks."""


def model_card(facts: Mapping[str, Any]) -> str:
    """The card, in Markdown.

    Args:
        facts: what ``results/predictor-<scale>.json`` holds: the recordings learned from, how the
            predictor was trained, the held-out scores, and where and when it was made.
    """
    recordings = facts["recordings"]
    return _TEXT.format(
        **facts["training"],
        **recordings[0]["options"],
        **{key: facts[key] for key in ("id", "command", "torch", "git", "date")},
        machine=facts["machine"]["gpu"] or facts["machine"]["cpu"],
        recorded=_table([_recorded(each) for each in recordings]),
        held_out=_held_out(facts["held_out"]),
        datasets=_listed(each["dataset"] for each in recordings),
        models=_listed(each["model"] for each in recordings),
    )


def _recorded(config: Mapping[str, Any]) -> dict[str, str]:
    return {
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


def _held_out(scores: Mapping[str, Mapping[str, Any]]) -> str:
    if not scores:
        return "Not known: with one network alone, none can be left out."
    known = [score for score in scores.values() if score["auroc"] is not None]
    return _HELD_OUT.format(
        scores=_table([{"network left out": m, **_score(each)} for m, each in scores.items()]),
        better=sum(score["auroc"] > score["auroc_last_displacement"] for score in known),
        known=len(known),
    )


def _score(score: Mapping[str, Any]) -> dict[str, str]:
    return {
        "examples": str(score["examples"]),
        'labelled "freeze"': f"{score['positive_rate']:.0%}",
        "AUROC": _three_digits(score["auroc"]),
        "AUROC of the rule": _three_digits(score["auroc_last_displacement"]),
        "judged right": f"{score['accuracy']:.0%}",
    }


def _three_digits(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
