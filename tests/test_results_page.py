"""What the pages say of the runs follows from the files under results/."""

import pandas as pd

from experiments.files import ROOT
from experiments.reporting.statistics import LEVEL
from experiments.runs.run_frame import read_csv
from tests.helpers.markdown import read

PAGE, README = (" ".join(read(page).split()) for page in ("docs/results.md", "README.md"))

DIFFERENCES = read_csv(ROOT / "results" / "compute-small" / "differences.csv")


def apart(rival: str) -> pd.DataFrame:
    """SmartFRZ minus a control: a row per workload and compute, and ``mean`` for the average."""
    return DIFFERENCES[DIFFERENCES["rival"] == rival]


def test_which_rows_have_three_seeds():
    assert (
        "SmartFRZ, its plan alone, stopping early (*shorter training*) and *Prefix, then body* "
        "have three seeds at 75% and 58%, and, with published weights, at 45%; so have SmartFRZ at "
        "90% and the rows with *own rate*. The others have one or are not run."
    ) in PAGE
    found = pd.concat([apart(rival) for rival in ("shorter", "plan", "prefix_then_body")])
    found = found[(found["model"] != "mean") & found["compute"].isin([0.75, 0.58, 0.45])]
    assert len(found) == 3 * (8 + 8 + 4) and (found["n"] == 3).all()
    own_rate = DIFFERENCES[DIFFERENCES["rival"].str.endswith("own rate")]
    own_rate = own_rate.query("model != 'mean'")
    assert len(own_rate) == 2 and (own_rate["n"] == 3).all()
    of_full = apart("full").query("compute == 0.9 and model != 'mean'")
    assert len(of_full) == 4 and (of_full["n"] == 3).all()


def of_all_controls(model: str, dataset: str) -> pd.Series:
    """SmartFRZ minus each control by compute and rival, in a workload that lacks no run."""
    rows = DIFFERENCES.query("model == @model and dataset == @dataset and compute in (0.75, 0.58)")
    assert (rows["n"] == rows["planned"]).all() and (rows["n"] == 1).mean() > 0.5
    return rows.set_index(["compute", "rival"])["mean"].drop("full", level="rival")


def behind_by_compute(gains: pd.Series) -> dict[float, pd.Series]:
    """The gains of `of_all_controls` that are negative, for each compute."""
    return {compute: gains[compute][gains[compute] < 0] for compute in (0.75, 0.58)}


def test_smartfrz_beside_all_controls_with_efficientnet():
    assert (
        "All controls at 75% and 58% have been run with EfficientNet-Lite0, MiniLM, MobileNetV2 "
        "and DeiT-T, most of them with one seed. - With EfficientNet-Lite0, SmartFRZ is "
        "ahead of linear freezing, AutoFreeze and SVCCA by more than three points at both "
        "computes on both data sets. On CIFAR-100 at 58% it is ahead of every other control at the "
        "same learning rate by more than one point, except its plan and *Prefix, then body*; at "
        "75%, freezing at an even pace is ahead of it. On CIFAR-10, *Prefix, then body* is ahead "
        "of it at both computes, and at 75% a static prefix and gradual unfreezing by a point or "
        "more."
    ) in PAGE
    many, few = (of_all_controls("efficientnet_lite0", name) for name in ("cifar100", "cifar10"))
    for gains in (many, few):
        for compute in (0.75, 0.58):
            assert (gains[compute][["linear", "autofreeze", "svcca"]] > 3).all()
    close = ["plan", "prefix_then_body", "prefix_then_body spread"]
    others = ["prefix_then_body own rate", "shorter own rate"]
    assert (many[0.58].drop([*close, *others]) > 1).all()
    assert many[0.75, "paced"] < 0
    assert few[0.75, "prefix_then_body"] < 0 and few[0.58, "prefix_then_body"] < 0
    assert (few[0.75][["static_prefix", "unfreezing"]].round(1) <= -1).all()


def test_each_method_at_its_own_best_learning_rate():
    assert (
        "With EfficientNet-Lite0 on CIFAR-10, all of them are best with the rate of full training. "
        "On CIFAR-100, SmartFRZ is, too; *Prefix, then body* and stopping early are best with "
        "three times that rate (*own rate*). With it, *Prefix, then body* loses nothing at 58% of "
        "the compute, and is ahead of SmartFRZ by more than a point and a half, which three seeds "
        "do not tell from chance; stopping early is behind both."
    ) in PAGE
    rates = read_csv(ROOT / "results" / "rates_images-small" / "table.csv")
    rates[["row", "rate"]] = rates["method"].str.rsplit(" ", n=1, expand=True)
    best = rates.loc[rates.groupby(["dataset", "row"])["accuracy_mean"].idxmax()]
    best = best.set_index(["dataset", "row"])["rate"].astype(float)
    assert (best["cifar10"] == 0.03).all() and len(best["cifar10"]) == 4
    rows = ["full", "smartfrz 58%", "prefix_then_body 58%", "shorter 58%"]
    assert list(best["cifar100"][rows]) == [0.03, 0.03, 0.09, 0.09]
    cells = read_csv(ROOT / "results" / "compute-small" / "table.csv")
    cells = cells[cells["dataset"] == "cifar100"].set_index("method")
    assert cells["n"]["prefix_then_body own rate 58%"] == 3
    assert cells["difference_mean"]["prefix_then_body own rate 58%"] >= 0
    gains = DIFFERENCES.query("model == 'efficientnet_lite0' and compute == 0.58")
    gains = gains.set_index("rival")
    prefix, early = gains.loc["prefix_then_body own rate"], gains.loc["shorter own rate"]
    assert -2 < prefix["mean"] < -1.5 and prefix["p_value"] > LEVEL
    assert early["mean"] > 0


