"""Tests of the overhead study (Appendix C), with counts derived by hand and a fake clock."""

import pandas as pd
import pytest
import torch

from experiments.options import SmartFRZOptions
from experiments.studies import overhead
from experiments.studies.overhead import (
    caption,
    decision_flops,
    quantities,
    share_of_training,
    table,
    tensor_bytes,
    time_by_layers,
    training_times,
)
from smartfrz.predictor.attention import AttentionPredictor
from tests.helpers.clock import Clock
from tests.helpers.digits import tiny_run

TIMES = {
    **{"step_ms": 100.0, "record_ms": 2.0, "decide_ms": 1.0, "from_scratch_ms": 20.0},
    **{"layers": 53, "kept_bytes": 7_000_000},
}


def test_flops_are_twice_the_products_of_the_matrices():
    mlp = 2 * (1024 * 256 + 256 * 256 + 256 * 64)
    attend, classify = 2 * 2 * 30 * 64, 2 * (64 * 32 + 32 * 32 + 32 * 2)
    flops = decision_flops(AttentionPredictor(), records_per_decision=5)
    assert flops == {
        "as_written": 90 * mlp + attend + classify,
        "from_scratch": 61 * mlp + attend + classify,
        "kept": 11 * mlp + attend + classify,
        "record": 2 * mlp,
        "decide": mlp + attend + classify,
    }
    elsewhere = AttentionPredictor().to("meta")
    assert decision_flops(elsewhere, records_per_decision=5) == flops
    assert flops["as_written"] / 1e9 == pytest.approx(0.062, abs=0.001)  # the paper reports 0.12


def test_all_tensors_that_are_kept_are_counted():
    class Keeper:
        def __init__(self):
            self.model = torch.nn.Linear(9, 9)
            self.parts = {"a": [torch.zeros(3)], "b": (torch.zeros(2, dtype=torch.bool), "text")}

    assert tensor_bytes(Keeper()) == 14


def test_times_are_medians_for_each_number_of_layers(monkeypatch):
    """Three untimed repeats of a second each, then seven of 1 to 7 ms."""
    clock = Clock([1.0, 1.0, 1.0, *(n / 1000 for n in (5, 1, 7, 2, 4, 6, 3))])
    monkeypatch.setattr(overhead, "time", clock)
    times = time_by_layers(AttentionPredictor(window=5), [2, 40], torch.device("cpu"))
    assert times["layers"].tolist() == [2, 40]
    columns = ["record_ms", "decide_ms", "from_scratch_ms"]
    assert list(times) == ["layers", *columns]
    assert times[columns].to_numpy() == pytest.approx(4.0)
    assert clock.calls == 2 * 2 * 3 * 10


@pytest.mark.parametrize(("milliseconds", "repeats"), [(1, 103), (50, 40), (1000, 10)])
def test_repeats_go_on_until_they_have_taken_long_enough(monkeypatch, milliseconds, repeats):
    """Within bounds: at least seven timed repeats, at most a hundred, and about two seconds."""
    clock = Clock([milliseconds / 1000])
    monkeypatch.setattr(overhead, "time", clock)
    time_by_layers(AttentionPredictor(window=5), [2], torch.device("cpu"))
    assert clock.calls == pytest.approx(2 * 3 * repeats, abs=6)  # sums of floats are inexact


def test_training_is_timed_beside_the_decisions_about_it(tmp_path, monkeypatch):
    """Medians of three turns, after three untimed ones."""
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    config = tiny_run("smartfrz", options={"predictor": "anything"}, train_images=64)
    one_turn = (0.05, 0.001, 0.0005, 0.01)
    turns = [9.0] * 12 + [factor * each for factor in (1, 3, 2) for each in one_turn]
    monkeypatch.setattr(overhead, "time", Clock(turns))
    times = training_times(config, AttentionPredictor(), repeats=3)
    assert times.keys() == TIMES.keys()
    assert times["layers"] == 9
    assert times["kept_bytes"] > 30 * 9 * 2 * 64 * 4  # keys and values alone
    names = ["step_ms", "record_ms", "decide_ms", "from_scratch_ms"]
    assert [times[name] for name in names] == pytest.approx([100.0, 2.0, 1.0, 20.0])


def test_the_share_is_that_of_records_and_decisions_in_an_epoch():
    options = SmartFRZOptions(records_per_epoch=10, records_per_decision=5)
    # 80 steps with a record at every 8th: 2 ms and a fifth of a decision per 800 ms.
    assert share_of_training(TIMES, options, 80) == pytest.approx(2.2 / 800)
    assert share_of_training(TIMES, options, 80, "from_scratch_ms") == pytest.approx(6 / 800)
    assert share_of_training(TIMES, options, 800) == pytest.approx(0.22 / 800)


def test_the_table_has_the_paper_s_numbers_beside_ours():
    predictor, options = AttentionPredictor(), SmartFRZOptions()
    made = quantities(predictor, TIMES, options, 80, 1562)
    text = table(made)
    assert "| Predictor: size | MB | 4 | 4.15 |" in text
    assert "| Sampled weights, 30 records | MB | 6 | 6.51 |" in text
    assert "| A layer: Eq. 1 for 30 records | GFLOPs | 0.12 | 0.0619 |" in text
    assert "| An optimizer step | ms | – | 100 |" in text  # noqa: RUF001
    assert "1,562 steps" in text
    assert len(quantities(predictor, TIMES, options, 80, 80)) == len(made) - 1


def test_the_caption_says_by_how_much_time_grows():
    rows = [(n, n / 10, n / 20, 5.0 * n) for n in (10, 100, 1000)]
    names = ["layers", "record_ms", "decide_ms", "from_scratch_ms"]
    config = tiny_run("smartfrz", options={"records_per_epoch": 7})
    text = caption(pd.DataFrame(rows, columns=names), "a network", config)
    assert "From 100 to 1,000 layers, an increase by a factor of 10," in text
    assert "the time of a record grows by a factor of 10, of a decision 10," in text
    assert "a network, 16 pixels, batches of 32, 7 records per epoch" in text
