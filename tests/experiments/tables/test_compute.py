"""Compute of the paper's full training runs, counted without training."""

import pytest
import torch

from experiments import plan
from experiments.config import RunConfig
from experiments.data import registry
from experiments.data.images import ImageData
from experiments.tables.compute import full_tflops

PIXELS = torch.zeros(50_000, 3, 1, 1, dtype=torch.uint8)
LABELS = torch.zeros(50_000, dtype=torch.long)


@pytest.fixture(autouse=True)
def fifty_thousand_images(monkeypatch: pytest.MonkeyPatch):
    data = ImageData(PIXELS, LABELS, PIXELS[:1], LABELS[:1], 10)
    monkeypatch.setattr(registry, "load_data", lambda name: data)


def at_paper_scale(model: str) -> RunConfig:
    spec = plan.load_spec("table2")
    values = dict(spec.scales["paper"]["run"]) | spec.scales["paper"]["model"].get(model, {})
    return plan.make_config(values | {"model": model, "dataset": "cifar10"})


@pytest.mark.parametrize(
    ("model", "tflops"),
    [("resnet50", 12_268), ("vgg11", 22_827), ("mobilenet_v2", 902), ("deit_tiny", 37_600)],
)
def test_full_training_at_paper_scale(model: str, tflops: float):
    assert full_tflops(at_paper_scale(model)) == pytest.approx(tflops, rel=0.01)


@pytest.mark.parametrize(
    ("model", "tflops", "within"),
    [
        ("resnet50", 12_360, 0.01),
        ("vgg11", 22_950, 0.01),
        ("mobilenet_v2", 960, 0.03),
        ("deit_tiny", 32_400, 0.01),
    ],
)
def test_counted_as_the_paper_does(model: str, tflops: float, within: float):
    counted = full_tflops(at_paper_scale(model), as_in_paper=True)
    assert counted == pytest.approx(tflops, rel=within)
