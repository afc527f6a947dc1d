"""Figures and tables for a paper, in one folder."""

import sys
from pathlib import Path

import pytest

from experiments.errors import UserError
from scripts import paper_figures


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run() -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["paper_figures", "--results", str(tmp_path)])
        paper_figures.main()
        return {file.name: file.read_text() for file in (tmp_path / "for-paper").iterdir()}

    return run


def write(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{folder.name} {name}")


def test_pdfs_and_latex_are_collected_under_names_that_differ(tmp_path: Path, collect) -> None:
    write(tmp_path / "table2-small", "accuracy.pdf", "accuracy.png", "table.tex", "table.md")
    write(tmp_path / "table3-small", "accuracy.pdf", "table.tex")
    write(tmp_path / "table3-paper", "table.tex")
    write(tmp_path / "bench-step_time-h100", "step_time.pdf")
    assert collect() == {
        "table2-small-accuracy.pdf": "table2-small accuracy.pdf",
        "table2-small.tex": "table2-small table.tex",
        "table3-small-accuracy.pdf": "table3-small accuracy.pdf",
        "table3-small.tex": "table3-small table.tex",
        "bench-step_time-h100-step_time.pdf": "bench-step_time-h100 step_time.pdf",
    }
    (tmp_path / "table3-small" / "accuracy.pdf").unlink()
    assert "table3-small-accuracy.pdf" not in collect()


def test_without_results_it_says_what_to_run(collect) -> None:
    with pytest.raises(UserError, match="make table2 SCALE=small"):
        collect()
