"""Tests of Figure 5a: memory replayed from the steps at which a run froze its layers."""

import json

import pandas as pd
import pytest

from experiments.runs.execute import execute
from experiments.studies.memory_over_time import caption, mean_memory, memory_over_time
from tests.helpers.digits import ignore, tiny_run


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMARTFRZ_CACHE", str(folder / "cache"))
        config = tiny_run("linear", options={"t0": 0.3, "match": ""})
        execute(config, folder, "make fig5", ignore, ignore)
    return json.loads((folder / f"{config.id}.json").read_text())


def test_memory_falls_with_every_freeze_from_the_front(record: dict) -> None:
    memory = memory_over_time(record)
    events = sorted(set(record["frozen"].values()))
    assert list(memory["epoch"] * record["steps_per_epoch"]) == [0, *events, record["steps"]]
    assert len(events) > 3
    assert memory["stock"].is_monotonic_decreasing
    assert memory["saved"].is_monotonic_decreasing
    assert (memory["saved"] <= memory["stock"]).all()
    assert (memory["folded"] >= memory["saved"]).all()
    assert memory["stock"].iloc[-1] < 0.5 * memory["stock"].iloc[0]


def test_without_freezing_memory_stays_as_it_is(record: dict) -> None:
    memory = memory_over_time(record | {"frozen": {}})
    assert memory["stock"].nunique() == 1


def test_the_mean_is_over_time_and_not_over_events() -> None:
    run = pd.DataFrame({"epoch": [0, 6, 8], "stock": [100, 20, 20]})
    assert mean_memory(run, "stock") == pytest.approx((6 * 100 + 2 * 20) / 8)


def test_the_caption_says_what_is_saved(record: dict) -> None:
    frame = memory_over_time(record).assign(stock=100, saved=50, folded=75)
    text = caption(frame, measured_on_gpu=False)
    assert "with save_memory 50% and 50%" in text
    assert "with batch norms folded as well (more memory, less time) 25% and 25%" in text
    assert "counted" in text
    assert "the allocator's peak" in caption(frame, measured_on_gpu=True)
