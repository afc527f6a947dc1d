"""Tests of SmartFRZ's paired differences to other methods at the same compute."""

import math

import pandas as pd
import pytest

from experiments.plan import labelled_plan
from experiments.reporting.equal_compute.differences import (
    MEAN,
    caption,
    differences,
    to_latex,
    to_markdown,
)
from experiments.reporting.equal_compute.rows import (
    compared,
    has_several_computes,
    method_and_compute,
)
from experiments.spec import load_spec
from tests.helpers.at_computes import planned_cells, runs_at_computes

VGG, MOBILE = ("vgg11", "cifar10"), ("mobilenet_v2", "cifar10")
ROWS = ["full", "smartfrz 75%", "shorter 75%", "paced 75%", "smartfrz 58%", "shorter 58%"]
OURS = [90.0, 91.0, 92.5]


def row_of(table: pd.DataFrame, model: str, compute: float, rival: str) -> pd.Series:
    chosen = (table["model"] == model) & (table["compute"] == compute) & (table["rival"] == rival)
    (row,) = [row for _, row in table[chosen].iterrows()]
    return row


def test_a_row_is_a_method_and_its_compute() -> None:
    assert method_and_compute("smartfrz 75%") == ("smartfrz", 0.75)
    assert method_and_compute("linear annealed 58%") == ("linear annealed", 0.58)
    assert method_and_compute("full same rate") == ("full same rate", None)


def test_one_budget_beside_plain_rows_is_not_several_computes() -> None:
    assert has_several_computes(ROWS)
    assert not has_several_computes(["full", "smartfrz", "smartfrz 60%", "linear", "linear 60%"])
    assert not has_several_computes(["full", "shorter 75%", "shorter 58%"])


def test_the_diagnostic_without_freezing_is_not_compared() -> None:
    rows = set(compared(labelled_plan(load_spec("compute"), "demo")).values())
    assert "linear 75%" in rows and "linear annealed 75%" not in rows


def test_differences_are_paired_by_seed_and_have_an_interval() -> None:
    runs = runs_at_computes(
        {VGG: {"full": [91.0, 92.0, 93.0], "smartfrz 75%": OURS, "shorter 75%": [89.0, 90.5, 91.0]}}
    )
    table = differences(runs, planned_cells([VGG], ["full", "smartfrz 75%", "shorter 75%"], 3))
    against = row_of(table, "vgg11", 0.75, "shorter")
    assert against["mean"] == pytest.approx(1.0)  # of 1, 0.5 and 1.5
    assert against["interval"] == pytest.approx(4.302653 * 0.5 / math.sqrt(3))
    assert (against["n"], against["planned"], against["is_complete"]) == (3, 3, True)
    assert (against["own_compute"], against["rival_compute"]) == pytest.approx((0.75, 0.75))
    assert row_of(table, "vgg11", 0.75, "full")["mean"] == pytest.approx(-2.5 / 3)


def test_p_values_are_corrected_for_the_controls_of_a_compute_only() -> None:
    accuracies = {"full": [89.0, 90.5, 91.0], "smartfrz 75%": OURS, "smartfrz 58%": OURS}
    accuracies |= {row: [89.0, 90.5, 91.0] for row in ("shorter 75%", "paced 75%", "shorter 58%")}
    table = differences(runs_at_computes({VGG: accuracies}), planned_cells([VGG], ROWS, 3))
    alone = row_of(table, "vgg11", 0.58, "shorter")["p_value"]
    assert row_of(table, "vgg11", 0.75, "full")["p_value"] == pytest.approx(alone)
    assert row_of(table, "vgg11", 0.75, "shorter")["p_value"] == pytest.approx(2 * alone)
    assert row_of(table, "vgg11", 0.75, "paced")["p_value"] == pytest.approx(2 * alone)


def test_the_average_counts_each_workload_once() -> None:
    ahead = {"full": OURS, "smartfrz 75%": OURS, "shorter 75%": [89.0, 90.0, 91.5]}
    behind = {"full": OURS[:1], "smartfrz 75%": OURS[:1], "shorter 75%": [93.0]}
    runs = runs_at_computes({VGG: ahead, MOBILE: behind})
    table = differences(runs, planned_cells([VGG, MOBILE], ["full", *ROWS[1:3]], 3))
    average = row_of(table, MEAN, 0.75, "shorter")
    assert average["mean"] == pytest.approx(-1.0)
    assert (average["n"], average["planned"], average["is_complete"]) == (2, 2, False)