def test_smartfrz_beside_all_controls_with_minilm_on_cola():
    assert (
        "With MiniLM on CoLA at 58%, stopping early is ahead of SmartFRZ, which is ahead of all "
        "others, by more than five points of a static prefix, an even pace, gradual unfreezing, "
        "random order, linear freezing and a head that trains first. At 75%, its plan, stopping "
        "early, an even pace and measured contribution are ahead of it by less than one point."
    ) in PAGE
    gains = of_all_controls("minilm", "cola")
    behind = behind_by_compute(gains)
    assert set(behind[0.58].index) == {"shorter"}
    far = {"static_prefix", "paced", "unfreezing", "random", "linear", "head_first"}
    assert set(gains[0.58].index[gains[0.58] > 5]) == far
    assert set(behind[0.75].index) == {"plan", "shorter", "paced", "measured"}
    assert (behind[0.75] > -1).all()


def test_smartfrz_beside_all_controls_with_minilm_on_mrpc():
    assert (
        "With MiniLM on MRPC, most controls are ahead of SmartFRZ at both computes, an even pace "
        "by more than eight points at 58%. At 75% it is ahead of AutoFreeze, SVCCA and a head that "
        "trains first by more than three points, and of stopping early by less than one; at 58% it "
        "is ahead of AutoFreeze, SVCCA, stopping early and measured contribution by less than a "
        "point and a half."
    ) in PAGE
    gains = of_all_controls("minilm", "mrpc")
    assert all((gains[compute] < 0).mean() > 0.5 for compute in (0.75, 0.58))
    assert gains[0.58, "paced"] < -8
    ahead = {compute: gains[compute][gains[compute] > 0] for compute in (0.75, 0.58)}
    far = ["autofreeze", "svcca", "head_first"]
    assert set(ahead[0.75].index) == {*far, "shorter"}
    assert (ahead[0.75][far] > 3).all() and ahead[0.75]["shorter"] < 1
    assert set(ahead[0.58].index) == {"autofreeze", "svcca", "shorter", "measured"}
    assert (ahead[0.58] < 1.5).all()


def test_smartfrz_beside_all_controls_with_mobilenet():
    assert (
        "With MobileNetV2, half of the controls are ahead of SmartFRZ at each compute, random "
        "order, SVCCA, an even pace and a head that trains first among them, by half a point to "
        "one and a half at 58%."
    ) in PAGE
    gains = of_all_controls("mobilenet_v2", "cifar10")
    for compute in (0.75, 0.58):
        assert 0.45 <= (gains[compute] < 0).mean() <= 0.6
    named = ["random", "svcca", "paced", "head_first"]
    assert (gains[0.75][named] < 0).all() and gains[0.58][named].round(1).between(-1.5, -0.5).all()


def test_smartfrz_beside_all_controls_with_deit():
    assert (
        "With DeiT-T at 75%, SmartFRZ is ahead of all but gradual unfreezing and *Prefix, then "
        "body*. At 58%, these two and a static prefix are ahead of it by more than one point, and "
        "its plan, stopping early, random order, SVCCA and measured contribution by a point or "
        "less."
    ) in PAGE
    behind = behind_by_compute(of_all_controls("deit_tiny", "cifar10"))
    assert set(behind[0.75].index) == {"unfreezing", "prefix_then_body"}
    clear = {"unfreezing", "prefix_then_body", "prefix_then_body spread", "static_prefix"}
    assert (behind[0.58][list(clear)] < -1).all()
    narrow = {"plan", "shorter", "random", "svcca", "measured"}
    assert set(behind[0.58].index) == clear | narrow
    assert (behind[0.58][list(narrow)].round(1) >= -1).all()


