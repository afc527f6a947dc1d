"""Tests of the overview of all results."""

from pathlib import Path

from experiments.reporting.contents import SECTIONS
from experiments.reporting.overview import overview

HEAD = "dataset,method,n,planned,diverged\n"


def rows(results: Path, scale: str = "small") -> dict[str, list[str]]:
    """Returns the cells after the heading of each result."""
    lines = overview(results, scale).partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {heading: others for heading, *others in cells}


def test_runs_are_counted_by_data_set_where_some_are_missing(tmp_path: Path) -> None:
    whole, part = tmp_path / "table8-small", tmp_path / "table2-small"
    for folder in (whole, part, tmp_path / "fig4-small"):
        folder.mkdir()
    (whole / "table.csv").write_text(HEAD + "cifar10,full,3,3,0\ncifar10,linear,3,3,2\n")
    (part / "table.csv").write_text(HEAD + "cifar10,full,3,3,0\ncifar100,full,1,3,1\n")
    found = {cells[1]: cells for cells in rows(tmp_path).values()}
    assert found["`table8-small`"][2] == "all 6"
    assert found["`table2-small`"][2] == "CIFAR-10 3 of 3, CIFAR-100 1 of 3"
    assert found["`fig4-small`"] == [
        *("`make fig4 SCALE=small`", "`fig4-small`", "available", "\N{EN DASH}"),
    ]
    assert found["`table1-small`"][2] == "not run"


def test_each_result_has_a_row(tmp_path: Path) -> None:
    found = rows(tmp_path, "paper")
    assert list(found) == [section.heading for section in SECTIONS]
    assert {cells[2] for cells in found.values()} == {"not run"}
    assert found["Bookkeeping"][0] == "`make bench`"


def test_hours_are_those_of_all_runs_and_shared_ones_count_once(tmp_path: Path) -> None:
    for table, runs in {"table2": "a,3600,360\nb,7200,360\n", "policies": "b,7200,360\n"}.items():
        folder = tmp_path / f"{table}-small"
        folder.mkdir()
        (folder / "table.csv").write_text(HEAD + "cifar10,full,2,2,0\n")
        (folder / "runs.csv").write_text("id,train_seconds,eval_seconds\n" + runs)
    hours = {cells[1]: cells[3] for cells in rows(tmp_path).values()}
    assert (hours["`table2-small`"], hours["`policies-small`"]) == ("3.2", "2.1")
    assert "those that tables share once: 3.2." in overview(tmp_path, "small")
