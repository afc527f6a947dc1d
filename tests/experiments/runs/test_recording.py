"""Recorded runs: storing and loading histories, and their README."""

from dataclasses import replace

import pytest
import torch

from experiments.predictor.recordings import write_readme
from experiments.runs.recording import (
    history_file,
    is_recorded,
    load_history,
    record_history,
)
from tests.helpers.digits import ignore, tiny_run

CONFIG = tiny_run(
    "record",
    epochs=1,
    options={"records_per_epoch": 5, "sampled_weights": 64, "probe_images": 32},
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    return tmp_path


def test_a_run_is_recorded_once_and_found_again(cache):
    assert not is_recorded(CONFIG)
    record_history(CONFIG, ignore)
    assert is_recorded(CONFIG)
    history = load_history(CONFIG, size=64)
    records, layers = history.cka.shape
    assert records == 5 and history.weights.shape == (records, layers, 64)
    assert history.gradient.shape == (records, layers) and history.loss.shape == (records,)
    assert torch.equal(load_history(CONFIG, size=16).weights, history.weights[..., ::4])
    torch.testing.assert_close(history.cka[-1], torch.ones(layers))
    assert not list((cache / "checkpoints").glob("*.pt"))


def test_a_damaged_history_counts_as_missing_and_is_set_aside_once_it_is_recorded_again():
    history_file(CONFIG).parent.mkdir(parents=True)
    history_file(CONFIG).write_bytes(b"not safetensors")
    with pytest.warns(UserWarning, match="counts as missing"):
        assert not is_recorded(CONFIG)
    with pytest.warns(UserWarning, match=r"renamed to .*\.corrupt"):
        record_history(CONFIG, ignore)
    assert is_recorded(CONFIG)
    aside = history_file(CONFIG).with_name(f"{history_file(CONFIG).name}.corrupt")
    assert aside.read_bytes() == b"not safetensors"


def test_the_readme_lists_every_run(cache):
    record_history(CONFIG, ignore)
    write_readme([CONFIG], "make predictor SCALE=demo")
    text = (cache / "histories" / "predictor.md").read_text()
    for part in (CONFIG.id, "digits[5:10]", "residual", "make predictor SCALE=demo", "`cka`"):
        assert part in text


def test_a_run_that_diverged_is_not_kept():
    config = replace(CONFIG, lr=1e30)
    with pytest.raises(ValueError, match="diverged and has no usable history"):
        record_history(config, ignore)
    assert not is_recorded(config)
