"""Requirements of planned runs: data, weights, disk space, hours on known machines."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.tables import requirements as needing
from experiments.tables.compute import full_tflops
from experiments.tables.requirements import (
    benchmarked,
    check_requirements,
    hours_by_machine,
    requirements,
)
from tests.helpers.digits import tiny_run

PRETRAINING = {"dataset": "digits[0:5]", "epochs": 1, "lr": 0.05}


def measured(**changes: object) -> pd.DataFrame:
    row = {
        **{"model": "residual", "method": "full", "status": "finished", "machine": "one"},
        **{"tflops": 6.0, "train_seconds": 3.0},
    }
    return pd.DataFrame([row | changes])


def test_hours_are_compute_over_the_machine_s_throughput() -> None:
    todo = [tiny_run(epochs=3), tiny_run(seed=1, epochs=6)]
    expected = sum(map(full_tflops, todo)) / 2.0 / 3600
    assert hours_by_machine(todo, measured()) == {"one": pytest.approx(expected)}


@pytest.mark.parametrize(
    "changes", [{"model": "plain"}, {"method": "linear"}, {"status": "diverged"}]
)
def test_a_machine_that_has_not_trained_the_network_has_no_estimate(changes: dict) -> None:
    assert hours_by_machine([tiny_run()], measured(**changes)) == {}


def test_hours_on_a_gpu_are_those_of_its_benchmark(tmp_path: Path) -> None:
    folder = tmp_path / "bench-small_steps-h100"
    folder.mkdir()
    (folder / "provenance.json").write_text('{"machine": {"gpu": "NVIDIA H100"}}')
    rows = "residual,0.25,20\nresidual,0.5,30\nresidual,0.75,40\nplain,0.5,7\n"
    (folder / "small_steps.csv").write_text("model,fraction,full_ms\n" + rows)
    todo = [tiny_run(epochs=3, image_size=224)]
    steps = 3 * 320 // todo[0].batch_size
    hours = hours_by_machine(todo, benchmarked(todo, tmp_path))
    expected = steps * 0.03 * todo[0].batch_size / 32 / 3600
    assert hours == {"NVIDIA H100, by the benchmark of steps": pytest.approx(expected)}
    assert benchmarked([tiny_run(model="mobile")], tmp_path).empty


def test_all_that_is_needed_is_listed() -> None:
    lines = list(requirements([tiny_run(pretraining=PRETRAINING)], measured()))
    assert lines[0] == "Data: digits[5:10]."
    assert lines[1].startswith("Disk: up to ")
    assert lines[2].startswith("Training time without freezing on one: ")
    assert list(requirements([], measured())) == []


def test_a_processor_without_bf16_is_named_before_runs_in_bf16_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    todo = [tiny_run(amp="bf16"), tiny_run(seed=1)]
    monkeypatch.setattr(needing, "slowdown_of_bf16", lambda: 92.3)
    said = "takes 92 times as long as in fp32"
    line = list(requirements(todo, measured()))[-1]
    assert said in line and "and 1 of the runs use it" in line
    assert "bf16" not in " ".join(requirements(todo[1:], measured()))
    monkeypatch.setattr(needing, "slowdown_of_bf16", lambda: 0.6)
    assert "bf16" not in " ".join(requirements(todo, measured()))


def test_the_slowdown_of_bf16_is_measured() -> None:
    assert 0 < needing.slowdown_of_bf16() < float("inf")


def test_published_weights_are_listed_and_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_run(model="resnet50", pretraining={"dataset": "imagenet"})
    assert "Published weights: ResNet50." in list(requirements([config], measured()))
    fetched: list[str] = []
    monkeypatch.setattr(needing, "fetch_published_weights", fetched.append)
    check_requirements([config, tiny_run()])
    assert fetched == ["resnet50"]


def test_missing_data_is_an_error_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMARTFRZ_DATA", raising=False)
    with pytest.raises(ValueError, match=r"imagefolder is missing: \$SMARTFRZ_DATA is not set"):
        check_requirements([tiny_run(), tiny_run(dataset="imagefolder")])