def test_the_average_says_of_how_many_workloads_it_is() -> None:
    found = {"full": OURS, "smartfrz 75%": OURS, "shorter 75%": OURS}
    runs = runs_at_computes({VGG: found, MOBILE: {row: OURS for row in ("full", "smartfrz 75%")}})
    rows = list(found)
    cells = planned_cells([VGG], rows, 3) + planned_cells([MOBILE], rows[:2], 3)
    table = differences(runs, cells)
    average = row_of(table, MEAN, 0.75, "shorter")
    assert (average["n"], average["planned"], average["is_complete"]) == (1, 2, True)
    last = to_markdown(table, "A caption.").splitlines()[-1]
    assert last == "| 75% | Shorter training | +0.00 ± 0.00 | \N{EN DASH} | +0.00 (1/2) |"


def test_missing_diverged_and_unplanned_cells_are_told_apart() -> None:
    runs = runs_at_computes(
        {
            VGG: {
                "full": OURS,
                "smartfrz 75%": OURS,
                "shorter 75%": [89.0],
                "paced 75%": [None] * 3,
            },
            MOBILE: {"full": OURS},
        }
    )
    rows = ["full", "smartfrz 75%", "shorter 75%", "paced 75%"]
    cells = planned_cells([VGG], rows, 3) + planned_cells([MOBILE], rows[:3], 3)
    table = differences(runs, cells)
    lines = to_markdown(table, caption(runs)).splitlines()
    assert "| 75% | Shorter training | +1.00 (1/3) | not run | +1.00 (1/2) |" in lines
    assert "| 75% | Even pace | diverged | \N{EN DASH} | diverged |" in lines
    assert row_of(table, "vgg11", 0.75, "paced")["is_complete"]
    assert not row_of(table, "vgg11", 0.75, "shorter")["is_complete"]
    assert r"75\% & Shorter training & +1.00 (1/3)" in to_latex(table, "A caption.")


def test_runs_that_began_with_other_weights_are_no_pair_but_were_run() -> None:
    rows = ["full", "smartfrz 75%", "shorter 75%"]
    runs = runs_at_computes({VGG: {"full": [90.0], "smartfrz 75%": [91.0], "shorter 75%": [89.0]}})
    others = runs["method"] == "shorter 75%"
    runs = runs.assign(pretrained_sha256=others.map({True: "of one", False: "of another"}))
    table = differences(runs, planned_cells([VGG], rows, 1))
    assert "| 75% | Shorter training | no pair | no pair |" in to_markdown(table, "A caption.")
    assert not row_of(table, "vgg11", 0.75, "shorter")["is_complete"]


def test_nothing_run_is_a_table_all_the_same() -> None:
    none = runs_at_computes({VGG: {"full": OURS}}).iloc[:0]
    table = differences(none, planned_cells([VGG], ROWS, 3))
    text = to_markdown(table, caption(none))
    assert "| 75% | Full training, Shorter training, Even pace | not run | not run |" in text
    assert "| 58% | Full training, Shorter training | not run | not run |" in text
    assert to_latex(table, "A caption.").count("not run") == 2 * 5
    assert "Nothing has been run yet." in text


def test_rivals_without_a_run_share_a_row_in_markdown() -> None:
    runs = runs_at_computes(
        {VGG: {"full": OURS, "smartfrz 75%": OURS, "shorter 75%": OURS}, MOBILE: {"full": OURS}}
    )
    rows = ["full", "smartfrz 75%", "paced 75%", "shorter 75%", "svcca 75%"]
    cells = planned_cells([VGG], rows, 3) + planned_cells([MOBILE], rows[:2], 3)
    *_, last_run, unrun = to_markdown(differences(runs, cells), "A caption.").splitlines()
    assert last_run.startswith("| 75% | Shorter training | +0.00 ± 0.00 |")
    assert unrun == "| 75% | Even pace, SVCCA | not run | \N{EN DASH} | not run |"
