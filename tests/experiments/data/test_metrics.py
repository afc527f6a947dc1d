"""GLUE's metrics, compared with their formulas."""

import math

import pytest
import torch

from experiments.data.metrics import score
from experiments.data.registry import dataset

PREDICTIONS = torch.tensor([1, 1, 0, 0, 1, 0, 1, 0])
LABELS = torch.tensor([1, 0, 0, 1, 1, 0, 1, -100])


def test_metrics_are_those_of_their_formulas() -> None:
    found = score(PREDICTIONS, LABELS, ("accuracy", "f1", "matthews"))
    tp, fp, fn, tn = 3, 1, 1, 2
    assert found["accuracy"] == pytest.approx((tp + tn) / 7)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert found["matthews"] == pytest.approx((tp * tn - fp * fn) / spread)


def test_one_class_alone_has_no_correlation() -> None:
    ones = torch.ones(8, dtype=torch.int64)
    assert score(ones, LABELS, ("matthews",)) == {"matthews": 0}
    assert score(ones * 0, ones * 0, ("f1",)) == {"f1": 0}


def test_the_first_metric_is_the_one_of_tables() -> None:
    assert dataset("cola").metrics[0] == "matthews"
    assert dataset("mrpc").metrics == ("accuracy", "f1")
    assert dataset("cifar10").metrics == ("accuracy",)
