"""Tests of the claims: paired differences and their intervals."""

import pandas as pd
import pytest

from experiments.reporting.claims import claims


def frame(accuracies: dict[str, list[float]], compute: float = 0.5) -> pd.DataFrame:
    """Returns runs of ResNet50 on CIFAR-10 with seeds 0, 1, ...; accuracies are in percent."""
    rows = [
        {
            **{"model": "resnet50", "dataset": "cifar10", "method": method, "seed": seed},
            **{"status": "finished", "machine": "one", "train_seconds": 1.0},
            "final_accuracy": accuracy / 100,
            "tflops": 1.0 if method == "full" else compute,
        }
        for method, found in accuracies.items()
        for seed, accuracy in enumerate(found)
    ]
    return pd.DataFrame(rows)


FULL = [90.0, 91.0, 92.0]


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ([90.1, 91.1, 92.1], "holds for ResNet50 on CIFAR-10 (+0.10 ± 0.00)"),
        ([89.0, 90.0, 91.0], "does not hold for ResNet50 on CIFAR-10 (-1.00 ± 0.00)"),
        ([89.0, 91.0, 93.0], "is inconclusive for ResNet50 on CIFAR-10 (+0.00 ± 2.48)"),
    ],
)
def test_no_loss_is_told_by_the_interval_of_paired_differences(
    own: list[float], verdict: str
) -> None:
    first, *_ = claims(frame({"full": FULL, "smartfrz": own})).splitlines()
    assert first == (
        f"- **SmartFRZ loses at most 0.3 points relative to full training:** {verdict}."
    )


def test_one_seed_tells_nothing_of_accuracy() -> None:
    first, *_ = claims(frame({"full": [90.0], "smartfrz": [95.0]})).splitlines()
    assert "is inconclusive for ResNet50 on CIFAR-10 (+5.00, one seed)" in first


@pytest.mark.parametrize(("compute", "verdict"), [(0.603, "holds"), (0.61, "does not hold")])
def test_compute_is_a_matter_of_its_mean(compute: float, verdict: str) -> None:
    lines = claims(frame({"full": FULL, "smartfrz": FULL}, compute)).splitlines()
    assert f"SmartFRZ spends at most 60% of full training's compute:** {verdict} for" in lines[1]


def test_rivals_are_compared_where_they_were_run() -> None:
    runs = frame({"full": FULL, "smartfrz": FULL, "linear": [89.0, 90.0, 91.5]})
    lines = claims(runs).splitlines()
    assert len(lines) == 4
    assert "**SmartFRZ is more accurate than Linear freezing:** holds for" in lines[2]


def test_linear_freezing_is_held_against_a_schedule_cut_short() -> None:
    runs = {"full": FULL, "smartfrz": FULL, "linear": FULL, "shorter": [90.0, 91.5, 91.5]}
    *_, last, _ = claims(frame(runs)).splitlines()
    start = "- **Linear freezing is more accurate than Shorter training:** is inconclusive"
    assert last.startswith(start)
    assert last.endswith("for ResNet50 on CIFAR-10 (+0.00 ± 1.24).")


def test_the_average_over_workloads_takes_each_as_one_value() -> None:
    gains = {"resnet50": [2.0, 3.0, 4.0], "vgg11": [0.5, 1.0, 1.5], "mobilenet_v2": [2.0, 2.0, 2.0]}
    parts = [
        frame({"full": FULL, "smartfrz": [a + g for a, g in zip(FULL, gain, strict=True)]}).assign(
            model=model
        )
        for model, gain in gains.items()
    ]
    first, *_ = claims(pd.concat(parts, ignore_index=True)).splitlines()
    half = 4.303 * 1.0 / 3**0.5  # of 3, 1 and 2
    assert f"the average over these 3 (+2.00 ± {half:.2f})" in first
    assert "is inconclusive for" in first.partition("the average")[0]


def test_without_smartfrz_there_is_nothing_to_say() -> None:
    assert claims(frame({"full": FULL})) == ""


def test_runs_that_started_from_other_weights_are_not_compared() -> None:
    runs = frame({"full": FULL, "smartfrz": FULL, "linear": [89.0, 90.0, 50.0]})
    other = (runs["method"] == "linear") & (runs["seed"] == 2)
    runs["pretrained_accuracy"] = 0.33 + 0.01 * other
    _, _, line, _ = claims(runs).splitlines()
    assert "than Linear freezing:** holds for ResNet50 on CIFAR-10 (+1.00 ± 0.00)" in line


def test_rows_within_a_budget_are_claimed_for_among_themselves() -> None:
    runs = {"full": FULL, "smartfrz": FULL, "linear": [89.0, 90.0, 91.5]}
    within = {"smartfrz 60%": [90.5, 91.5, 92.5], "linear 60%": [91.0, 92.0, 93.0]}
    alone, both = claims(frame(runs)), claims(frame({**runs, **within}))
    assert both.startswith(alone)
    heading, *lines = both.removeprefix(alone).strip().splitlines()
    assert heading == "Within 60% of full training's compute:"
    expected = claims(frame({"full": FULL, **{k[:-4]: v for k, v in within.items()}}))
    assert "\n".join(lines).strip() == expected.strip()
    assert "than Linear freezing:** does not hold" in expected


@pytest.mark.parametrize(
    ("own", "compute", "cheap", "ahead", "both"),
    [
        (90.5, 0.60, True, True, True),
        (90.2, 0.60, True, False, False),
        (90.5, 0.61, False, True, False),
        (89.6, 0.60, False, False, False),
    ],
)
def test_the_last_line_counts_by_the_means(
    own: float, compute: float, cheap: bool, ahead: bool, both: bool
) -> None:
    runs = {"full": [90.0], "smartfrz": [own], "autofreeze": [90.0], "linear": [90.3]}
    count = {True: "1 (ResNet50 on CIFAR-10)", False: "none"}
    line = f"- **By the means alone:** the first two claims hold for {count[cheap]} of 1 workload"
    *_, last = claims(frame(runs, compute)).splitlines()
    rivals = f"SmartFRZ is more accurate than Linear freezing and AutoFreeze for {count[ahead]}"
    assert last == f"{line}; {rivals}; all of these hold for {count[both]}."
    del runs["linear"], runs["autofreeze"]
    *_, last = claims(frame(runs, compute)).splitlines()
    assert last == f"{line}."
