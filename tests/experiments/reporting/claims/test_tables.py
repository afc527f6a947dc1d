"""Tests of the claims: paired differences, their tests, and the correction for their number."""

import pandas as pd
import pytest

from experiments.reporting.claims.tables import claims


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
LOSS = "- **SmartFRZ loses at most 0.3 points relative to full training:** "


def line(text: str, start: str) -> str:
    """Returns the one line of the claims that starts so, without its start."""
    (found,) = (each for each in text.splitlines() if each.startswith(start))
    return found.removeprefix(start)


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ([90.1, 91.1, 92.1], "holds for ResNet50 on CIFAR-10 (+0.10 ± 0.00, p < 0.001)"),
        ([89.0, 90.0, 91.0], "does not hold for ResNet50 on CIFAR-10 (-1.00 ± 0.00, p < 0.001)"),
        ([89.0, 91.0, 93.0], "is inconclusive for ResNet50 on CIFAR-10 (+0.00 ± 2.48, p = 0.655)"),
    ],
)
def test_no_loss_is_told_by_a_test_of_paired_differences(own: list[float], verdict: str) -> None:
    assert line(claims(frame({"full": FULL, "smartfrz": own})), LOSS) == f"{verdict}."


def test_one_seed_is_not_tested_and_not_counted() -> None:
    text = claims(frame({"full": [90.0], "smartfrz": [95.0]}))
    assert text.startswith("No comparison was tested")
    assert line(text, LOSS) == "is not tested for ResNet50 on CIFAR-10 (+5.00, one seed)."


def test_differences_without_spread_hold_beyond_the_bound_only() -> None:
    runs = {"full": FULL, "smartfrz": [89.7, 90.7, 91.7], "shorter": [89.7, 90.7, 91.7]}
    text = claims(frame(runs))
    same = "is inconclusive for ResNet50 on CIFAR-10 ({} ± 0.00, p = 1)."
    assert line(text, LOSS) == same.format("-0.30")
    assert line(text, "- **SmartFRZ is more accurate than Shorter training:** ") == same.format(
        "+0.00"
    )
    assert "loses at most 0.3 points and spends at most 60% for 1 (ResNet50" in text


@pytest.mark.parametrize(
    ("compute", "verdict"),
    [(0.6, "holds"), (0.6003, "does not hold"), (0.604, "does not hold"), (0.61, "does not hold")],
)
def test_compute_is_a_matter_of_its_exact_mean(compute: float, verdict: str) -> None:
    text = claims(frame({"full": FULL, "smartfrz": FULL}, compute))
    start = "- **SmartFRZ spends at most 60% of full training's compute, by the mean:** "
    assert line(text, start) == f"{verdict} for ResNet50 on CIFAR-10 ({compute:.4f})."
    (last,) = (each for each in text.splitlines() if "By the means alone" in each)
    assert ("1 (ResNet50 on CIFAR-10)" in last) is (verdict == "holds")


def test_without_full_training_nothing_is_compared_with_it() -> None:
    text = claims(frame({"smartfrz": FULL, "linear": [89.0, 90.0, 91.5]}))
    assert line(text, LOSS) == "is not tested for ResNet50 on CIFAR-10 (not run)."
    assert "by the mean:** is not tested for ResNet50 on CIFAR-10 (not run)." in text
    assert text.startswith("1 comparison was tested")


def test_rivals_are_compared_where_they_were_run() -> None:
    runs = frame({"full": FULL, "smartfrz": FULL, "linear": [89.0, 90.0, 91.5]})
    text = claims(runs)
    assert line(text, "- **SmartFRZ is more accurate than Linear freezing:** ").startswith("holds")
    assert "AutoFreeze" not in text


def test_linear_freezing_is_held_against_a_schedule_cut_short() -> None:
    runs = {"full": FULL, "smartfrz": FULL, "linear": FULL, "shorter": [90.0, 91.5, 91.5]}
    found = line(claims(frame(runs)), "- **Linear freezing is more accurate than Shorter training")
    assert found == ":** is inconclusive for ResNet50 on CIFAR-10 (+0.00 ± 1.24, p = 1)."


