"""Tests of the tables of the comparison of convergence predictors."""

import math

from experiments.evidence.tables import ablations, candidates, gains, paces
from tests.helpers.compared import comparison, with_metric


def line(text, start):
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_the_best_of_a_column_is_bold_whatever_it_is():
    text = candidates(
        with_metric("auroc", {("depth", "mobile"): 0.99, ("outputs", "plain"): 0.9804})
    ).to_markdown()
    assert line(text, "| predictor | outputs |") == (
        "| predictor | outputs | **0.980** | 0.980 | **0.980** ± 0.000 | **0.800** | **0.040** "
        "| **0.700** | 0.900 | 0.350 |"
    )
    assert line(text, "| rule | depth |") == (
        "| rule | depth | 0.900 | **0.990** | 0.945 | **0.800** | \N{EN DASH} | **0.700** | 0.900 "
        "| 0.350 |"
    )
    assert line(text, "| regression | regression on drift |")


def test_the_main_table_is_the_gain_over_the_clock_and_depth():
    """The error relative to the rival's: .02 / .1 and .05 / .1; the mean of errors .035 / .1."""
    table = gains(with_metric("within_moment", {("outputs", "plain"): 0.95}))
    text = table.to_markdown()
    assert line(text, "| predictor | outputs |") == (
        "| predictor | outputs | **0.50** | **0.20** | **0.35** | **0.965** | **0.950** "
        "| **0.980** | **0.030** | **0.040** |"
    )
    rival = line(text, "| regression | clock, depth and learning rate |").split(" | ")
    assert rival[2:6] == ["1.00", "1.00", "1.00", "0.900"]
    assert line(text, "| rule | depth |").endswith("| \N{EN DASH} | \N{EN DASH} |")
    assert table.frame.columns[:2].tolist() == ["kind", "candidate"]


def test_future_contributions_are_ranked_within_a_run():
    def change(each):
        return each | {"within_run": 0.7 + 0.1 * (each["label"] == "cka")}

    text = candidates(comparison(change, "contribution")).to_markdown()
    assert "Mean concordance" in text and "label contribution, tolerance 0.1" in text
    assert line(text, "| rule | depth |").split(" | ")[2:5] == ["**0.700**"] * 3


def test_what_is_not_run_says_so_and_what_is_undefined_does_not():
    def change(each):
        if each["candidate"] == "raw" and each["family"] == "mobile":
            return None
        undefined = each["candidate"] == "depth" and each["family"] == "plain"
        return each | {"auroc": math.nan} if undefined else each

    text = candidates(comparison(change)).to_markdown()
    assert line(text, "| predictor | raw |").split(" | ")[2:6] == ["0.900"] + ["not run"] * 3
    dash = "\N{EN DASH}"
    assert line(text, "| rule | depth |").split(" | ")[2:5] == [dash, "0.900", dash]


def test_latex_has_the_same_cells_and_a_rule_between_kinds():
    text = candidates(comparison()).to_latex()
    assert line(text, "predictor & outputs &").startswith(
        r"predictor & outputs & \textbf{0.980} & \textbf{0.980} & \textbf{0.980} $\pm$ 0.000 &"
    )
    assert text.count(r"\midrule") == 3 and r"\begin{tabular}{llrrrrrrrr}" in text
    assert "95\\%" in text and " -- " in line(text, "rule & depth &")


def test_the_caption_says_where_the_numbers_come_from():
    caption = candidates(comparison()).caption
    assert "at 4 records per epoch and with the label cka, tolerance 0.02" in caption
    assert caption.endswith(
        "Measured on a processor, torch 2.10, seeds 0, 1, 2: make evidence SCALE=demo."
    )


def test_ablations_and_paces_show_differences():
    text = ablations(comparison()).to_markdown()
    cells = line(text, "| window 10 |").split(" | ")
    assert cells[1:5] == ["0.900", "0.900", "0.900", "-0.080"] and "**" not in text
    text = paces(
        comparison(lambda r: r | {"auroc": 0.98 - (r["records_per_epoch"] == 20) * 0.03})
    ).to_markdown()
    assert line(text, "| 20 |").split(" | ")[1:5] == ["0.950", "0.950", "0.950 ± 0.000", "+0.030"]
    assert line(text, "| 4 |").split(" | ")[4] == "+0.000"
