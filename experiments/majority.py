"""Data sets on which full training is no better than always giving the more frequent answer."""

from collections.abc import Iterable

import pandas as pd

from experiments.names import display_name

MORE_FREQUENT = {"mrpc": 279 / 408, "sst2": 444 / 872}
"""How often one of the two answers is right in GLUE's validation sets, which tables report on.

CoLA is left out: its metric, Matthews correlation, is 0 for any answer that is always the same.
"""


def not_learned(frame: pd.DataFrame) -> str:
    """A sentence for each data set on which full training learns nothing; else empty.

    Args:
        frame: the runs of a table.
    """
    full = frame[(frame["method"] == "full") & (frame["status"] == "finished")]
    return "".join(_sentences(full.groupby("dataset", sort=False)["final_accuracy"].mean()))


def _sentences(accuracies: pd.Series) -> Iterable[str]:
    for dataset, accuracy in accuracies.items():
        constant = MORE_FREQUENT.get(str(dataset), 0)
        if accuracy <= constant:
            yield (
                f" {display_name(str(dataset))} is not learned: always giving the same answer is "
                f"right in {constant:.1%}."
            )
