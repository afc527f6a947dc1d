"""Tests of the attention study, with generated histories whose effects are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.studies.attention import (
    attention_by_age,
    bootstrap_interval,
    caption,
    look,
    loss_and_attention,
    moving_mean,
    rank_correlation_at_age,
    rise_effect,
    summary,
)
from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.encodings import ENCODINGS
from tests.helpers.digits import tiny_run
from tests.helpers.recordings import history_of
from tests.helpers.reference import attention_weights


def predictor(window=5, encoding="raw"):
    return AttentionPredictor(size=16, hidden=8, features=4, window=window, encoding=encoding)


def made_up(records=30, layers=3):
    walk = torch.randn(records, layers, 64).cumsum(dim=0)
    loss = torch.rand(records)
    return history_of(walk, torch.ones(records, layers), loss=loss)


def frame_of(effect, ages=(0, 1, 2), records=200, seed=0):
    """Returns attention that falls with age and is a fraction ``effect`` higher after a rise."""
    rng = np.random.default_rng(seed)
    change = rng.normal(size=records)
    rows = [
        (record, age, (1 + effect * (change[record] > 0)) / (1 + age), change[record])
        for record in range(records)
        for age in ages
    ]
    return pd.DataFrame(rows, columns=["record", "age", "attention", "change"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_attention_by_age_is_the_predictor_s_own(encoding):
    asked, weights = predictor(encoding=encoding), torch.randn(3, 12, 16).cumsum(dim=1)
    by_age = attention_by_age(asked, weights)
    assert by_age.shape == (7, 3, 5)
    for window in range(7):
        own = attention_weights(asked, weights[:, : window + 6])[:, -5:].flip(1)
        torch.testing.assert_close(by_age[window], own)


def test_every_age_is_put_beside_the_change_of_the_loss_up_to_its_record():
    attention = torch.rand(2, 3, 4)
    loss = torch.tensor([5.0, 4.0, 6.0, 3.0, 1.0, 0.0])
    frame = loss_and_attention(attention, loss).set_index(["record", "age"])
    assert len(frame) == 8
    assert frame.loc[(2, 2), "change"] == 2  # in the window that ends at record 4
    assert frame.loc[(2, 3), "change"] == 2  # and at record 5
    assert frame.loc[(2, 2), "attention"] == pytest.approx(attention[0, :, 2].mean().item())
    assert frame.loc[(2, 3), "attention"] == pytest.approx(attention[1, :, 3].mean().item())


def test_at_a_slower_pace_the_loss_changes_from_one_of_its_records_to_the_next():
    loss = torch.arange(12.0).square()
    frame = loss_and_attention(torch.rand(2, 3, 4), loss, start=1, stride=2)
    assert set(frame["record"]) == {3, 5, 7, 9, 11}
    assert frame[frame["record"] == 7]["change"].unique() == [49 - 25]
    mean = moving_mean(loss, 2)
    assert mean[:3].tolist() == [0, 0.5, 2.5]


@pytest.mark.parametrize("effect", [0.0, 0.3, -0.5])
def test_the_effect_of_a_rise_is_found(effect):
    frame = frame_of(effect)
    assert rise_effect(frame, ["age"]) == pytest.approx(effect / (1 + effect / 2))
    if effect:
        assert np.sign(rank_correlation_at_age(frame)) == np.sign(effect)


def test_what_comes_with_the_epoch_is_no_effect_of_a_rise():
    frame = frame_of(0.0).assign(epoch=lambda f: f["record"] // 100)
    # Early in the run the loss falls more often, and attention is twice as high.
    early = frame["epoch"] == 0
    frame.loc[early, "attention"] *= 2
    frame.loc[early, "change"] -= 0.7
    assert rise_effect(frame, ["age"]) < -0.1
    assert rise_effect(frame, ["age", "epoch"]) == pytest.approx(0)


def test_with_nothing_to_compare_there_is_no_effect():
    frame = frame_of(0.3)
    assert np.isnan(rise_effect(frame[frame["change"] > 0], ["age"]))


def test_the_interval_is_over_runs():
    values = pd.Series(np.random.default_rng(0).normal(size=40))
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(40)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)
    assert np.isnan(bootstrap_interval(values[:1])).all()


def test_runs_are_studied_at_smartfrz_s_rate(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    config = tiny_run("record", options={"records_per_epoch": 10})
    seen = look(predictor(), config, made_up(), records_per_epoch=5)
    assert seen.attention.shape == (2 * (15 - 5), 3, 5)  # two starts
    assert seen.frame["record"].min() == 2 and seen.frame["record"].max() == 29
    assert set(seen.frame["epoch"]) == {0, 1, 2}
    # One record per epoch would give no full window; the rate is raised as far as needed.
    assert len(look(predictor(), config, made_up(), 1).attention) == 2 * (15 - 5)
    with pytest.raises(ValueError, match="30 records, too few for the predictor's window of 30"):
        look(predictor(window=30), config, made_up(), 10)


def test_a_summary_has_all_ages_and_runs_and_the_caption_its_verdict(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    configs = [tiny_run("record", seed=seed, options={"records_per_epoch": 10}) for seed in (0, 1)]
    made = summary([look(predictor(), config, made_up(), 10) for config in configs])
    assert made["ages"]["mean"].sum() == pytest.approx(1)
    assert (made["ages"]["low"] <= made["ages"]["high"]).all()
    assert made["runs"]["seed"].tolist() == [0, 1]
    assert len(made["example"]) == 30

    def said(effect, same_epoch):
        runs = made["runs"].assign(rise_effect=effect, rise_effect_same_epoch=same_epoch)
        return caption(made["ages"], runs, "a network")

    less, more, unknown = [-0.1, -0.2], [0.1, 0.2], [-0.1, 0.2]
    assert "differs by -15.0% (-20.0% to -10.0%)" in said(less, more)
    assert "attention is lower where the loss has risen, as the paper states" in said(less, less)
    assert "attention is higher where the loss has risen, contrary to" in said(more, more)
    for effects in [(less, more), (less, unknown), (unknown, more)]:
        assert "the comparison is inconclusive" in said(*effects)
    assert "in 2 runs of" in said(less, less)
    text = caption(made["ages"], made["runs"][:1], "a network")
    assert "(one run)" in text and "in 1 run of" in text
