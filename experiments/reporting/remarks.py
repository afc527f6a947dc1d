"""Remarks in captions: data sets that are not learned, and runs that froze all layers early."""

import json
from collections.abc import Iterable

import pandas as pd

from experiments.data import registry
from experiments.reporting.labels import display_name


def not_learned(frame: pd.DataFrame) -> str:
    """Returns a sentence for each workload in which full training does not exceed the majority.

    Args:
        frame: the runs of a table.

    Returns:
        The sentences; empty if there is no such workload.
    """
    full = frame[(frame["method"] == "full") & (frame["status"] == "finished")]
    accuracies = full.groupby(["model", "dataset"], sort=False)["final_accuracy"].mean()
    return "".join(_sentences(accuracies))


def _sentences(accuracies: pd.Series) -> Iterable[str]:
    for (model, dataset), accuracy in accuracies.items():
        constant = registry.dataset(dataset).majority_rate
        if accuracy <= constant:
            yield (
                f" Full training of {display_name(model)} on {display_name(dataset)} is no better "
                f"than always predicting the majority class ({constant:.1%})."
            )


def frozen_early(frame: pd.DataFrame) -> str:
    """Returns a sentence on runs whose layers but the head were all frozen in the first quarter.

    Not on those that froze them all at step 0, at which nothing can be taken for convergence.

    Args:
        frame: the runs of a table.

    Returns:
        The sentence, with the number of such runs by method; empty if there are none.
    """
    early = frame.loc[[_is_early(run) for _, run in frame.iterrows()], "method"]
    counts = early.value_counts(sort=False)
    if counts.empty:
        return ""
    methods = ", ".join(f"{display_name(str(name))} {count}" for name, count in counts.items())
    return (
        " Runs in which all layers but the head were frozen in the first quarter, perhaps on a "
        f"plateau: {methods}."
    )


def _is_early(run: pd.Series) -> bool:
    frozen = json.loads(run["frozen"])
    body = len(json.loads(run["layers"])) - 1  # every network of the harness has one head
    return 0 < body == len(frozen) and 0 < max(frozen.values()) < run["steps"] / 4
