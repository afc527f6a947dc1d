"""One entry in a registry takes a method, a network or a data set from a TOML file to a table."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from experiments.data.image_batches import ImageBatches
from experiments.data.images import ImageData
from experiments.data.registry import DATASETS, Dataset
from experiments.methods import METHODS, Method, Setting
from experiments.models.registry import NETWORKS, Network
from experiments.reporting.dashboard.workspace import workspace
from experiments.runs.run_frame import read_csv
from scripts import table
from scripts.cli import run_command
from smartfrz import Layer

SPEC = """
title = "A method, a network and a data set of one's own."
methods = ["full", "first", "first late"]

[options.first]
step = 2

[options."first late"]
step = 8

[scales.demo]
models = ["two_layers"]
datasets = ["stripes"]
seeds = [0, 1]

[scales.demo.run]
epochs = 2
lr = 0.1
image_size = 8
augment = false
"""


@dataclass(frozen=True)
class FirstOptions:
    """When the first layer freezes."""

    step: int = 0


class First:
    """Freezes the first layer at one step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        return [layer for layer in active if layer.name == "1" and step == self.at]


def first(options: FirstOptions, setting: Setting) -> First:
    assert setting.total_steps == 10
    return First(options.step)


def two_layers(num_classes: int, image_size: int) -> nn.Module:
    pixels = 3 * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, num_classes))


def stripes(config: object) -> ImageData:
    """Horizontal or vertical."""
    labels = torch.arange(160) % 2
    rows = (torch.arange(8) % 2 * 255).byte().expand(8, 8)
    images = torch.stack([rows if label else rows.T for label in labels])[:, None]
    images = images.expand(-1, 3, -1, -1).contiguous()
    return ImageData(images, labels, images[:32], labels[:32], 2)


@pytest.fixture
def entries(monkeypatch):
    method = Method("First layer", "#123456", "*", FirstOptions, first)
    monkeypatch.setitem(METHODS, "first", method)
    monkeypatch.setitem(NETWORKS, "two_layers", Network(two_layers, "plain", "Two layers"))
    monkeypatch.setitem(DATASETS, "stripes", Dataset(stripes, ImageBatches, "Stripes"))


def test_from_a_spec_to_a_table(entries, tmp_path, monkeypatch, capsys):
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "mine.toml").write_text(SPEC)
    monkeypatch.setattr("experiments.spec.SPECS", tmp_path / "specs")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
    places = ["--scale", "demo", "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["table", "mine", *places])
    run_command(table.main)

    drawn = tmp_path / "results" / "mine-demo"
    runs = read_csv(drawn / "runs.csv").set_index(["method", "seed"])
    assert runs.loc[("first", 0), "frozen"] == '{"1": 2}'
    assert runs.loc[("first late", 1), "frozen"] == '{"1": 8}'
    assert runs.loc[("full", 0), "frozen"] == "{}"
    rows = [line.split(" | ") for line in (drawn / "table.md").read_text().splitlines()[4:]]
    assert rows[0][:3] == ["| Two layers", "Stripes", "Full training"]
    assert [row[2] for row in rows] == ["Full training", "First layer", "First layer late"]
    assert "First layer late" in capsys.readouterr().out
    assert (drawn / "accuracy_against_compute.png").exists()


def test_the_dashboard_has_its_colour(entries):
    panels = workspace("someone", "smartfrz").sections[0].panels
    colors = [panel.line_colors for panel in panels if getattr(panel, "line_colors", None)]
    assert colors and all(of_panel["first"] == "#123456" for of_panel in colors)


def test_controls_are_told_from_methods():
    controls = {name for name, method in METHODS.items() if method.is_control}
    schedules = {"plan", "static_prefix", "prefix_then_body", "paced", "unfreezing", "head_first"}
    others = {"shorter", "similarity", "displacement", "random", "simfreeze", "svcca", "measured"}
    others |= {"frozen_group"}
    assert controls == schedules | others
