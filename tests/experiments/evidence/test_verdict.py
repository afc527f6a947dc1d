"""Tests of the verdict, on either side of every bound."""

import pytest

from experiments.evidence.simple_predictors import RIVAL
from experiments.evidence.verdict import claims, verdict
from tests.helpers.compared import comparison, with_metric


def holds(compared):
    return [claim.holds for claim in claims(compared)]


def test_all_claims_may_hold():
    assert holds(comparison()) == [True] * 10
    assert holds(comparison(label="contribution")) == [True] * 10
    text = verdict([comparison(), comparison(label="contribution")])
    assert text.count("- **Holds:**") == 20 and text.endswith(": make evidence SCALE=demo.\n")
    assert "## Label contribution, tolerance 0.1\n" in text
    assert "It is 0.9800 ± 0.0000; plain 0.9800, mobile 0.9800." in text
    assert "The mean AUROC over families" in text and "The mean concordance over families" in text


@pytest.mark.parametrize(
    ("metric", "found", "failing"),
    [
        # The rival's error is 0.1 in both families, that of the predictor 0.02.
        ("within_moment", {("outputs", "plain"): 0.86}, [0, 1, 8, 9]),
        ("within_moment", {("outputs", "plain"): 0.9001}, []),
        ("within_moment", {("outputs", "plain"): 0.899}, [1, 8, 9]),
        ("within_moment", {(RIVAL, "plain"): 0.981}, [1, 8]),
        ("within_moment", {("depth", "plain"): 0.99}, [8]),
        ("within_moment", {("raw", "plain"): 0.99}, [9]),
        ("auroc", {("outputs", "plain"): 0.9599}, [4]),
        ("auroc", {("outputs", "plain"): 0.86}, [2, 3, 4]),
        ("auroc", {("depth", "plain"): 1.0, ("raw", "plain"): 1.0}, []),
    ],
)
def test_what_does_not_hold_is_said(metric, found, failing):
    claimed = holds(with_metric(metric, found))
    assert [i for i, each in enumerate(claimed) if not each] == failing


@pytest.mark.parametrize(("kind", "index"), [("fine_tuning", 5), ("scratch", 6)])
def test_each_kind_of_run_has_its_bound_of_calibration(kind, index):
    metric = f"calibration_error_{kind}"
    for error, expected in ((0.069, True), (0.071, False)):
        found = {("outputs", "plain"): error, ("outputs", "mobile"): 0.03}
        assert holds(with_metric(metric, found))[index] is expected


def test_a_family_without_runs_of_a_kind_is_left_out_of_the_mean():
    compared = with_metric("calibration_error_scratch", {("outputs", "plain"): float("nan")})
    assert holds(compared)[6] is True
    assert "from scratch is at most 0.05. It is 0.0400; mobile 0.0400.\n" in verdict([compared])


def test_nothing_is_claimed_of_a_kind_of_which_there_are_no_runs():
    nothing = {("outputs", family): float("nan") for family in ("plain", "mobile")}
    compared = with_metric("calibration_error_scratch", nothing)
    assert holds(compared) == [True] * 9 and "from scratch" not in verdict([compared])


def test_other_paces_have_a_bound_too():
    for drop, expected in ((0.0199, True), (0.0201, False)):
        lower = {2: -0.01, 4: 0.0, 20: drop}
        paces = comparison(
            lambda r, by=lower: r | {"auroc": r["auroc"] - by[r["records_per_epoch"]]}
        )
        assert holds(paces)[7] is expected
    assert "At 2, 4, 20 records per epoch it is 0.9900, 0.9800, 0.9599." in verdict([paces])


def test_whoever_does_better_anywhere_is_named():
    found = {("clock", "plain"): 0.99, ("depth", "mobile"): 0.995, ("raw", "plain"): 1.0}
    text = verdict([with_metric("within_moment", found)])
    assert (
        "- **Does not hold:** No rule and no regression is better within a moment for any family. "
        "clock is better for plain (0.9900 vs. 0.9800); depth is better for mobile (0.9950 vs. "
        "0.9800). Best of these on average: depth, 0.9475.\n"
    ) in text
    assert "raw is better for plain (1.0000 vs. 0.9800)." in text


def test_what_is_not_run_is_not_claimed_but_what_fails_without_it_fails():
    compared = comparison(lambda r: None if r["family"] == "mobile" else r)
    assert holds(compared) == [None] * 10
    text = verdict([compared])
    assert text.count("Unknown, results are missing") == 10 and "mobile not run" in text
    compared = comparison(
        lambda r: (
            None
            if r["family"] == "mobile"
            else r | {"within_moment": 0.8 if r["candidate"] == "outputs" else 0.9}
        )
    )
    assert holds(compared)[1] is False
