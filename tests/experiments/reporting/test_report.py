"""Tests of the page with all results."""

import re
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments.files import ROOT
from experiments.reporting.claims.paper import paper_claims
from experiments.reporting.claims.tables import overall_claims
from experiments.reporting.contents import SECTIONS, sections
from experiments.reporting.full_training import full_training
from experiments.reporting.overview import overview
from experiments.reporting.report import main_table, page, report
from experiments.reporting.summary import summary


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "table2-small"
    folder.mkdir(parents=True)
    table = "Four methods.\n\n| Model | Accuracy |\n| :-- | --: |\n| ResNet50 | 50.8 |\n"
    (folder / "table.md").write_text(table)
    (folder / "claims.md").write_text("- **It holds:** or not.\n")
    (folder / "runs.csv").write_text(
        "model,dataset,method,seed,status,final_accuracy,tflops,machine,train_seconds\n"
    )
    Figure(figsize=(1, 1)).savefig(folder / "accuracy_against_compute.png")
    other = tmp_path / "results" / "fig4-small"
    other.mkdir()
    Figure(figsize=(1, 1)).savefig(other / "fig4.png")
    (other / "fig4.md").write_text("![fig4](fig4.png)\n\n# A heading\n\nText with <b> in it.\n")
    return tmp_path / "results"


def test_it_holds_every_result_and_says_what_was_not_run(results: Path) -> None:
    text = report(results, "small")
    assert text.index("## The paper's claims") < text.index("## Overview")
    assert text.index("## Overview") < text.index("## Claims of all") < text.index("## Table 2")
    assert text.index("## Table 2") < text.index("## Figure 4")
    assert "| ResNet50 | 50.8 |" in text
    assert "- **It holds:** or not." in text
    assert "### A heading" in text
    overview_of = text.partition("## Overview")[2]
    assert overview_of.count("| not run |") == len(SECTIONS) - 2
    assert "| `make table1 SCALE=small` |" in text and "| `make bench` |" in text


def test_every_picture_is_shown_once(results: Path) -> None:
    text = report(results, "small")
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures == ["table2-small/accuracy_against_compute.png", "fig4-small/fig4.png"]


def test_the_first_page_is_the_main_figure_and_table(results: Path) -> None:
    first, _, _ = report(results, "small").partition("## Overview")
    assert "![Accuracy against compute](table2-small/accuracy_against_compute.png)" in first
    assert "Nothing has been run yet." in first
    folder = results / "compute-small"
    folder.mkdir()
    for name in ("table.csv", "differences.csv", "runs.csv"):
        shutil.copy(ROOT / "results/plans-small" / name, folder)
    Figure(figsize=(1, 1)).savefig(folder / "accuracy_against_compute.png")
    first, _, rest = report(results, "small").partition("## Overview")
    assert "![Accuracy against compute](compute-small/accuracy_against_compute.png)" in first
    assert "| EfficientNet-Lite0 on CIFAR-100 |" in first
    assert first.count("\n- ") == 3
    assert "(table2-small/accuracy_against_compute.png)" in rest


def test_the_page_asks_nobody_for_anything(results: Path) -> None:
    made = page(report(results, "small"), results)
    assert made.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', made)
    assert "http" not in made.partition("</style>")[2]
    assert "<script" not in made
    assert "&lt;b&gt;" in made
    assert '<div class="table"><table>' in made
    assert made.count('<a href="#s') == made.count("<h2 id=") == 7


def test_another_scale_is_another_report(results: Path) -> None:
    assert "## Table 2" not in report(results, "paper")


def test_the_project_s_own_report_is_that_of_its_results() -> None:
    results = ROOT / "results"
    assert (results / "headline.md").read_text() == main_table(results, "small")
    assert (results / "summary.md").read_text() == summary(results, "small")
    assert (results / "full_training.md").read_text() == full_training(results, "small")
    assert (results / "overview.md").read_text() == overview(results, "small")
    assert (results / "paper_claims.md").read_text() == paper_claims(results, "small")
    assert (results / "claims.md").read_text() == overall_claims(results, "small")
    assert (results / "report.md").read_text() == report(results, "small")
    made = page(report(results, "small"), results)
    assert "Table 2: four methods, fine-tuning</h2>" in made
    assert not re.search(r'(src|href)="(?!data:|#)', made)


def test_sections_have_a_folder_each(results: Path) -> None:
    for name in ("step_time", "step_time-h100", "step_time-h200-nvl", "small_steps-h100"):
        (results / f"bench-{name}").mkdir()
    found = {section.folder("small"): section.heading for section in sections(results)}
    assert len(found) == len(SECTIONS) + 2
    assert found["bench-step_time"] == "Step time with frozen layers"
    assert found["bench-step_time-h200-nvl"] == "Step time with frozen layers (H200 NVL)"
    assert found["bench-small_steps-h100"] == "Step time, small batches on a GPU (H100)"
    assert "bench-small_steps" not in found
