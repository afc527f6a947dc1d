"""Tests of the paper's claims, one by one: the verdict on each, and what it rests on."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.files import write_csv
from experiments.reporting.claims.paper import paper_claims

LOSS = "In fine-tuning, SmartFRZ does not lose accuracy"
SCRATCH = "From scratch, SmartFRZ does not lose accuracy"


def write_runs(folder: Path, gains: dict[str, list[float]]) -> None:
    """Writes runs of full training and of SmartFRZ, by data set, with its gains in points."""
    rows = [
        {
            **{"model": "vgg11", "dataset": dataset, "method": method, "seed": seed},
            **{"status": "finished", "machine": "one", "train_seconds": 1.0, "tflops": 1.0},
            "final_accuracy": 0.5 + (method == "smartfrz") * gain / 100,
        }
        for dataset, of_seeds in gains.items()
        for method in ("full", "smartfrz")
        for seed, gain in enumerate(of_seeds)
    ]
    folder.mkdir()
    write_csv(pd.DataFrame(rows), folder / "runs.csv")


def verdict(results: Path, claim: str) -> tuple[str, str]:
    """Returns what was found about a claim, and the verdict."""
    (line,) = (line for line in paper_claims(results, "small").splitlines() if f"| {claim}" in line)
    *_, found, said, _ = (cell.strip() for cell in line.split("|"))
    return found, said


def test_without_results_nothing_was_run(tmp_path: Path) -> None:
    lines = paper_claims(tmp_path, "small").splitlines()[4:]
    assert len(lines) == 16
    assert all(line.endswith("|  | not run |") for line in lines)


def test_a_claim_on_accuracies_is_tested_by_the_mean_over_workloads(tmp_path: Path) -> None:
    write_runs(tmp_path / "table2-small", {"cifar10": [0.9, 1.1], "cifar100": [1.0, 1.1]})
    write_runs(tmp_path / "table6-small", {"mrpc": [1.0, 1.0]})
    write_runs(tmp_path / "table3-small", {"cifar10": [0.0, -2.0], "cifar100": [-2.0, -1.0]})
    found, said = verdict(tmp_path, LOSS)
    assert said == "holds"
    assert found.startswith("3 workloads (+1.02 ± 0.07, p ")
    assert verdict(tmp_path, SCRATCH)[1] == "inconclusive"
    assert verdict(tmp_path, "It is more accurate than AutoFreeze") == ("", "not run")


def test_the_tests_of_the_page_are_corrected_together(tmp_path: Path) -> None:
    gains = {"cifar10": [0.5], "cifar100": [0.7], "digits": [0.2]}
    write_runs(tmp_path / "table2-small", gains)
    alone = verdict(tmp_path, LOSS)
    write_runs(tmp_path / "table3-small", {**gains, "digits": [0.25]})
    together = verdict(tmp_path, LOSS)
    assert (alone[1], together[1]) == ("holds", "inconclusive")


def test_a_single_workload_with_a_single_seed_is_not_tested(tmp_path: Path) -> None:
    write_runs(tmp_path / "table2-small", {"cifar10": [1.0]})
    assert verdict(tmp_path, LOSS) == ("VGG11 on CIFAR-10 (+1.00, one seed)", "inconclusive")


FILES = {
    "In fine-tuning, it spends": ("table2-small/table", "method,compute_ratio"),
    "Freezing by similarity": ("table1-small/table", "method,difference_mean"),
    "The length of": ("table4-small/table", "model,dataset,method,difference_mean"),
    "Nor does": ("table5-small/table", "model,dataset,method,difference_mean"),
    "The gradients": ("fig3-small/layers", "distance,chance"),
    "Layers at the front": ("fig4-small/order", "correlation,chance,back_before_front"),
    "The predictor carries": ("evidence-small/table", "candidate,within_moment"),
    "Memory falls": ("fig5-small/memory", "model,dataset,seed,stock"),
    "SmartFRZ's own cost": ("overhead-small/quantities", "quantity,here"),
    "Time falls almost": ("bench-whole_runs/whole_runs", "time_over_compute"),
}
RIVAL = ("outputs,0.9", '"clock, depth and learning rate",0.8')


@pytest.mark.parametrize(
    ("claim", "rows", "said"),
    [
        ("In fine-tuning, it spends", ["smartfrz,0.6004"], "holds"),
        ("In fine-tuning, it spends", ["smartfrz,0.61"], "does not hold"),
        ("In fine-tuning, it spends", ["smartfrz,"], "not run"),
        ("Freezing by similarity", ["full,0", "similarity,0.1", "similarity,0.11"], "holds"),
        ("Freezing by similarity", ["full,0", "similarity,0.1", "similarity,0.2"], "inconclusive"),
        ("Freezing by similarity", ["similarity,-5.1", "similarity,-5.2"], "does not hold"),
        (
            "The length of",
            ["a,b,smartfrz 1,0.5", "a,b,smartfrz 2,1.4", "a,c,smartfrz 1,9"],
            "holds",
        ),
        ("The length of", ["a,b,smartfrz 1,0.5", "a,b,smartfrz 2,1.6"], "does not hold"),
        ("Nor does", ["a,b,full,0", "a,b,smartfrz 2,"], "not run"),
        ("The gradients", ["0.1,0.2", "0.1,0.2"], "holds"),
        ("The gradients", ["0.3,0.2", "0.1,0.2"], "does not hold"),
        ("Layers at the front", ["0.8,0.3,0.1"], "holds"),
        ("Layers at the front", ["0.2,0.3,0.1"], "does not hold"),
        ("Layers at the front", ["1.0,0.3,0.0"], "does not hold"),
        ("The predictor carries", ["raw,0.6", *RIVAL], "does not hold"),
        ("The predictor carries", ["raw,0.9", *RIVAL], "holds"),
        ("Memory falls", ["a,b,0,10", "a,b,0,5"], "holds"),
        ("Memory falls", ["a,b,0,10", "a,b,0,5", "a,b,1,10", "a,b,1,10"], "does not hold"),
        ("SmartFRZ's own cost", ["Share of time,0.9", "A step,280"], "holds"),
        ("SmartFRZ's own cost", ["Share of time,1.1"], "does not hold"),
        ("Time falls almost", ["0.95", "1.3"], "holds"),
        ("Time falls almost", ["0.85", "1.3"], "does not hold"),
    ],
)
def test_other_claims_follow_from_numbers(
    tmp_path: Path, claim: str, rows: list[str], said: str
) -> None:
    file, header = FILES[claim]
    path = (tmp_path / file).with_suffix(".csv")
    path.parent.mkdir()
    path.write_text("\n".join([header, *rows, ""]))
    assert verdict(tmp_path, claim)[1] == said
