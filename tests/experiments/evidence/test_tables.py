"""Tests of the tables of the comparison of convergence predictors."""

import math

from experiments.evidence.tables import ablations, candidates, paces
from tests.helpers.compared import comparison, with_auroc


def line(text, start):
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_the_best_of_a_column_is_bold_whatever_it_is():
    text = candidates(
        with_auroc({("depth", "mobile"): 0.98, ("drift", "plain"): 0.9704})
    ).to_markdown()
    assert line(text, "| predictor | drift |") == (
        "| predictor | drift | **0.970** | 0.970 | **0.970** ± 0.000 | **0.800** | **0.040** "
        "| **0.700** | 0.900 | 0.350 |"
    )
    assert line(text, "| rule | depth |") == (
        "| rule | depth | 0.900 | **0.980** | 0.940 | **0.800** | \N{EN DASH} | **0.700** | 0.900 "
        "| 0.350 |"
    )
    assert line(text, "| regression | logistic regression on drift |")


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
    assert line(text, "predictor & drift &").startswith(
        r"predictor & drift & \textbf{0.970} & \textbf{0.970} & \textbf{0.970} $\pm$ 0.000 &"
    )
    assert text.count(r"\midrule") == 3 and r"\begin{tabular}{llrrrrrrrr}" in text
    assert "95\\%" in text and " -- " in line(text, "rule & depth &")


def test_the_caption_says_where_the_numbers_come_from():
    caption = candidates(comparison()).caption
    assert "at 4 records per epoch and with a label tolerance of 0.02" in caption
    assert caption.endswith(
        "Measured on a processor, torch 2.10, seeds 0, 1, 2: make evidence SCALE=demo."
    )


def test_ablations_and_paces_show_differences():
    text = ablations(comparison()).to_markdown()
    cells = line(text, "| window 10 |").split(" | ")
    assert cells[1:5] == ["0.900", "0.900", "0.900", "-0.070"] and "**" not in text
    text = paces(
        comparison(lambda r: r | {"auroc": 0.97 - (r["records_per_epoch"] == 20) * 0.03})
    ).to_markdown()
    assert line(text, "| 20 |").split(" | ")[1:5] == ["0.940", "0.940", "0.940 ± 0.000", "+0.030"]
    assert line(text, "| 4 |").split(" | ")[4] == "+0.000"