def test_at_45_percent_smartfrz_is_level_with_its_strongest_controls():
    assert (
        "At 45% it loses six points, and is level with its plan and with both forms of *Prefix, "
        "then body*. It is ahead of stopping early in each of the four workloads, with "
        "EfficientNet-Lite0 on CIFAR-100 by more than chance; by their mean, too, but with Holm's "
        "correction no more than chance explains. *Prefix, then body* is ahead of it on CIFAR-10 "
        "by a point or less, and in no other workload."
    ) in PAGE
    rows = DIFFERENCES.query("compute == 0.45")
    means = rows[rows["model"] == "mean"].set_index("rival")
    assert round(means["mean"]["full"]) == -6
    level = means.loc[["plan", "prefix_then_body", "prefix_then_body spread"]]
    assert (level["mean"].abs() <= level["interval"]).all()
    early = rows[rows["rival"] == "shorter"].set_index(["model", "dataset"])
    assert len(early) == 5 and (early["mean"] > 0).all()
    mean = means.loc["shorter"]
    assert mean["mean"] > mean["interval"] and mean["p_value"] > LEVEL
    clear = early[early["p_value"] <= LEVEL]
    assert set(clear.index) == {("efficientnet_lite0", "cifar100")}
    of_prefix = rows[rows["rival"] == "prefix_then_body"].set_index(["model", "dataset"])["mean"]
    assert set(of_prefix[of_prefix < 0].index) == {("efficientnet_lite0", "cifar10")}
    assert of_prefix.min() >= -1


def test_smartfrz_loses_nothing_at_90_percent_by_the_mean():
    assert (
        "At 90%, with published weights, SmartFRZ loses nothing by the mean over workloads, and is "
        "level with its strongest controls."
    ) in PAGE
    means = DIFFERENCES.query("compute == 0.9 and model == 'mean'").set_index("rival")
    assert means["mean"]["full"] >= 0
    controls = means.drop(index="full")
    assert len(controls) == 3 and (controls["mean"].abs() <= controls["interval"]).all()


def test_where_smartfrz_is_ahead_of_stopping_early():
    assert (
        "With EfficientNet-Lite0, at 75% on CIFAR-100 and at 58% on CIFAR-10, and with DeiT-T at "
        "75%, SmartFRZ is ahead of it by more than chance. With MobileNetV2, MiniLM on CoLA and "
        "ResNet50 from scratch, stopping early is ahead at 75% and 58% by the means, with ResNet50 "
        "at 58% by more than chance."
    ) in PAGE
    gains = apart("shorter").query("compute in (0.75, 0.58)")
    clear = gains[gains["p_value"] <= LEVEL].set_index(["model", "dataset", "compute"])["mean"]
    assert set(clear[clear > 0].index) == {
        ("efficientnet_lite0", "cifar100", 0.75),
        ("efficientnet_lite0", "cifar10", 0.58),
        ("deit_tiny", "cifar10", 0.75),
    }
    assert set(clear[clear < 0].index) == {("resnet50", "cifar10", 0.58)}
    best = gains.groupby(["model", "dataset"])["mean"].max()
    assert set(best[best < 0].index) == {
        *(("mobilenet_v2", "cifar10"), ("minilm", "cola"), ("resnet50", "cifar10")),
    }


def test_smartfrz_is_level_with_stopping_early_by_the_mean():
    assert "By the mean over workloads, SmartFRZ is level with stopping early" in PAGE
    assert "By the mean over workloads, SmartFRZ is level with stopping early, too." in README
    means = apart("shorter").query("model == 'mean' and compute in (0.75, 0.58)")
    assert len(means) == 2 and (means["mean"].abs() <= means["interval"]).all()


def test_smartfrz_is_level_with_the_prefix_by_the_mean():
    assert (
        "SmartFRZ and *Prefix, then body* are level by the mean over workloads. At 58% SmartFRZ is "
        "behind in most of them"
    ) in PAGE
    gains = apart("prefix_then_body")
    for compute in (0.75, 0.58):
        of_compute = gains[gains["compute"] == compute].set_index("model")
        mean = of_compute.loc["mean"]
        assert abs(mean["mean"]) <= mean["interval"]
    assert (of_compute.drop(index="mean")["mean"] < 0).mean() > 0.5


def test_in_how_many_workloads_a_control_is_ahead():
    assert (
        "At both computes, a control is ahead of SmartFRZ by the mean in each of the eight "
        "workloads, if the plan that it follows counts as one"
    ) in PAGE
    controls = DIFFERENCES.query("rival != 'full' and model != 'mean' and planned == 3")
    for compute in (0.75, 0.58):
        best = controls[controls["compute"] == compute].groupby(["model", "dataset"])["mean"].min()
        assert len(best) == 8 and (best < 0).all()


def test_autofreeze_freezes_little_where_smartfrz_reaches_the_paper_s_result():
    assert (
        "linear freezing as many steps as its compute allows, and AutoFreeze freezes little" in PAGE
    )
    table = read_csv(ROOT / "results" / "table2-small" / "table.csv")
    cells = table.set_index(["model", "dataset", "method"])["compute_ratio"]
    for model in ("efficientnet_lite0", "efficientnet_lite1"):
        assert cells[model, "cifar10", "autofreeze"] > 0.9
