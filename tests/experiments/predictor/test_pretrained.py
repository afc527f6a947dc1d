"""Tests of the bundled predictors: size, files, and decisions about artificial layers."""

import json
from pathlib import Path

import pytest
import torch

import smartfrz
from experiments.files import ROOT
from experiments.plan import labelled_plan, recipes
from experiments.spec import load_spec
from smartfrz import AttentionPredictor
from smartfrz.predictor import output_drift

FOLDER = Path(smartfrz.__file__).parent / "predictor" / "pretrained"
DEFAULT, NAMES = "drift", ["drift", "outputs", "raw"]
OF_WEIGHTS = ["drift", "raw"]
LAYERS, RECORDS, HALT = 5, 30, 15


@pytest.fixture(scope="module")
def predictor():
    return AttentionPredictor.from_pretrained()


@pytest.fixture(scope="module")
def moving():
    """Layers whose weights move by a tenth of their size per record, in a roughly fixed direction.

    (LAYERS, RECORDS, 1024).
    """
    start, direction = torch.randn(2, LAYERS, 1, 1024, generator=torch.Generator().manual_seed(0))
    return start + (0.1 * (direction + noise())).cumsum(dim=1)


@pytest.fixture(scope="module")
def halting():
    """Random walks whose steps fall to a ten-thousandth of the weights halfway."""
    start = torch.randn(LAYERS, 1, 1024, generator=torch.Generator().manual_seed(0))
    size = torch.where(torch.arange(RECORDS) < HALT, 0.01, 1e-4)[:, None]
    return start + (size * noise()).cumsum(dim=1)


def noise():
    return torch.randn(LAYERS, RECORDS, 1024, generator=torch.Generator().manual_seed(1))


def test_these_are_bundled_and_no_others():
    assert sorted(config.parent.name for config in FOLDER.glob("*/config.json")) == NAMES


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_is_as_large_as_the_paper_s(name):
    predictor = AttentionPredictor.from_pretrained(name)
    assert sum(param.numel() for param in predictor.parameters()) == 1_037_122
    assert 4.1e6 < (FOLDER / name / "model.safetensors").stat().st_size < 4.2e6
    assert (predictor.size, predictor.window, predictor.encoding) == (1024, 30, name)
    assert 0 < predictor.threshold < 1


def test_the_default(predictor):
    expected = AttentionPredictor.from_pretrained(DEFAULT).state_dict()
    assert all(torch.equal(value, expected[k]) for k, value in predictor.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_loading_draws_no_random_numbers(name):
    """A run with dropout is the same with a predictor that freezes nothing as without one."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    AttentionPredictor.from_pretrained(name)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", NAMES)
def test_has_a_card(name):
    card = (FOLDER / name / "README.md").read_text()
    assert "make predictor" in card and "AUROC" in card


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_freezes_nothing_that_can_not_be_told(name, moving):
    predictor = AttentionPredictor.from_pretrained(name)
    never_moved, broken = moving[:, :1].expand(-1, RECORDS, -1), moving.clone()
    broken[:, -3, 0] = torch.nan
    for history in (moving[:, :1], never_moved, broken):
        assert (predictor.freeze_probability(history) == 0).all()


def test_freezes_layers_that_stopped_moving(predictor, halting):
    assert predictor.freeze_probability(halting).min() > predictor.threshold


def test_does_not_freeze_layers_that_move_steadily(predictor, moving):
    for records in (2, 5, 15, RECORDS):
        probability = predictor.freeze_probability(moving[:, :records])
        assert probability.max() < predictor.threshold


def test_is_surer_of_a_layer_once_it_has_stopped(predictor, halting):
    before, after = (predictor.freeze_probability(halting[:, :n]) for n in (HALT, RECORDS))
    assert (after > before + 0.1).all()


@pytest.mark.parametrize("scale", [1e-6, -1.0, 1e6])
def test_the_scale_of_the_weights_makes_no_difference(predictor, moving, halting, scale):
    for history in (moving, halting):
        expected = predictor.freeze_probability(history)
        scaled = predictor.freeze_probability(scale * history)
        torch.testing.assert_close(scaled, expected, atol=1e-3, rtol=0)


def test_the_predictor_of_outputs_tells_layers_whose_outputs_stand_still_from_others():
    """Every second layer stops halfway, as do its weights; the others go on."""
    predictor, layers = AttentionPredictor.from_pretrained("outputs"), 6
    stops = torch.arange(layers) % 2 == 0
    moves = torch.where(stops & (torch.arange(RECORDS) >= HALT)[:, None], 0.0, 1.0)
    path = (0.03 * moves).cumsum(dim=0)
    similarity = (-(path[:, None] - path).abs()).exp()
    history = output_drift(similarity, 1e-3 * moves, torch.full((RECORDS, layers), 0.02))
    before = predictor.freeze_probability(history[:, :HALT])
    after = predictor.freeze_probability(history)
    assert before.max() < predictor.threshold
    assert after[~stops].max() < predictor.threshold < after[stops].min()


@pytest.mark.parametrize(("table", "name"), [("table4", "window 30"), ("table5", "size 1024")])
def test_what_tables_compare_with_is_made_as_the_bundled_one(table: str, name: str):
    """At scale small it is the bundled one; at others it has the training data of its rivals."""
    facts = json.loads((ROOT / "results" / "predictor-small" / "drift.json").read_text())
    assert recipes(load_spec(table), "small")[f"drift {name}"].id == facts["id"]
    for scale in ("demo", "small", "medium", "paper"):
        runs = labelled_plan(load_spec(table), scale)
        used = {run.options.predictor for run, label in runs.items() if label.endswith(name)}
        assert used == {"drift" if scale == "small" else f"drift {name}"}
