"""What freezing a group of layers at a moment costs, and how well the labels rank these costs.

The costs come from counterfactual runs: one group of layers is frozen, and all others go on. What
the labels are made from comes from the recording of full training with the same settings.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from baselines.frozen_group import group_of
from experiments.errors import UserError
from experiments.methods import make_config
from experiments.options import FrozenGroupOptions
from experiments.reporting.labels import display_name
from experiments.reporting.markup import BLANK, markdown
from experiments.studies.measurement import counted
from smartfrz.predictor import History, future_contribution

SCORES = {
    "contribution": "Remaining contribution",
    "cka": "1 - CKA to the end",
    "depth": "Depth",
    "time": "Time left",
    "flops": "FLOPs",
}
"""What may rank the costs, with titles. The labels are made from the first two."""

WITHIN = {"overall": None, "within_moment": "at", "within_group": "group"}
"""Correlations by name: the column of `costs` in which all examples that are ranked agree."""

_COSTS = ("loss", "accuracy")


def costs(
    frozen: Mapping[str, Any], full: Mapping[str, Any], history: History
) -> dict[str, float | str]:
    """Returns what freezing a group of layers cost, and what was known of the group before.

    Args:
        frozen: contents of the run file of the counterfactual run.
        full: the same of full training with the same settings.
        history: the recording of full training.

    Returns:
        The network, data set, start, seed, ``group`` and ``at``; the costs ``loss``, the increase
        of the mean training loss of the last epoch, and ``accuracy``, the decrease of the final
        accuracy; and `SCORES` at the record nearest to the moment: the sum of the remaining
        contributions of the group's layers, 1 minus the mean of their CKA to the end of the run,
        the number of the group, the fraction of the run that is left, and the sum of the fractions
        of full training's compute that freezing each of the layers saves.

    Raises:
        UserError: a run has diverged.
    """
    config = make_config(frozen["config"])
    options = config.options
    assert isinstance(options, FrozenGroupOptions)
    for run in (full, frozen):
        if run["status"] == "diverged":
            raise UserError(
                f"{make_config(run['config']).cell} diverged, so that what freezing costs is not "
                "known: lower its learning rate."
            )
    record = int((history.progress - options.at).abs().argmin())
    layers = group_of(history.cka.shape[1], options.group, options.groups)
    return {
        "model": config.model,
        "dataset": config.dataset,
        "start": "fine-tuned" if config.pretraining else "from scratch",
        "seed": config.seed,
        "group": options.group,
        "at": options.at,
        "loss": frozen["loss"][-1] - full["loss"][-1],
        "accuracy": full["final_accuracy"] - frozen["final_accuracy"],
        "contribution": float(
            future_contribution(history.probe_contribution)[record, layers].sum()
        ),
        "cka": 1 - float(history.cka[record, layers].mean()),
        "depth": options.group,
        "time": 1 - options.at,
        "flops": float(history.cost[layers].sum()),
    }


def workloads(found: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Returns the rows of `costs` of each workload and seed, with its name."""
    groups = found.groupby(["model", "dataset", "start", "seed"], sort=False)
    return [
        (f"{display_name(model)} on {display_name(dataset)}, {start}, seed {seed}", of)
        for (model, dataset, start, seed), of in groups
    ]


def correlations(found: pd.DataFrame) -> pd.DataFrame:
    """Computes rank correlations of scores with costs, Spearman's, within workloads and seeds.

    Args:
        found: the rows of `costs`.

    Returns:
        A row for each workload, cost and score, with a column for each entry of `WITHIN`: over all
        groups and moments, over the groups at the same moment, mean over moments, and the other way
        round. NaN where all values are equal.
    """
    rows = [
        {
            "workload": name,
            "cost": cost,
            "score": score,
            **{key: _correlation(of, score, cost, by) for key, by in WITHIN.items()},
        }
        for name, of in workloads(found)
        for cost in _COSTS
        for score in SCORES
    ]
    return pd.DataFrame(rows)


def _correlation(found: pd.DataFrame, score: str, cost: str, by: str | None) -> float:
    parts: Iterable[pd.DataFrame] = [of for _, of in found.groupby(by)] if by else [found]
    return float(pd.Series([_spearman(of[score], of[cost]) for of in parts]).mean())


def _spearman(values: pd.Series, others: pd.Series) -> float:
    if values.nunique() < 2 or others.nunique() < 2:
        return math.nan
    return float(values.rank().corr(others.rank()))


def table(ranked: pd.DataFrame) -> str:
    """Returns the correlations as Markdown, means over workloads.

    Args:
        ranked: from `correlations`.
    """
    means = ranked.groupby(["score", "cost"])[[*WITHIN]].mean()
    header = ["Score", *(f"{cost}, {key.replace('_', ' a ')}" for cost in _COSTS for key in WITHIN)]
    rows = [
        [title, *(_cell(means.loc[(score, cost), key]) for cost in _COSTS for key in WITHIN)]
        for score, title in SCORES.items()
    ]
    return markdown(header, [rows], _table_caption(ranked), labels=1)


def _cell(value: float) -> str:
    return BLANK if math.isnan(value) else f"{value:+.2f}"


def _table_caption(ranked: pd.DataFrame) -> str:
    return (
        "Rank correlations (Spearman) of what is known of a group of layers when it freezes with "
        "what freezing it costs: in training loss of the last epoch and in final accuracy, each "
        "relative to full training with the same settings and seed. Over all groups and moments of "
        "a workload, over the groups at the same moment, and over the moments of the same group; "
        f"means over {counted(ranked['workload'].nunique(), 'workload')}. Remaining contribution: "
        "what the group's layers still take from the loss on held-out examples until the end of "
        'full training, from which the label "contribution" is made; CKA to the end: mean over the '
        'group, from which the label "cka" is made. FLOPs: what freezing each layer of the group '
        "saves, summed."
    )


def finding(ranked: pd.DataFrame) -> str:
    """Returns which label ranks the costs in loss better, as a sentence.

    Args:
        ranked: from `correlations`.
    """
    of_loss = ranked[ranked["cost"] == "loss"]
    parts = [
        _compared(of_loss.pivot(index="workload", columns="score", values=key), where)
        for key, where in (
            ("overall", "over all groups and moments"),
            ("within_moment", "within a moment"),
        )
    ]
    return f"**Finding.** By the training loss, {'; '.join(parts)}."


def _compared(by: pd.DataFrame, where: str) -> str:
    ours, cka = by["contribution"], by["cka"]
    better, worse = (ours > cka).sum(), (ours < cka).sum()
    return (
        f"the remaining contribution ranks the costs {where} better than CKA in {better} and worse "
        f"in {worse} of {counted(len(by), 'workload')} (mean {ours.mean():+.2f} and "
        f"{cka.mean():+.2f}; depth {_cell(by['depth'].mean())}, time {_cell(by['time'].mean())})"
    )


def caption(found: pd.DataFrame) -> str:
    """Returns the caption of the figure.

    Args:
        found: the rows of `costs`.
    """
    groups = found["group"].nunique()
    return (
        f"Increase of the mean training loss of the last epoch if one of {groups} groups of "
        "layers is frozen after a fraction of the run and all others go on: "
        f"{len(found)} runs. Group 1 is at the front, and the head is in none."
    )
