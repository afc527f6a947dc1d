"""Tests of the tables of runs: counts, comparisons, rendering and captions."""

import math
import re
import statistics

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.reporting.labels import display_name
from experiments.reporting.tables import caption, to_latex, to_markdown, to_text, with_ratios
from tests.helpers.table_runs import PAPER, TABLE_2, plan, row, run, table


def accuracy_cell(runs, method="smartfrz", seeds=3):
    line = to_text(table(runs, plan(method, seeds=seeds))).splitlines()[-1]
    return re.split(r"\s{2,}", line)[3]


# The paper's numbers


@pytest.mark.parametrize(
    ("number", "cell", "values"),
    [
        (1, ("vgg11", "cifar100", "similarity"), (74.89, None, None, 12811)),
        (2, ("resnet50", "cifar10", "smartfrz"), (96.12, 0.19, 1955, 8122)),
        (2, ("mobilenet_v2", "cifar100", "autofreeze"), (76.43, 0.42, 1248, 652)),
        (2, ("deit_tiny", "cifar100", "linear"), (83.89, 0.19, 9956, 17542)),
        (3, ("resnet50", "imagenet", "smartfrz"), (76.80, 0.26, 621 * 60, None)),
        (6, ("bert_base", "cola", "autofreeze"), (56.05, 0.21, 431, None)),
        (7, ("deit_tiny", "imagenet", "full"), (72.21, 0.12, 2190 * 60, None)),
        (8, ("resnet50", "cifar10", "linear t0=0.6"), (95.97, None, 2015, None)),
        (9, ("resnet50", "cifar10", "autofreeze M=4"), (96.24, None, 2424, None)),
    ],
)
def test_the_papers_numbers(number, cell, values):
    rows = PAPER[PAPER["table"] == number].set_index(["model", "dataset", "method"])
    read = rows.loc[cell, ["accuracy", "accuracy_std", "seconds", "tflops"]]
    assert [None if math.isnan(value) else value for value in read] == list(values)


def test_the_papers_tables_are_whole():
    rows = PAPER.groupby("table").size().to_dict()
    assert rows == {1: 4, 2: 32, 3: 8, 6: 8, 7: 4, 8: 4, 9: 4}
    assert not PAPER.duplicated(["table", "model", "dataset", "method"]).any()


def test_the_papers_claims_follow_from_its_numbers():
    """Section 4.2: at most 1.4 % over linear freezing and 24.7 % less compute than AutoFreeze.

    From scratch, 22.4 % less time than full training on average.
    """
    best = TABLE_2.pivot(index=["model", "dataset"], columns="method")
    gain = best["accuracy"]["smartfrz"] - best["accuracy"]["linear"]
    assert gain.max() == pytest.approx(1.4, abs=0.001)
    compute = 1 - best["tflops"]["smartfrz"] / best["tflops"]["autofreeze"]
    assert compute.max() == pytest.approx(0.247, abs=0.001)
    scratch = PAPER[PAPER["table"] == 3].pivot(index="dataset", columns="method", values="seconds")
    assert (1 - scratch["smartfrz"] / scratch["full"]).mean() == pytest.approx(0.224, abs=0.001)


def test_the_papers_ratios_stand_next_to_ours():
    cells = table([], plan("full", "smartfrz"), TABLE_2).set_index("method")
    ours = cells.loc["smartfrz"]
    assert ours["paper_accuracy"] == 96.12
    assert ours["paper_accuracy_std"] == 0.19
    assert ours["paper_time_ratio"] == 1955 / 2594
    assert ours["paper_compute_ratio"] == 8122 / 12360
    assert cells.loc["full", "paper_time_ratio"] == 1


def test_what_the_paper_lacks_is_blank():
    both = plan("full", seeds=1) + plan("full", dataset="digits", seeds=1)
    text = to_text(table([run(dataset="digits")], both, TABLE_2))
    assert re.split(r"\s{2,}", text.splitlines()[-1])[-3:] == ["\N{EN DASH}"] * 3


def test_a_table_that_the_paper_lacks_has_no_columns_for_it():
    digits = plan("full", dataset="digits", seeds=1)
    text = to_text(table([run(dataset="digits")], digits, TABLE_2))
    assert "Paper" not in text
    assert re.split(r"\s{2,}", text.splitlines()[-1])[-2:] == ["1.00", "10"]


def test_times_stand_beside_the_papers_alone():
    """Runs side by side slow each other down, so that only benchmarks compare times."""
    cells = table([run(dataset="digits")], plan("full", dataset="digits", seeds=1), TABLE_2)
    assert "Time" not in to_markdown(cells, "") and "time" not in to_latex(cells, "").lower()
    assert "time" not in caption(pd.DataFrame([run()]), "T.", False)
    assert "Time" in to_markdown(rendered(), "")
    assert "where other runs may have slowed it down" in caption(pd.DataFrame([run()]), "T.", True)
    no_times = table([run()], plan("full"), TABLE_2.assign(seconds=math.nan))
    header = to_markdown(no_times, "").splitlines()[2]
    assert "Paper: compute" in header and "ime" not in header


