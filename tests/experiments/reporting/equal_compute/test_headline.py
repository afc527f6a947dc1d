"""Tests of the small table of SmartFRZ and the strongest control."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.reporting.equal_compute.differences import differences
from experiments.reporting.equal_compute.headline import headline
from experiments.reporting.tables import comparison_table
from tests.helpers.at_computes import planned_cells, runs_at_computes

VGG, MOBILE = ("vgg11", "cifar10"), ("mobilenet_v2", "cifar10")
ROWS = ["full", "smartfrz 75%", "plan 75%", "shorter 75%", "paced 75%"]
ROWS += ["smartfrz 58%", "plan 58%", "shorter 58%"]
LOW, MIDDLE, HIGH = [88.0, 89.1, 90.0], [90.0, 91.0, 92.0], [93.0, 94.1, 95.0]
NO_PAPER = pd.DataFrame(columns=["model", "dataset", "method", "accuracy", "seconds", "tflops"])
NO_PAPER["accuracy_std"] = NO_PAPER["accuracy"]


def drawn(
    folder: Path, *, smartfrz=MIDDLE, plan=LOW, paced=HIGH, late=LOW, planned=3, without=()
) -> str:
    """Returns the headline of two workloads; ``late`` has the accuracies of all rows at 58%.

    The even pace is planned for a number of seeds, and not in the workloads of ``without``.
    """
    found = [
        dict(zip(ROWS, (MIDDLE, smartfrz, plan, LOW, of_paced, late, late, late), strict=True))
        for of_paced in (paced, [] if MOBILE in without else paced[::-1])
    ]
    frame = runs_at_computes(dict(zip((VGG, MOBILE), found, strict=True)))
    cells = planned_cells([VGG, MOBILE], ROWS, 3)
    cells = [
        cell
        for cell in cells
        if cell[2] != "paced 75%" or (cell[3] < planned and cell[:2] not in without)
    ]
    comparison_table(frame, cells, NO_PAPER).to_csv(folder / "table.csv", index=False)
    differences(frame, cells).to_csv(folder / "differences.csv", index=False)
    frame.to_csv(folder / "runs.csv", index=False)
    return headline(folder)


def test_a_workload_is_a_row_beside_the_strongest_control_of_each_compute(tmp_path: Path) -> None:
    _, _, header, _, vgg, mobile, mean, *_ = drawn(tmp_path).splitlines()
    assert header == (
        "| Workload | Full training | SmartFRZ at 75% | Even pace at 75% "
        "| SmartFRZ at 58% | Shorter training at 58% |"
    )
    assert vgg == (
        "| VGG11 on CIFAR-10 | 91.00 ± 1.00 | +0.00 ± 0.00 | +3.03 ± 0.06 "
        "| \N{MINUS SIGN}1.97 ± 0.06 | \N{MINUS SIGN}1.97 ± 0.06 |"
    )
    assert mobile.startswith("| MobileNetV2 on CIFAR-10 | 91.00 ± 1.00 | +0.00 ± 0.00 | +3.03 ±")
    assert mean.startswith("| Mean |  | +0.00 ± 0.00 | +3.03 ± 0.00 | \N{MINUS SIGN}1.97 ± 0.00 |")


def test_three_sentences_say_what_it_shows(tmp_path: Path) -> None:
    full, strongest, added = drawn(tmp_path, plan=MIDDLE).splitlines()[-3:]
    minus = "\N{MINUS SIGN}"
    assert full.endswith(f": +0.00 ± 0.00 points at 75% and {minus}1.97 ± 0.00 points at 58%.")
    assert strongest.endswith(
        f": SmartFRZ is behind Even pace at 75% ({minus}3.03 ± 0.00) "
        "and level with Shorter training at 58% (+0.00 ± 0.00)."
    )
    assert added.endswith(
        "plan that SmartFRZ follows: +0.00 ± 0.00 points at 75% and +0.00 ± 0.00 points at 58%."
    )


def test_its_own_plan_is_no_control(tmp_path: Path) -> None:
    assert "| Even pace at 75% |" in drawn(tmp_path, plan=[100.0, 100.0, 100.0])


def test_smartfrz_may_be_ahead(tmp_path: Path) -> None:
    assert "SmartFRZ is ahead of Shorter training at 75% (+5.00" in drawn(
        tmp_path, smartfrz=HIGH, paced=[0.0, 0.0, 0.0]
    )


@pytest.mark.parametrize(("ran", "planned"), [([], 3), (HIGH[:1], 1)])
def test_a_control_with_fewer_seeds_or_workloads_is_not_the_strongest(
    tmp_path: Path, ran: list[float], planned: int
) -> None:
    text = drawn(tmp_path, paced=ran, planned=planned)
    assert "Even pace" not in text
    assert "| Shorter training at 75% |" in text


def test_a_control_that_is_not_planned_in_all_workloads_is_not_the_strongest(
    tmp_path: Path,
) -> None:
    text = drawn(tmp_path, without=[MOBILE])
    assert "Even pace" not in text
    assert "| Shorter training at 75% |" in text


def test_a_control_of_which_seeds_are_missing_may_be_the_strongest(tmp_path: Path) -> None:
    text = drawn(tmp_path, paced=HIGH[:2])
    assert "| Even pace at 75% |" in text
    assert "(2/3)" in text
