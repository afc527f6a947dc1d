"""The bundled predictor: its size, and what it says about layers whose fate is plain."""

from pathlib import Path

import pytest
import torch

import smartfrz
from smartfrz import AttentionPredictor

FOLDER = Path(smartfrz.__file__).parent / "pretrained" / "displacement"
LAYERS, RECORDS, HALT = 20, 30, 15
MOVING, STILL = 0.05, 1e-4  # a record's step relative to the weights: much, and next to nothing

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="`make predictor` was not run yet")


@pytest.fixture(scope="module")
def predictor():
    return AttentionPredictor.from_pretrained()


def walks(relative_step):
    """Random walks of weights, (LAYERS, RECORDS, 1024), with a step's size at each record."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(LAYERS, 1, 1024, generator=generator)
    steps = torch.randn(LAYERS, RECORDS, 1024, generator=generator)
    return start + (steps * torch.as_tensor(relative_step)).cumsum(dim=1)


def halting():
    """Walks that stop halfway."""
    return walks(torch.where(torch.arange(RECORDS) < HALT, MOVING, STILL)[:, None])


def test_is_as_large_as_the_paper_s(predictor):
    assert sum(param.numel() for param in predictor.parameters()) == 1_037_122
    assert 4.1e6 < (FOLDER / "model.safetensors").stat().st_size < 4.2e6
    assert (predictor.size, predictor.window, predictor.encoding) == (1024, 30, "displacement")


def test_freezes_layers_that_stopped_moving(predictor):
    assert predictor.freeze_probability(halting()).min() > 0.5


def test_does_not_freeze_layers_that_move_steadily(predictor):
    assert predictor.freeze_probability(walks(MOVING)).max() < 0.5


def test_sees_a_layer_stop(predictor):
    """The longer a layer has stood still, the surer: from before it stopped to the end."""
    history = halting()
    before, end = (predictor.freeze_probability(history[:, :n]) for n in (HALT, RECORDS))
    assert (end > before + 0.2).all()


@pytest.mark.parametrize("scale", [1e-6, -1.0, 1e6])
def test_the_scale_of_the_weights_makes_no_difference(predictor, scale):
    for history in (walks(MOVING), halting()):
        expected = predictor.freeze_probability(history)
        scaled = predictor.freeze_probability(scale * history)
        torch.testing.assert_close(scaled, expected, atol=1e-3, rtol=0)


def test_has_a_card():
    card = (FOLDER / "README.md").read_text()
    assert "make predictor" in card and "AUROC" in card