def workloads(gains: dict[str, list[float]]) -> pd.DataFrame:
    """Returns runs of full training and of SmartFRZ, with its gains in points, by network."""
    parts = [
        frame({"full": FULL, "smartfrz": [a + g for a, g in zip(FULL, gain, strict=True)]}).assign(
            model=model
        )
        for model, gain in gains.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_average_over_workloads_takes_each_as_one_value() -> None:
    gains = {"resnet50": [2.0, 3.0, 4.0], "vgg11": [0.5, 1.0, 1.5], "mobilenet_v2": [2.0, 2.0, 2.0]}
    found = line(claims(workloads(gains)), LOSS)
    half = 4.303 * 1.0 / 3**0.5  # of 3, 1 and 2
    assert f"the average over these 3 (+2.00 ± {half:.2f}, " in found.partition("inconclusive")[2]


def test_workloads_without_differences_are_not_in_the_average() -> None:
    gains = {"resnet50": [2.0, 3.0, 4.0], "vgg11": [0.5, 1.0, 1.5], "mobilenet_v2": [2.0, 2.0, 2.0]}
    runs = workloads(gains)
    runs = runs[(runs["model"] != "mobilenet_v2") | (runs["method"] != "full")]
    found = line(claims(runs), LOSS)
    assert "the average over these 2 (+2.00" in found
    assert found.endswith("is not tested for MobileNetV2 on CIFAR-10 (not run).")


def test_verdicts_are_corrected_for_the_number_of_tests() -> None:
    gain = [0.4, 0.5, 0.6]  # t = 13.9 against the bound of -0.3, and p = 0.005
    alone = claims(workloads({"resnet50": gain}))
    assert line(alone, LOSS) == "holds for ResNet50 on CIFAR-10 (+0.50 ± 0.25, p = 0.00517)."
    models = ("vgg11", "mobilenet_v2", "deit_tiny", "plain", "mobile", "attention", "residual")
    rest = {
        model: [m - 30, m, m + 30] for model, m in zip(models, [5, -5, 4, -4] * 2, strict=False)
    }
    found = claims(workloads({"resnet50": gain, **rest, "plain_deep": [-30, 0, 30]}))
    assert found.startswith("10 comparisons were tested")  # of nine workloads and their average
    assert "The claim holds in 0 of them and does not hold in 0" in found
    assert "without the correction, these numbers would be 1 and 0." in found
    assert "ResNet50 on CIFAR-10 (+0.50 ± 0.25, p = 0.0517)" in line(found, LOSS)


def test_without_smartfrz_there_is_nothing_to_say() -> None:
    assert claims(frame({"full": FULL})) == ""


def test_runs_that_started_from_other_weights_are_not_compared() -> None:
    runs = frame({"full": FULL, "smartfrz": FULL, "linear": [89.0, 90.0, 50.0]})
    other = (runs["method"] == "linear") & (runs["seed"] == 2)
    runs["pretrained_accuracy"] = 0.33 + 0.01 * other
    found = line(claims(runs), "- **SmartFRZ is more accurate than Linear freezing:** ")
    assert found == "holds for ResNet50 on CIFAR-10 (+1.00 ± 0.00, p < 0.001)."


def test_rows_with_a_budget_are_claimed_for_among_themselves() -> None:
    runs = {"full": FULL, "smartfrz": FULL, "linear": [89.0, 90.0, 91.5]}
    within = {"smartfrz 60%": [90.5, 91.5, 92.5], "linear 60%": [91.0, 92.0, 93.0]}
    both = claims(frame({**runs, **within}, compute=0.6002))
    assert both.startswith("4 comparisons were tested")
    _, heading, lines = both.partition(
        "\n\nWith a budget of 60% of full training's compute, which is spent to the nearest step:\n"
    )
    assert heading
    rival = "- **SmartFRZ is more accurate than Linear freezing:** "
    assert line(lines, rival).startswith("does not hold for ResNet50 on CIFAR-10 (-0.50")
    assert line(lines, LOSS).startswith("holds for ResNet50 on CIFAR-10 (+0.50")
    assert "spends at most" not in lines
    assert "SmartFRZ loses at most 0.3 points for 1 (ResNet50 on CIFAR-10) of 1" in lines


@pytest.mark.parametrize(
    ("own", "compute", "cheap", "ahead", "both"),
    [
        (90.5, 0.60, True, True, True),
        (90.2, 0.60, True, False, False),
        (90.3, 0.60, True, False, False),
        (89.7, 0.60, True, False, False),
        (90.5, 0.604, False, True, False),
        (89.6, 0.60, False, False, False),
    ],
)
def test_the_last_line_counts_by_the_means(
    own: float, compute: float, cheap: bool, ahead: bool, both: bool
) -> None:
    runs = {"full": [90.0], "smartfrz": [own], "autofreeze": [90.0], "linear": [90.3]}
    count = {True: "1 (ResNet50 on CIFAR-10)", False: "none"}
    words = (
        "- **By the means alone:** SmartFRZ loses at most 0.3 points and spends at most 60% for "
        f"{count[cheap]} of 1 workload"
    )
    *_, last = claims(frame(runs, compute)).splitlines()
    rivals = f"it is more accurate than Linear freezing and AutoFreeze for {count[ahead]}"
    assert last == f"{words}; {rivals}; all of these hold for {count[both]}."
    del runs["linear"], runs["autofreeze"]
    *_, last = claims(frame(runs, compute)).splitlines()
    assert last == f"{words}."
