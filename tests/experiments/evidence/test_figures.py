"""Tests of the figures of the comparison of convergence predictors."""

import numpy as np
import pytest

from experiments.evidence import figures
from tests.helpers.compared import FAMILIES, comparison, with_metric
from tests.helpers.drawn import assert_reproducible

COMPARED = with_metric("auroc", {("outputs", "plain"): 0.99, ("clock", "mobile"): 0.8})


def auroc(compared=COMPARED):
    return figures.by_candidate(compared.candidates(), FAMILIES, "AUROC")


def tolerances(compared=COMPARED):
    return figures.tolerances(compared.tolerances(), FAMILIES, 0.02)


def reliability(compared=COMPARED):
    errors = compared.by_family("calibration_error").loc["outputs"].to_dict()
    return figures.reliability(compared.reliability(), errors)


def points(ax, index):
    return np.asarray(ax.lines[index].get_xydata())


def legend(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_every_candidate_has_a_dot_for_each_family_and_a_mean():
    fig = auroc()
    (ax,) = fig.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    plain, mobile = points(ax, 0)[:, 0], points(ax, 1)[:, 0]
    assert labels[0] == "outputs" and plain[0] == pytest.approx(0.99)
    assert labels[7] == "clock" and mobile[7] == pytest.approx(0.8)
    means = ax.containers[0].lines[0].get_xdata().astype(float)
    np.testing.assert_allclose(means, (plain + mobile) / 2)
    assert legend(fig) == [*FAMILIES, "Mean, 95% interval"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first candidate on top


def test_tolerances_are_beside_how_often_the_label_is_freeze():
    fig = tolerances()
    left, right = fig.axes
    np.testing.assert_allclose(points(left, 0), [[0.01, 0.9], [0.02, 0.985]])
    np.testing.assert_allclose(points(left, 5), [[0.01, 0.9], [0.02, 0.9]])
    np.testing.assert_allclose(points(right, 0), [[0.01, 40], [0.02, 40]])
    assert legend(fig)[0] == "outputs" and legend(fig)[5] == "last displacement"


def test_reliability_has_a_panel_for_each_family():
    fig = reliability()
    assert [ax.get_title(loc="left") for ax in fig.axes] == [f"{f}: error 0.040" for f in FAMILIES]
    np.testing.assert_allclose(points(fig.axes[0], 1), [[0.04, 0.1], [0.95, 0.9]])
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in fig.axes[0].patches]
    np.testing.assert_allclose(bars, [(0.05, 0.6), (0.95, 0.4)])


@pytest.mark.parametrize("draw", [auroc, tolerances, reliability])
def test_what_is_not_run_is_left_out(draw):
    draw(comparison(lambda r: r if r["candidate"] == "raw" and r["family"] == "plain" else None))


@pytest.mark.parametrize("draw", [auroc, tolerances, reliability])
def test_files_are_the_same_bytes_each_time(tmp_path, draw):
    assert_reproducible(draw, tmp_path)
