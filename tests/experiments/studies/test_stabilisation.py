"""Tests of Figure 4: the epoch from which a layer is stable, and the order of layers."""

import math

import pandas as pd
import pytest
import torch

from experiments.studies.stabilisation import (
    caption,
    cka_curves,
    epochs_per_record,
    first_stable,
    front_first,
    stable_epochs,
)
from tests.helpers.digits import tiny_run
from tests.helpers.recordings import history_of


def recorded(cka):
    return history_of(torch.zeros(len(cka), cka.shape[1], 4), cka)


def moments(*epochs, seed=0):
    numbers = range(1, len(epochs) + 1)
    return pd.DataFrame({"seed": seed, "layer": numbers, "name": "x", "epoch": epochs})


def test_the_last_record_alone_makes_no_layer_stable():
    stable = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 1]]).bool()
    assert first_stable(stable)[:2] == [0, 1]
    assert math.isnan(first_stable(stable)[2])


def test_curves_and_moments_are_in_epochs():
    config = tiny_run("record", options={"records_per_epoch": 5})  # ten steps an epoch
    assert epochs_per_record(config) == 0.2
    layers = 9
    cka = torch.ones(4, layers)
    cka[:, 1] = torch.tensor([0.5, 0.9, 1.0, 1.0])
    cka[:, 2] = torch.tensor([0.5, 0.6, 0.7, 1.0])
    curves = cka_curves(config, recorded(cka))
    of_second = curves[curves["layer"] == 2]
    assert of_second["epoch"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6])
    assert of_second["cka"].tolist() == pytest.approx(cka[:, 1].tolist())
    stable = stable_epochs(config, recorded(cka), tolerance=0.02)
    assert stable["epoch"][:2].tolist() == pytest.approx([0, 0.4])
    assert stable["epoch"].isna().tolist() == [False, False, True] + [False] * 6
    assert stable["name"][0] == "0" and stable["name"].is_unique


def test_order_is_the_ranks_of_place_and_moment():
    together = pd.concat(
        [moments(0.0, 0.1, 0.5, 2.0), moments(3.0, 2.0, 1.0, 0.5, seed=1)], ignore_index=True
    )
    forward, backward = front_first(together).itertuples()
    assert (forward.correlation, forward.back_before_front) == (pytest.approx(1), 0)
    assert (backward.correlation, backward.back_before_front) == (pytest.approx(-1), 1)


def test_a_layer_that_never_stabilises_is_the_last():
    (order,) = front_first(moments(0.0, math.nan, 0.0)).itertuples()
    assert order.correlation == front_first(moments(0.0, 9.0, 0.0))["correlation"].item() == 0
    assert order.back_before_front == 0.5
    (still,) = front_first(moments(0.0, 0.0)).itertuples()
    assert math.isnan(still.correlation) and math.isnan(still.back_before_front)


def test_the_caption_counts_the_runs_in_which_the_front_was_first():
    epochs = [x / 10 for x in range(12)]
    layers = pd.concat([moments(*epochs), moments(*epochs[::-1], seed=1)], ignore_index=True)
    text = caption(layers, [2, 5], "while training", 0.02)
    assert "Front layers stabilise first in 1 and back layers in 1 of 2 runs" in text
    assert "CKA of layers 2, 5 of 12" in text and "within 0.02" in text
    assert "seed 1: -1.00, the later layer first in 100% of the pairs" in text
    assert "0 of 12 layers never stable" in text
