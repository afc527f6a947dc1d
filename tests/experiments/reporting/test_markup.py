"""Tests of tables of strings: rows without a run share a line where nothing is lost by it."""

from experiments.reporting.markup import BLANK, joined

RUN = ["VGG11", "CIFAR-10", "Full training", "90.00", BLANK, "93.36"]


def unrun(method: str, published: str = BLANK, remark: str = "not run (0/3)") -> list[str]:
    return ["VGG11", "CIFAR-10", method, remark, BLANK, published]


def test_rows_that_have_not_been_run_share_the_last_row() -> None:
    rows = [unrun("SVCCA"), RUN, unrun("Even pace")]
    assert joined(rows, 3) == [RUN, unrun("SVCCA, Even pace")]


def test_rows_that_differ_in_more_than_their_name_stay_apart() -> None:
    rows = [unrun("SVCCA"), unrun("Even pace", remark="not run (0/1)"), unrun("Random order")]
    assert joined(rows, 3) == [unrun("SVCCA, Random order"), rows[1]]


def test_a_row_with_a_published_number_keeps_it() -> None:
    rows = [unrun("SmartFRZ", "93.21"), unrun("AutoFreeze", "93.05"), unrun("SVCCA")]
    assert joined(rows, 3) == rows


def test_a_row_of_dashes_was_not_planned_and_is_not_called_unrun() -> None:
    rows = [["75%", "Even pace", BLANK], ["75%", "SVCCA", BLANK], ["75%", "Head first", "not run"]]
    assert joined(rows, 2) == rows
