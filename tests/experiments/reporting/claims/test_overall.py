"""Tests of the claims of all tables together."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.files import write_csv
from experiments.reporting.claims.tables import claims, overall_claims

GAINS = {"table2": [0.0, 0.2, 0.4], "table3": [3.0, 3.02, 3.04], "table6": [-1.0, 0.0, 1.0]}


def runs(gains: list[float]) -> pd.DataFrame:
    """Returns runs of full training and of SmartFRZ with its gains in points."""
    rows = [
        {
            **{"model": "vgg11", "dataset": "cifar10", "method": method, "seed": seed},
            **{"status": "finished", "machine": "one", "train_seconds": 1.0, "tflops": 1.0},
            "final_accuracy": 0.5 + (method == "smartfrz") * gain / 100,
        }
        for method in ("full", "smartfrz")
        for seed, gain in enumerate(gains)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for table, gains in {**GAINS, "policies": GAINS["table2"]}.items():
        folder = tmp_path / f"{table}-small"
        folder.mkdir()
        write_csv(runs(gains), folder / "runs.csv")
        (folder / "claims.md").write_text(claims(runs(gains)))
    (tmp_path / "table8-small").mkdir()
    write_csv(runs([1.0]), tmp_path / "table8-small" / "runs.csv")  # a table without claims
    return tmp_path


def test_comparisons_are_corrected_together_and_shared_ones_count_once(results: Path) -> None:
    text = overall_claims(results, "small")
    assert "1 in table2-small, 1 in policies-small, 1 in table3-small, 1 in table6-small." in text
    assert "3 comparisons were tested" in text
    assert "The claim holds in 1 of them and does not hold in 0" in text
    assert "these numbers would be 2 and 0." in text
    *_, last = text.splitlines()
    assert last == (
        "- **SmartFRZ loses at most 0.3 points relative to full training:** holds for "
        "VGG11 on CIFAR-10 in table3-small (+3.02 ± 0.05, p < 0.001)."
    )


def test_without_a_decided_claim_it_says_so(results: Path) -> None:
    assert overall_claims(results, "paper") == "Nothing has been run yet.\n"
    for table in ("table3", "table6", "policies"):
        (results / f"{table}-small" / "claims.md").unlink()
    write_csv(runs([0.0, 1.0, 2.0]), results / "table2-small" / "runs.csv")
    assert overall_claims(results, "small").endswith("\nNo claim is decided.\n")
