"""What a predictor makes of the plan: its weights and its own threshold are part of each run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import plan as planning
from experiments.options import SmartFRZOptions
from experiments.plan import plan
from experiments.spec import Spec
from tests.helpers.digits import save_random_predictor


@pytest.fixture
def bundled_predictor(tmp_path, monkeypatch):
    """The folder of the default predictor, with random weights."""
    save_random_predictor(tmp_path / "drift")
    monkeypatch.setattr("smartfrz.predictor.files._BUNDLED", tmp_path)
    planning.fingerprint.cache_clear()
    yield tmp_path / "drift"
    planning.fingerprint.cache_clear()


def spec_of(**options) -> Spec:
    """One run of SmartFRZ with these options."""
    scale = {"models": ["plain"], "datasets": ["digits"], "seeds": [0], "run": {}}
    return Spec("A table", ["smartfrz"], {"demo": scale}, {"smartfrz": options} if options else {})


def test_another_predictor_under_the_same_name_makes_another_run(bundled_predictor: Path) -> None:
    spec = spec_of()
    (first,) = plan(spec, "demo")
    (again,) = plan(spec, "demo")
    assert first == again
    weights = bundled_predictor / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    planning.fingerprint.cache_clear()
    (other,) = plan(spec, "demo")
    assert other.id != first.id
    assert isinstance(other.options, SmartFRZOptions) and isinstance(first.options, SmartFRZOptions)
    assert replace(other.options, fingerprint=first.options.fingerprint) == first.options


def test_a_predictor_s_own_threshold_is_part_of_the_run(bundled_predictor: Path) -> None:
    spec = spec_of()
    (first,) = plan(spec, "demo")
    config = json.loads((bundled_predictor / "config.json").read_text())
    (bundled_predictor / "config.json").write_text(json.dumps(config | {"threshold": 0.25}))
    planning.fingerprint.cache_clear()
    (other,) = plan(spec, "demo")
    assert other.id != first.id
    assert isinstance(other.options, SmartFRZOptions) and isinstance(first.options, SmartFRZOptions)
    assert first.options.threshold == config["threshold"] and other.options.threshold == 0.25
    (asked,) = plan(spec_of(threshold=0.6), "demo")
    assert isinstance(asked.options, SmartFRZOptions) and asked.options.threshold == 0.6