def test_differences_are_those_of_the_same_seed():
    full = [run(seed=seed, accuracy=accuracy) for seed, accuracy in enumerate((0.5, 0.7, 0.9))]
    ours = [run("smartfrz", seed, accuracy) for seed, accuracy in ((0, 0.51), (2, 0.88), (3, 0.1))]
    found = row(full + ours, "smartfrz", seeds=4)
    assert found["difference_mean"] == pytest.approx(-0.5)
    assert found["difference_std"] == pytest.approx(1.5 * math.sqrt(2))
    assert row(ours, "smartfrz", seeds=4)["difference_mean"] != 0
    assert "| \N{MINUS SIGN}0.50 ± 2.12 |" in to_markdown(
        table(full + ours, plan("full", "smartfrz", seeds=4)), ""
    )


def test_two_of_the_papers_tables_at_once_are_refused():
    with pytest.raises(ValueError, match="one of the paper's tables"):
        table([], plan("full"), PAPER)


# Rows and counts


def test_rows_follow_the_plan():
    planned = plan("smartfrz", "full") + plan("full", model="vgg11")
    cells = table([run()], planned)
    assert cells["model"].tolist() == ["resnet50", "resnet50", "vgg11"]
    assert cells["method"].tolist() == ["smartfrz", "full", "full"]
    assert cells["planned"].tolist() == [3, 3, 3]
    assert cells["n"].tolist() == [0, 1, 0]


def test_no_run_at_all():
    assert accuracy_cell([], "smartfrz", seeds=5) == "not run (0/5)"


def test_partly_run():
    runs = [run("smartfrz", 0, 0.60), run("smartfrz", 1, 0.62), run("smartfrz", 2, 0.64)]
    assert accuracy_cell(runs, seeds=5) == "62.00 ± 2.00 (3/5)"
    assert accuracy_cell(runs, seeds=3) == "62.00 ± 2.00"


def test_methods_without_a_run_share_the_last_rows_in_markdown():
    planned = [*plan("random", "full", "svcca"), *plan("paced", "linear", seeds=1)]
    *_, full, three_seeds, one_seed = to_markdown(table([run()], planned), "").splitlines()
    assert full.startswith("| ResNet50 | CIFAR-10 | Full training | 90.00 (1/3) |")
    assert three_seeds.startswith("|  |  | Random order, SVCCA | not run (0/3) |")
    assert one_seed.startswith("|  |  | Even pace, Linear freezing | not run (0/1) |")


def test_one_seed_has_no_spread():
    assert accuracy_cell([run("smartfrz", accuracy=0.6)], seeds=1) == "60.00"


def diverged(seed, method="smartfrz"):
    return run(method, seed, math.nan, seconds=1.0, tflops=0.1, status="diverged")


def test_diverged_runs_count_and_show():
    runs = [run("smartfrz", 0, 0.6), diverged(1), run("smartfrz", 2, 0.7)]
    cell = row(runs, "smartfrz")
    assert (cell["n"], cell["diverged"]) == (3, 1)
    assert cell["accuracy_mean"] == pytest.approx(65)
    assert accuracy_cell(runs) == "65.00 ± 7.07 (diverged 1/3)"
    assert accuracy_cell(runs[:2]) == "60.00 (2/3, diverged 1/2)"
    assert accuracy_cell([diverged(seed) for seed in range(3)]) == "diverged 3/3"
    assert accuracy_cell([diverged(0)]) == "diverged 1/1 (1/3)"


def test_runs_that_are_not_planned_are_left_out():
    runs = [run("smartfrz", seed, 0.5 + seed / 10) for seed in range(4)]
    assert row(runs, "smartfrz", seeds=2)["accuracy_mean"] == pytest.approx(55)


def test_a_cell_run_twice_is_refused():
    with pytest.raises(ValueError, match="seed 0 occurs more than once"):
        table([run(), run(epochs=5.0)], plan("full"))


def test_epochs_are_those_done_and_averaged():
    runs = [run("linear", 0, steps=140), run("linear", 1, steps=160)]
    assert row(runs, "linear")["epochs"] == 7.5


# Ratios


def test_ratios_are_to_the_same_seed():
    runs = [
        *(run("full", seed, seconds=100.0 * (seed + 1), tflops=10.0) for seed in range(3)),
        run("smartfrz", 0, seconds=90.0, tflops=4.0),
        run("smartfrz", 1, seconds=100.0, tflops=5.0),
        run("smartfrz", 2, seconds=180.0, tflops=9.0),
    ]
    cell = row(runs, "smartfrz")
    assert cell["time_ratio"] == pytest.approx(0.6)  # the median of .9, .5 and .6
    assert cell["compute_ratio"] == pytest.approx(0.6)  # the mean of .4, .5 and .9
    assert row(runs, "full")["time_ratio"] == 1


