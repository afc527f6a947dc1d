"""Data sets on which full training is no better than always giving the more frequent answer."""

from collections.abc import Iterable

import pandas as pd

from experiments.data import registry
from experiments.reporting.labels import display_name


def not_learned(frame: pd.DataFrame) -> str:
    """A sentence for each data set on which full training learns nothing; else empty.

    Args:
        frame: the runs of a table.
    """
    full = frame[(frame["method"] == "full") & (frame["status"] == "finished")]
    return "".join(_sentences(full.groupby("dataset", sort=False)["final_accuracy"].mean()))


def _sentences(accuracies: pd.Series) -> Iterable[str]:
    for dataset, accuracy in accuracies.items():
        constant = registry.dataset(str(dataset)).majority_rate
        if accuracy <= constant:
            yield (
                f" {display_name(str(dataset))} is not learned: always giving the same answer is "
                f"right in {constant:.1%}."
            )
