"""Data sets on which full training does not exceed the accuracy of the majority class."""

from collections.abc import Iterable

import pandas as pd

from experiments.data import registry
from experiments.reporting.labels import display_name


def not_learned(frame: pd.DataFrame) -> str:
    """Returns a sentence for each data set on which full training does not exceed the majority.

    Args:
        frame: the runs of a table.

    Returns:
        The sentences; empty if there is no such data set.
    """
    full = frame[(frame["method"] == "full") & (frame["status"] == "finished")]
    return "".join(_sentences(full.groupby("dataset", sort=False)["final_accuracy"].mean()))


def _sentences(accuracies: pd.Series) -> Iterable[str]:
    for dataset, accuracy in accuracies.items():
        constant = registry.dataset(str(dataset)).majority_rate
        if accuracy <= constant:
            yield (
                f" On {display_name(str(dataset))}, full training is no better than always "
                f"predicting the majority class ({constant:.1%})."
            )
