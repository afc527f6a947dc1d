"""Tests of storing scores, and of the means and intervals in their summaries."""

import json
import math

import pandas as pd
import pytest
import torch

from experiments.evidence.scores import merged_bins, read_scores, summary, write_scores
from experiments.evidence.simple_predictors import RIVAL
from experiments.predictor.metrics import reliability
from experiments.reporting.statistics import t_interval
from tests.helpers.compared import EVIDENCE, FAMILIES, comparison, row, rows, with_metric


def test_what_is_read_is_what_was_written(tmp_path):
    """Bins, infinities, missing values, ids that look like numbers, and all digits survive."""
    write_scores(rows(), tmp_path / "scores.csv")
    frame = read_scores(tmp_path / "scores.csv")
    assert frame.to_json() == comparison().scores.to_json()
    assert frame["threshold"].tolist() == comparison().scores["threshold"].tolist()
    assert (frame["job"][0], frame["git"][0], frame["torch"][0]) == (
        "12e456789012",
        "00123",
        "2.10",
    )
    write_scores(frame.to_dict("records"), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()
    written = (tmp_path / "scores.csv").read_text().splitlines()[1]
    assert json.loads("[[" + written.partition('"[[')[2].partition(']]"')[0] + "]]")


def test_the_interval_is_student_s():
    mean_error = math.sqrt(((0.1**2 + 0.1**2) / 2) / 3)
    values = pd.Series([0.8, 0.9, 1.0])
    assert t_interval(values) == pytest.approx(4.302653 * mean_error)
    assert math.isnan(t_interval(values[:1])) and math.isnan(t_interval(values[:0]))


def by_candidate(found):
    return found.set_index("candidate")


def test_candidates_are_judged_at_their_own_pace_with_the_bundled_tolerance():
    def change(each):
        usual = each["records_per_epoch"] == 4 and each["tolerance"] == 0.02
        return each | {"auroc": each["auroc"] + each["seed"] / 100 if usual else 0}

    found = by_candidate(comparison(change).candidates())
    assert [*found.index[:3]] == [*EVIDENCE.candidates] and len(found) == 13
    drift = found.loc["outputs"]
    assert [drift[name] for name in (*FAMILIES, "mean")] == pytest.approx([0.99] * 3)
    assert drift["interval"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3))
    assert (drift["seeds"], drift["not_run"]) == (3, "")
    rule = found.loc["depth"]
    assert rule["auroc"] == 0.9 and math.isnan(rule["interval"])
    assert math.isnan(rule["calibration_error"])


def test_means_are_over_seeds_of_which_there_are_all_families():
    def change(each):
        lost = each["candidate"] == "raw" and each["family"] == "mobile"
        some = each["candidate"] == "outputs" and each["family"] == "mobile" and each["seed"] == 1
        return None if lost or some else each | {"auroc": 0.9 + each["seed"] / 100}

    found = by_candidate(comparison(change).candidates())
    assert found.loc["outputs", ["mean", "plain", "seeds"]].tolist() == pytest.approx(
        [0.91, 0.91, 2]
    )
    raw = found.loc["raw"]
    assert raw["not_run"] == "mobile" and raw["seeds"] == 0 and raw["plain"] == 0.91
    assert raw[["mobile", "mean", "interval", "f1"]].isna().all()


def test_an_undefined_auroc_makes_the_mean_undefined_but_is_run():
    frame = comparison(lambda r: r | {"auroc": math.nan if r["family"] == "plain" else 0.9})
    found = by_candidate(frame.candidates()).loc["outputs"]
    assert math.isnan(found["mean"]) and found["not_run"] == "" and found["mobile"] == 0.9


def test_a_row_that_is_there_twice_is_refused():
    frame = comparison().scores
    with pytest.raises(ValueError, match="duplicate"):
        summary(frame[frame["candidate"] == "outputs"], "candidate", ["outputs"], FAMILIES, "auroc")