def test_a_seed_without_full_training_has_no_ratio():
    runs = [run("full", 0), run("smartfrz", 0, seconds=50.0), run("smartfrz", 1, seconds=1.0)]
    cell = row(runs, "smartfrz")
    assert cell["time_ratio"] == 0.5
    assert cell["n"] == 2


def test_time_is_compared_within_a_machine_only():
    gpu = {"machine": "NVIDIA H100"}
    runs = [
        run("full", 0, seconds=100.0, tflops=10.0),
        run("full", 1, seconds=10.0, tflops=10.0, **gpu),
        run("smartfrz", 0, seconds=2.0, tflops=6.0, **gpu),
        run("smartfrz", 1, seconds=8.0, tflops=8.0, **gpu),
    ]
    cell = row(runs, "smartfrz", seeds=2)
    assert cell["time_ratio"] == pytest.approx(0.8)
    assert cell["compute_ratio"] == pytest.approx(0.7)


def test_diverged_runs_have_no_ratio():
    runs = [diverged(0, "full"), run("smartfrz", 0), run("full", 1), diverged(1)]
    ratios = with_ratios(pd.DataFrame(runs))[["time_ratio", "compute_ratio"]]
    assert ratios.isna().all(axis=1).tolist() == [True, True, False, True]


def test_frames_of_several_files_may_repeat_their_index():
    runs = [run("full"), run("smartfrz", seconds=40.0), diverged(1)]
    frame = pd.concat([pd.DataFrame([each]) for each in runs])
    assert with_ratios(frame)["time_ratio"].fillna(-1).tolist() == [1.0, 0.4, -1]


accuracies = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=6)


@given(accuracies, st.permutations(range(6)))
def test_counts_add_up_whatever_happened(values, order):
    runs = [
        run("smartfrz", seed) if value is None else run("smartfrz", seed, value)
        for seed, value in enumerate(values)
    ]
    for each, value in zip(runs, values, strict=True):
        if value is None:
            each |= {"status": "diverged", "final_accuracy": math.nan}
    shuffled = [runs[i] for i in order if i < len(runs)]
    cell = row(shuffled, "smartfrz", seeds=6)
    finished = [100 * value for value in values if value is not None]
    assert (cell["n"], cell["diverged"]) == (len(values), len(values) - len(finished))
    if finished:
        assert cell["accuracy_mean"] == pytest.approx(statistics.fmean(finished))
    else:
        assert math.isnan(cell["accuracy_mean"])
    if len(finished) > 1:
        spread = pytest.approx(statistics.stdev(finished), abs=1e-9)
        assert cell["accuracy_std"] == spread


# Rendering


def test_names():
    assert display_name("linear") == "Linear freezing"
    assert display_name("linear t0=0.3") == "Linear freezing t0=0.3"
    assert display_name("my_method") == "my_method"


def rendered():
    runs = [run("full"), run("a|b_c 50%", seconds=75.0, accuracy=0.851)]
    return table(runs, plan("full", "a|b_c 50%", seeds=1), TABLE_2)


def test_markdown():
    assert to_markdown(rendered(), "A_b: 5 < 6.") == "\n".join(
        [
            r"A\_b: 5 \< 6.",
            "",
            "| Model | Dataset | Method | Accuracy (%) | Difference | Time | Compute | Epochs | "
            "Paper: accuracy (%) | Paper: time | Paper: compute |",
            "| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
            "| ResNet50 | CIFAR-10 | Full training | 90.00 | \N{EN DASH} | 1.00 | 1.00 | 10 "
            "| 96.10 ± 0.12 | "
            "1.00 | 1.00 |",
            "|  |  | a\\|b\\_c 50% | 85.10 | \N{MINUS SIGN}4.90 | 0.75 | 1.00 | 10 "
            "| \N{EN DASH} | \N{EN DASH} | \N{EN DASH} |",
            "",
        ]
    )


def test_latex():
    latex = to_latex(rendered(), r"50% of {A_b} & C:\d ~ ^ # $ ±")
    assert (
        r"\caption{50\% of \{A\_b\} \& C:\textbackslash{}d \textasciitilde{} \textasciicircum{}"
        r" \# \$ $\pm$}" in latex
    )
    assert r" &  & a|b\_c 50\% & 85.10 & $-$4.90 & 0.75 & 1.00 & 10 & -- & -- & -- \\" in latex
    assert r"10 & 96.10 $\pm$ 0.12 & 1.00 & 1.00 \\" in latex
    assert [latex.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


def test_latex_parts_models_by_a_rule():
    planned = plan("full") + plan("full", model="vgg11")
    assert to_latex(table([], planned), "").count(r"\midrule") == 2


def test_text_lines_up():
    lines = to_text(rendered()).splitlines()
    assert lines[0].index("Method") == lines[2].index("Full training")
    assert len({len(line) for line in lines}) == 1


def test_runs_that_were_edited_by_hand_show():
    runs = [run(seed=0), run(seed=1, is_intact=False), run(seed=2)]
    made = table(runs, plan("full"))
    assert made["edited"].tolist() == [1]
    assert "90.00 ± 0.00 (edited by hand 1/3)" in to_markdown(made, "A table.")
