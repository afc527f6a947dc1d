"""Tables say on which data sets full training is no better than always giving the same answer."""

import pandas as pd
import pytest

from experiments.reporting.majority_class import not_learned


@pytest.mark.parametrize(
    ("dataset", "accuracies", "is_learned"),
    [
        ("mrpc", (0.6, 0.7), False),
        ("mrpc", (0.68, 0.70), True),
        ("sst2", (0.5, 0.5), False),
        ("sst2", (0.52, 0.51), True),
        ("cifar10", (0.1, 0.1), True),
    ],
)
def test_by_the_mean_over_full_trainings(
    dataset: str, accuracies: tuple[float, ...], is_learned: bool
):
    """What else is better may be so by chance, and a run that diverged has no accuracy."""
    other = 0.1 if is_learned else 0.9
    rows = [("full", "finished", accuracy) for accuracy in accuracies]
    rows += [("smartfrz", "finished", other), ("full", "diverged", other)]
    frame = pd.DataFrame(rows, columns=["method", "status", "final_accuracy"])
    assert (not_learned(frame.assign(dataset=dataset)) == "") == is_learned


def test_says_what_the_same_answer_gives():
    row = {"method": "full", "status": "finished", "final_accuracy": 0.6, "dataset": "mrpc"}
    expected = " MRPC is not learned: always giving the same answer is right in 68.4%."
    assert not_learned(pd.DataFrame([row])) == expected