def test_ablations_differ_in_one_thing_and_have_one_seed():
    found = comparison(lambda r: r | {"auroc": r["auroc"] - r["seed"]}).ablations()
    names = ["outputs", "outputs, mean pooling", "tolerance 0.01", "window 10"]
    assert found["candidate"].tolist() == names
    assert found["mean"].tolist() == pytest.approx([0.98, 0.9, 0.9, 0.9])
    assert found["difference"].tolist() == pytest.approx([0, -0.08, -0.08, -0.08])
    assert found["interval"].isna().all()


def test_paces_are_compared_with_their_own():
    lower = {2: 0.01, 4: 0.0, 20: 0.05}
    found = comparison(lambda r: r | {"auroc": r["auroc"] - lower[r["records_per_epoch"]]}).paces()
    assert found["records_per_epoch"].tolist() == [2, 4, 20]
    assert found["drop"].tolist() == pytest.approx([0.01, 0, 0.05])
    assert (found["seeds"] == 3).all()


def test_with_another_tolerance_the_bundled_predictor_is_the_one_trained_with_it():
    found = comparison().tolerances().set_index(["candidate", "tolerance"])["mean"]
    assert found["outputs"].to_dict() == {0.01: pytest.approx(0.9), 0.02: pytest.approx(0.98)}
    assert found["depth"].to_dict() == {0.01: pytest.approx(0.9), 0.02: pytest.approx(0.9)}
    assert len(found) == 2 * 11


def test_pooled_bins_are_those_of_all_examples():
    labels, probability = torch.rand(300) < 0.4, torch.rand(300).double()
    probability[:2] = torch.tensor([0.0, 1.0])
    parts = [reliability(labels[i::3], probability[i::3]) for i in range(3)]
    for found, expected in zip(merged_bins(parts), reliability(labels, probability), strict=True):
        assert found == pytest.approx(expected)
    assert merged_bins([]) == []


def test_the_reliability_is_the_bundled_predictor_s():
    frame = comparison(
        lambda r: r if (r["candidate"], r["family"]) == ("outputs", "plain") else None
    )
    (low, high), nothing = frame.reliability().values()
    assert low == pytest.approx((180, 0.04, 0.1)) and high == pytest.approx((120, 0.95, 0.9))
    assert nothing == [] and row("depth", "plain")["bins"] == []


def test_errors_are_relative_to_the_rival_s():
    """And their mean is the ratio of the mean errors, not the mean of the ratios."""
    found = {("outputs", "plain"): 0.95, ("outputs", "mobile"): 0.98, (RIVAL, "mobile"): 0.98}
    relative = with_metric("within_moment", found).relative_errors("within_moment")
    assert relative.loc["outputs"].to_dict() == pytest.approx(
        {"plain": 0.05 / 0.1, "mobile": 1, "mean": 0.07 / 0.12}
    )
    assert relative.loc[RIVAL].tolist() == [1, 1, 1]
    found |= {(RIVAL, "plain"): 1.0, ("depth", "plain"): 1.0}
    relative = with_metric("within_moment", found).relative_errors("within_moment")["plain"]
    assert relative[["outputs", "depth"]].tolist() == [math.inf, 1]


def test_each_label_has_its_own_scores():
    def change(each):
        return each | {"within_run": 0.6 if each["label"] == "contribution" else math.nan}

    found = by_candidate(comparison(change, "contribution").candidates())
    assert found.loc["outputs", [*FAMILIES, "mean"]].tolist() == pytest.approx([0.6] * 3)
    assert found.loc["clock", "seeds"] == 1
    within = by_candidate(comparison(change, "contribution").candidates("within_moment"))
    assert within.loc["outputs", "mean"] == pytest.approx(0.98)


def test_the_mean_calibration_error_of_a_kind_is_over_the_families_that_have_it():
    def change(each):
        return each | {"calibration_error_scratch": 0.1 if each["family"] == "plain" else math.nan}

    found = by_candidate(comparison(change).candidates()).loc["outputs"]
    assert found["calibration_error_scratch"] == pytest.approx(0.1) and found["not_run"] == ""
