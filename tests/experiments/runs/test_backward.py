"""Forward and backward passes of runs: as CUDA graphs, which a CPU plays, and as usual."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.files import cache_folder
from experiments.runs import backward, setup
from experiments.runs.backward import is_captured
from experiments.runs.setup import prepare
from experiments.runs.training_loop import train
from tests.helpers.digits import ignore, save_random_predictor, tiny_run
from tests.helpers.replayed import Replayed, use_replayed_graphs

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "linear": {"match": ""},
    "autofreeze": {},
    "smartfrz": {"threshold": 0.0},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> type[Replayed]:
    """Lets runs on the CPU capture their passes."""
    build = setup.build_model

    def build_model(*args: Any) -> nn.Module:
        model = build(*args)
        use_replayed_graphs(monkeypatch, model)
        return model

    monkeypatch.setattr(setup, "build_model", build_model)
    monkeypatch.setattr(backward, "is_captured", lambda run: True)
    return Replayed


@pytest.mark.parametrize("method", METHODS)
def test_captured_passes_give_the_same_run(
    method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    options = save_random_predictor(tmp_path / "predictor") if method == "smartfrz" else {}
    options |= METHODS[method]
    config = tiny_run(method, options=options or None)
    expected, curves = train(config, ignore, ignore)
    cache_folder("checkpoints").joinpath(f"{config.id}.pt").unlink()

    graphs = request.getfixturevalue("graphs")
    run, found = train(config, ignore, ignore)
    assert graphs.made > 0
    assert bool(run.freezer.frozen) == (method != "full")
    assert run.freezer.frozen == expected.freezer.frozen
    assert found.loss == curves.loss and found.accuracy == curves.accuracy
    assert found.flops == curves.flops
    theirs = expected.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in run.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "captured"),
    [({}, True), ({"compile": True}, False), ({"feature_cache": True}, False)],
)
def test_passes_are_captured_on_one_gpu(changes: dict[str, Any], captured: bool) -> None:
    run = prepare(tiny_run())
    assert not is_captured(run)
    run.device = torch.device("cuda")
    run.config = replace(run.config, **changes)
    assert is_captured(run) == captured
