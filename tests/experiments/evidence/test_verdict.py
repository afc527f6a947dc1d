"""Tests of the verdict, on either side of every bound."""

import pytest

from experiments.evidence.verdict import claims, verdict
from tests.helpers.compared import comparison, with_auroc


def holds(compared):
    return [claim.holds for claim in claims(compared)]


def test_all_claims_may_hold():
    assert holds(comparison()) == [True] * 10
    text = verdict(comparison())
    assert text.count("- **Holds:**") == 10 and text.endswith(": make evidence SCALE=demo.\n")
    assert "It is 0.9700 ± 0.0000; plain 0.9700, mobile 0.9700." in text


@pytest.mark.parametrize(
    ("auroc", "failing"),
    [
        ({("drift", "plain"): 0.9499, ("drift", "mobile"): 0.9699}, [0]),
        ({("last displacement", "mobile"): 0.9301}, [1]),
        ({("logistic regression", "plain"): 0.9701}, [2, 8]),
        ({("logistic regression", "plain"): 0.97, ("logistic regression", "mobile"): 0.97}, []),
        (
            {("logistic regression on drift", "plain"): 0.96}
            | {("logistic regression on drift", "mobile"): 0.99},
            [4, 5, 8],
        ),
        ({("depth", "plain"): 0.98}, [8]),
        ({("raw", "plain"): 0.98}, [9]),
    ],
)
def test_what_does_not_hold_is_said(auroc, failing):
    found = holds(with_auroc(auroc))
    assert [i for i, each in enumerate(found) if not each] == failing


def test_calibration_and_paces_have_bounds_too():
    within = comparison(lambda r: r | {"calibration_error": 0.02 + 0.05 * (r["family"] == "plain")})
    assert holds(within)[6] is True
    beyond = comparison(lambda r: r | {"calibration_error": 0.03 + 0.05 * (r["family"] == "plain")})
    assert holds(beyond)[6] is False
    for drop, expected in ((0.0199, True), (0.0201, False)):
        lower = {2: -0.01, 4: 0.0, 20: drop}
        paces = comparison(
            lambda r, by=lower: r | {"auroc": r["auroc"] - by[r["records_per_epoch"]]}
        )
        assert holds(paces)[7] is expected
    assert "At 2, 4, 20 records per epoch it is 0.9800, 0.9700, 0.9499." in verdict(paces)


def test_whoever_does_better_anywhere_is_named():
    found = {("progress", "plain"): 0.98, ("depth", "mobile"): 0.99, ("raw", "plain"): 1.0}
    text = verdict(with_auroc(found))
    assert (
        "- **Does not hold:** No rule and no regression is better for any family. progress is "
        "better for plain (0.9800 vs. 0.9700); depth is better for mobile (0.9900 vs. 0.9700). "
        "Best of these on average: depth, 0.9450.\n"
    ) in text
    assert "raw is better for plain (1.0000 vs. 0.9700)." in text


def test_what_is_not_run_is_not_claimed_but_what_fails_without_it_fails():
    compared = comparison(lambda r: None if r["family"] == "mobile" else r)
    assert holds(compared) == [None] * 10
    text = verdict(compared)
    assert text.count("Unknown, results are missing") == 10 and "mobile not run" in text
    compared = comparison(
        lambda r: None if r["family"] == "mobile" else r | {"auroc": 1 - 0.5 * (r["seed"] >= 0)}
    )
    assert holds(compared)[1] is False
