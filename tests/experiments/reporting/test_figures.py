"""Tests of the figures of runs: numbers, style, and reproducibility."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color

from experiments.methods import METHODS as ALL_METHODS
from experiments.reporting.figures import (
    accuracy_against_compute,
    frozen_moments,
    layers_frozen_over_time,
)
from experiments.reporting.style import STYLE, look, save

MODELS = ("resnet50", "vgg11", "mobilenet_v2", "deit_tiny")
METHODS = ("full", "linear", "autofreeze", "smartfrz")
LAYERS = ["conv1", "conv2", "conv3", "head"]


def run(method="smartfrz", seed=0, accuracy=0.9, tflops=10.0, frozen=None, **changes):
    return {
        "status": "finished",
        "model": "resnet50",
        "dataset": "cifar10",
        "method": method,
        "seed": seed,
        "metric": "accuracy",
        "final_accuracy": accuracy,
        "train_seconds": 1.0,
        "tflops": tflops,
        "machine": "AMD EPYC, 2 cores",
        "epochs": 5.0,
        "steps": 100,
        "steps_per_epoch": 20,
        "layers": json.dumps(LAYERS),
        "frozen": json.dumps(frozen or {}),
    } | changes


def diverged(method="smartfrz", seed=0):
    return run(method, seed, math.nan, status="diverged", tflops=0.1)


def benchmarks(count):
    pairs = [(model, dataset) for model in MODELS for dataset in ("cifar10", "cifar100")]
    return pd.DataFrame(
        [
            run(method, seed, 0.8 + seed / 100, frozen={"conv2": 20, "conv1": 40})
            | {"model": model, "dataset": dataset}
            for model, dataset in pairs[:count]
            for method in METHODS
            for seed in range(2)
        ]
    )


def lines(ax, label):
    return [line.get_xydata() for line in ax.lines if line.get_label() == label]


def marker(ax, label):
    (container,) = [each for each in ax.containers if each.get_label() == label]
    return container


def titles(fig):
    return [ax.get_title(loc="left") for ax in fig.axes]


def texts(ax):
    return "\n".join(text.get_text() for text in ax.texts)


def legend(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


DRAW = [accuracy_against_compute, layers_frozen_over_time, frozen_moments]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_a_panel_for_each_benchmark_without_overlaps(draw, count):
    fig = draw(benchmarks(count).sample(frac=1, random_state=0))
    fig.draw_without_rendering()
    assert len(fig.axes) == count
    assert titles(fig)[0] == "ResNet50 · CIFAR-10"
    assert fig.get_figwidth() <= 7
    boxes = [ax.get_tightbbox() for ax in fig.axes] + [fig.legends[0].get_tightbbox()]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert box.x0 >= 0
        assert box.x1 <= fig.bbox.x1


def test_panels_follow_the_papers_order():
    assert titles(accuracy_against_compute(benchmarks(8).iloc[::-1])) == [
        f"{model} · {dataset}"
        for model in ("ResNet50", "VGG11", "MobileNetV2", "DeiT-T")
        for dataset in ("CIFAR-10", "CIFAR-100")
    ]


@pytest.mark.parametrize("draw", DRAW)
def test_no_runs_are_refused(draw):
    with pytest.raises(ValueError, match="no runs to draw"):
        draw(benchmarks(1).iloc[:0])


def test_no_marker_is_hidden_behind_another():
    """Two methods froze nothing, another one is elsewhere."""
    same = [run(method, seed, 0.8) for method in ("full", "linear", "smartfrz") for seed in (0, 1)]
    (ax,) = accuracy_against_compute(pd.DataFrame([*same, run("random", accuracy=0.7)])).axes
    found = {name: marker(ax, name).lines[0] for name in ("full", "smartfrz", "linear", "random")}
    sizes = {name: line.get_markersize() for name, line in found.items()}
    drawn = sorted(("full", "linear", "smartfrz"), key=lambda name: -sizes[name])
    assert len({sizes[name] for name in drawn}) == 3
    assert [found[name].get_markerfacecolor() for name in drawn[:2]] == ["none", "none"]
    assert same_color(found[drawn[-1]].get_markerfacecolor(), look(drawn[-1])[0])
    assert sizes["random"] == sizes[drawn[-1]]
    assert all(same_color(found[n].get_markeredgecolor(), look(n)[0]) for n in drawn[:2])


def test_accuracy_and_compute_of_runs_and_their_mean():
    runs = [run("full", seed, 0.9, 10.0) for seed in range(2)]
    runs += [run("smartfrz", 0, 0.8, 4.0), run("smartfrz", 1, 0.9, 8.0)]
    fig = accuracy_against_compute(pd.DataFrame(runs))
    (ax,) = fig.axes
    (points,) = lines(ax, "_smartfrz runs")
    np.testing.assert_allclose(points, [[40, 80], [80, 90]])
    mean, _, bars = marker(ax, "smartfrz")
    np.testing.assert_allclose(mean.get_xydata(), [[60, 85]])
    (across,), (up,) = (bar.get_segments() for bar in bars)
    std = math.sqrt(2) * 20, math.sqrt(2) * 5
    np.testing.assert_allclose(across, [[60 - std[0], 85], [60 + std[0], 85]])
    np.testing.assert_allclose(up, [[60, 85 - std[1]], [60, 85 + std[1]]])
    assert legend(fig) == ["Full training", "SmartFRZ"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_looks_the_same_whatever_else_is_drawn(method):
    for others in ([], ["another", "linear t0=0.3"]):
        runs = pd.DataFrame([run(name) for name in {"full", method, *others}])
        mean, *_ = marker(accuracy_against_compute(runs).axes[0], method)
        color, shape = look(method)
        assert same_color(mean.get_color(), color)
        assert mean.get_marker() == shape


def test_every_method_has_a_colour_and_a_marker_of_its_own():
    looks = [look(name) for name, method in ALL_METHODS.items() if not method.is_recording]
    assert len(looks) >= 9
    for kind in zip(*looks, strict=True):
        assert len(set(kind)) == len(looks)


def test_variants_have_their_method_s_colour_and_markers_of_their_own():
    names = ["full", *(f"linear t0=0.{digit}" for digit in range(3, 7)), "another", "another one"]
    ax = accuracy_against_compute(pd.DataFrame([run(name) for name in names])).axes[0]
    looks = {name: marker(ax, name)[0] for name in names}
    assert len({(look.get_color(), look.get_marker()) for look in looks.values()}) == len(names)
    colours = {look.get_color() for name, look in looks.items() if name.startswith("linear")}
    assert colours == {look("linear")[0]}
    assert looks["another"].get_color() == looks["another one"].get_color() != "#000000"


@pytest.mark.filterwarnings("error")
def test_long_names_fit():
    names = ["full", *(f"{base} 0.12345" for base in ("similarity", "displacement", "shorter"))]
    runs = [
        run(name) | {"model": model, "dataset": "cifar100[50:75]"}
        for name in names
        for model in ("attention_deep", "residual_deep")
    ]
    fig = accuracy_against_compute(pd.DataFrame(runs))
    fig.draw_without_rendering()
    (left, right), (legend_,) = [ax.get_tightbbox() for ax in fig.axes], fig.legends
    assert not left.overlaps(right)
    assert legend_.get_tightbbox().x0 >= 0
    assert legend_.get_tightbbox().x1 <= fig.bbox.x1
    names = ("residual_deep", "attention_deep")  # in the order of the registry
    assert titles(fig) == [f"{name}\ncifar100[50:75]" for name in names]


def test_a_variant_stands_beside_its_method():
    names = ["similarity", "smartfrz raw", "smartfrz", "full"]
    fig = accuracy_against_compute(pd.DataFrame([run(name) for name in names]))
    assert legend(fig) == ["Full training", "SmartFRZ", "SmartFRZ raw", "Similarity-guided"]


def test_runs_without_a_place_are_named():
    runs = [run("full", 0), run("smartfrz", 0), diverged(seed=1), run("linear", 2)]
    (ax,) = accuracy_against_compute(pd.DataFrame(runs)).axes
    assert texts(ax) == "SmartFRZ: 1/2 diverged\nWithout full training: 1/4"
    assert len(lines(ax, "_smartfrz runs")[0]) == 1
    assert lines(ax, "_linear runs") == []


def test_another_metric_is_named():
    runs = pd.DataFrame([run("full", dataset="cola", metric="matthews")])
    assert texts(accuracy_against_compute(runs).axes[0]) == "Metric: Matthews correlation"


def test_layers_frozen_are_steps_at_the_moments():
    runs = [
        run(seed=0, frozen={"conv2": 20, "conv1": 40}),
        run(seed=1, frozen={"conv1": 80}),
        diverged(seed=2),
        run("full"),
    ]
    (ax,) = layers_frozen_over_time(pd.DataFrame(runs)).axes
    first, second = lines(ax, "_smartfrz run")
    moments = [0, 0.2, 0.4, 0.8, 1]
    np.testing.assert_allclose(first, np.transpose([moments, [0, 25, 50, 50, 50]]))
    np.testing.assert_allclose(second, np.transpose([moments, [0, 0, 0, 25, 25]]))
    (mean,) = lines(ax, "smartfrz")
    np.testing.assert_allclose(mean, np.transpose([moments, [0, 12.5, 25, 37.5, 37.5]]))
    (full,) = lines(ax, "full")
    np.testing.assert_allclose(full, [[0, 0], [1, 0]])
    assert {line.get_drawstyle() for line in ax.lines} == {"steps-post"}


def test_frozen_moments_are_epochs_in_execution_order():
    runs = [
        run(seed=0, frozen={"conv2": 20, "conv1": 40}),
        run(seed=1, frozen={"conv1": 40}, steps=60, steps_per_epoch=10),
        run("linear", frozen={"conv1": 1}),
    ]
    (ax,) = frozen_moments(pd.DataFrame(runs)).axes
    (first, second), (never, never_too) = lines(ax, "_frozen"), lines(ax, "_never frozen")
    np.testing.assert_equal(first, [[1, 2], [2, 1], [3, math.nan], [4, math.nan]])
    np.testing.assert_equal(second[:2], [[1, 4], [2, math.nan]])
    np.testing.assert_equal(never[:, 1], [math.nan, math.nan, 5, 5])
    np.testing.assert_equal(never_too[:, 1], [math.nan, 6, 6, 6])
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [3, 3.5, 5.5, 5.5])


@pytest.mark.parametrize("draw", DRAW)
def test_files_are_the_same_bytes_each_time(tmp_path, draw):
    for name in ("a", "b"):
        save(draw(benchmarks(1)), tmp_path / "plots" / f"{name}.v1")
    for suffix in ("png", "pdf"):
        a, b = ((tmp_path / "plots" / f"{name}.v1.{suffix}").read_bytes() for name in ("a", "b"))
        assert a == b
    assert a.startswith(b"%PDF")
    assert b"CreationDate" not in a


def test_papers_get_truetype_fonts(tmp_path, monkeypatch, paper_font_type):
    monkeypatch.setitem(STYLE, "pdf.fonttype", paper_font_type)
    save(frozen_moments(pd.DataFrame([run(frozen={"conv1": 20})])), tmp_path / "figure")
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf


def test_a_run_that_ends_with_its_budget_is_drawn_to_its_own_end():
    short = run(epochs=5.0, steps=80, frozen={"conv1": 40, "conv2": 80, "conv3": 80})
    (ax,) = layers_frozen_over_time(pd.DataFrame([short])).axes
    (drawn,) = lines(ax, "smartfrz")
    assert drawn.tolist() == [[0, 0], [0.5, 25], [1, 75]]
