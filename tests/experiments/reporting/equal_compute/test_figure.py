"""Tests of the figure of methods at several computes."""

import numpy as np
import pytest

from experiments.reporting.equal_compute.figure import accuracy_at_several_computes
from tests.helpers.at_computes import runs_at_computes

ACCURACIES = {
    **{"full": [90.0, 92.0], "full same rate": [88.0, 88.0]},
    **{"smartfrz 58%": [80.0, 82.0], "smartfrz 75%": [84.0, 86.0], "smartfrz 90%": [90.0, 90.0]},
    **{"shorter 58%": [70.0, 72.0], "shorter 75%": [74.0, 76.0], "paced 75%": [77.0, 79.0]},
}
FRAME = runs_at_computes({("vgg11", "cifar10"): ACCURACIES, ("minilm", "cola"): ACCURACIES})


def line(ax, name):
    (found,) = (line for line in ax.lines if line.get_label() == name)
    return found


def test_a_method_is_one_line_through_its_means_and_one_entry_of_the_legend():
    fig = accuracy_at_several_computes(FRAME)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        *("Full training", "Full training same rate"),
        *("SmartFRZ ± standard deviation", "Shorter training", "Even pace"),
    ]
    for ax in fig.axes:
        assert line(ax, "smartfrz").get_ydata() == pytest.approx([81, 85, 90])
        assert line(ax, "shorter").get_ydata() == pytest.approx([71, 75])
        assert len(ax.lines) == 2 + 3
        assert sorted(line.get_ydata()[0] for line in ax.lines[:2]) == pytest.approx([88, 91])


def test_methods_stand_side_by_side_at_their_compute_and_smartfrz_at_it():
    ax = accuracy_at_several_computes(FRAME).axes[0]
    assert line(ax, "smartfrz").get_xdata() == pytest.approx([58, 75, 90])
    at_75 = [line(ax, name).get_xdata()[-1] for name in ("shorter", "paced")]
    assert len({75.0, *at_75}) == 3
    assert np.abs(np.array(at_75) - 75).max() < 6
    assert line(ax, "smartfrz").get_zorder() > line(ax, "shorter").get_zorder()
    assert line(ax, "smartfrz").get_linewidth() > 2 * line(ax, "shorter").get_linewidth()


def test_a_figure_of_some_rows_has_these_only():
    some = FRAME[FRAME["method"].isin(["full", "shorter 75%"])]
    ax = accuracy_at_several_computes(some).axes[0]
    assert len(ax.lines) == 2
    assert line(ax, "shorter").get_ydata() == pytest.approx([75])
