"""Tests of the claims about SmartFRZ at several computes: no verdict before the runs are there."""

import pytest

from experiments.reporting.equal_compute.claims import claims
from experiments.reporting.equal_compute.differences import differences
from tests.helpers.at_computes import planned_cells, runs_at_computes

VGG, MOBILE = ("vgg11", "cifar10"), ("mobilenet_v2", "cifar10")
ROWS = ["full", "smartfrz 75%", "shorter 75%", "paced 75%"]
LOW, OURS, HIGH = [88.0, 89.1, 90.0], [90.0, 91.0, 92.0], [93.0, 94.1, 95.0]
AHEAD = "SmartFRZ at 75% is ahead of the best control in at least half of the workloads"
BEHIND = "SmartFRZ at 75% is nowhere behind a control by more than the interval"
LOSS = "SmartFRZ at 75% loses at most 0.3 points relative to full training"


def workload(shorter, paced, full=OURS, own=OURS):
    return dict(zip(ROWS, (full, own, shorter, paced), strict=True))


def verdict(found, claim, seeds=3, **changes):
    """Returns the verdict on a claim and what follows."""
    cells = planned_cells(list(found), ROWS, seeds)
    text = claims(differences(runs_at_computes(found, **changes), cells))
    (line,) = (line for line in text.splitlines() if line.startswith(f"- **{claim}"))
    return line.partition(":** ")[2]


def test_ahead_is_ahead_of_the_best_control():
    found = {VGG: workload(LOW, LOW), MOBILE: workload(LOW, HIGH)}
    said = verdict(found, AHEAD)
    assert said.startswith("holds; ahead in 1 of 2: VGG11 on CIFAR-10 (+1.97 ± 0.14 against")
    assert "; not ahead in 1 of 2: MobileNetV2 on CIFAR-10 (\N{MINUS SIGN}3.03 ± 0.14" in said
    said = verdict(found, BEHIND)
    assert said.startswith("does not hold; behind: MobileNetV2 on CIFAR-10 (\N{MINUS SIGN}3.03 ±")
    assert said.endswith("against Even pace).")
    assert verdict({VGG: workload(LOW, HIGH)}, AHEAD).startswith("does not hold; not ahead in 1 of")


def test_behind_within_the_interval_is_not_behind():
    found = {VGG: workload(LOW, [88.0, 93.0, 93.0])}
    assert verdict(found, BEHIND) == "holds."
    assert verdict(found, AHEAD).startswith("does not hold;")


@pytest.mark.parametrize("missing", [[], LOW[:2], HIGH[:2]])
def test_a_workload_with_missing_runs_counts_for_no_claim(missing):
    found = {VGG: workload(LOW, missing), MOBILE: workload(HIGH, HIGH)}
    said = verdict(found, AHEAD)
    assert said.startswith("is not known yet; not ahead in 1 of 2: MobileNetV2 on CIFAR-10 (")
    assert said.endswith("; missing runs: VGG11 on CIFAR-10.")
    found = {VGG: workload(LOW, missing), MOBILE: workload(LOW, LOW)}
    assert verdict(found, AHEAD).startswith("holds; ahead in 1 of 2")
    assert verdict(found, BEHIND) == "is not known yet; missing runs: VGG11 on CIFAR-10."


def test_missing_runs_do_not_undo_what_a_control_has_shown():
    found = {VGG: workload(HIGH, []), MOBILE: workload(HIGH, LOW[:1])}
    said = verdict(found, AHEAD)
    assert said.startswith("does not hold; not ahead in 2 of 2: VGG11 on CIFAR-10 (")
    assert said.endswith("; missing runs: all 2 workloads.")
    assert verdict(found, BEHIND).startswith("does not hold; behind: VGG11 on CIFAR-10 (")


def test_one_seed_of_a_control_decides_nothing_while_runs_are_missing():
    rows = workload(HIGH[:1], [])
    cells = [*planned_cells([VGG], [*ROWS[:2], ROWS[3]], 3), (*VGG, ROWS[2], 0)]
    text = claims(differences(runs_at_computes({VGG: rows}), cells))
    assert f"- **{AHEAD}:** is not known yet; missing runs: VGG11 on CIFAR-10." in text
    complete = claims(differences(runs_at_computes({VGG: workload(HIGH[:1], LOW)}), cells))
    assert f"- **{AHEAD}:** does not hold; not ahead in 1 of 1: VGG11 on CIFAR-10 (" in complete


def test_a_diverged_control_is_not_the_best_and_not_missing():
    assert verdict({VGG: workload(LOW, [None] * 3)}, AHEAD).startswith("holds")


def test_a_seed_in_which_smartfrz_diverged_leaves_its_workload_open():
    found = {VGG: workload(LOW, LOW, own=[90.0, 91.0, None])}
    assert verdict(found, AHEAD).startswith("is not known yet")
    assert verdict(found, LOSS).startswith("is not known yet")


def test_one_seed_has_no_interval_to_be_behind_by():
    found = {VGG: workload(HIGH[:1], LOW[:1], OURS[:1], OURS[:1])}
    assert verdict(found, BEHIND, seeds=1).startswith("is not known yet; no interval: VGG11")
    assert verdict(found, AHEAD, seeds=1).startswith("does not hold; not ahead in 1 of 1: VGG11")


def test_the_loss_is_a_mean_over_workloads():
    more, less = ([each + by for each in OURS] for by in (1.0, -0.4))
    within = {VGG: workload(LOW, LOW, more), MOBILE: workload(LOW, LOW, less)}
    assert verdict(within, LOSS).startswith("holds; mean: \N{MINUS SIGN}0.30 ±")
    assert verdict({VGG: workload(LOW, LOW, more)}, LOSS).startswith("does not hold; mean:")
    assert verdict({VGG: workload(LOW, LOW, more[:1])}, LOSS).startswith("is not known yet; mean:")
    assert verdict({VGG: workload(LOW, LOW, [])}, LOSS) == (
        "is not known yet; missing runs: VGG11 on CIFAR-10."
    )


def test_runs_that_spend_another_compute_are_named():
    claim = "SmartFRZ and the controls spend their compute within 2% of full training's"
    found = {VGG: workload(LOW, LOW)}
    assert verdict(found, claim) == "holds."
    runs = runs_at_computes(found)
    runs.loc[runs["method"] == "paced 75%", "tflops"] = 80.0
    text = claims(differences(runs, planned_cells([VGG], ROWS, 3)))
    assert "does not hold; apart: Even pace at 75% in VGG11 on CIFAR-10 (0.800)." in text
