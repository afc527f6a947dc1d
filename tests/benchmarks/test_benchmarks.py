"""The benchmarks: what they freeze, measure and write, on small networks."""

import time
from functools import partial

import pandas as pd
import pytest
import torch

from benchmarks import (
    bookkeeping,
    communication,
    compiled_steps,
    peak_memory,
    saved_activations,
    step_time,
    whole_runs,
)
from benchmarks.report import parser, present
from benchmarks.timing import median_ratio, seconds, take_turns
from benchmarks.workloads import LAYOUTS, MODELS, make_workload
from smartfrz.cost.flops import forward_macs
from tests.helpers.digits import save_random_predictor, tiny_run


@pytest.fixture
def workload():
    return make_workload("residual", batch_size=2, size=16)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_about_a_fraction_of_the_flops_is_frozen(workload, layout, fraction):
    chosen = workload.chosen(layout, fraction)
    macs = {layer: workload.forward_macs(layer) for layer in workload.body}
    assert sum(macs.values()) == pytest.approx(forward_macs(workload.calls), rel=0.05)
    part = sum(macs[layer] for layer in chosen) / sum(macs.values())
    assert abs(part - fraction) <= 0.51 * max(macs.values()) / sum(macs.values())
    if layout == "prefix":
        assert chosen == workload.body[: len(chosen)]
    assert not any(layer.is_head for layer in chosen)


def test_freezing_a_workload_thaws_the_rest(workload):
    for layers in (workload.body[:3], workload.body[2:4]):
        workload.freeze(layers)
        for layer in workload.layers:
            assert all(param.requires_grad == (layer not in layers) for param in layer.params)
            assert all(norm.training == (layer not in layers) for norm in layer.norms)


def test_a_ratio_is_of_what_was_measured_in_the_same_turn():
    assert median_ratio([1.0, 20.0, 3.0], [2.0, 40.0, 3.0]) == 0.5
    taken = take_turns({"a": lambda: 1.0, "b": lambda: 2.0}, repeats=3)
    assert taken == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert seconds(lambda: time.sleep(0.01)) >= 0.01


def test_step_times_have_all_ratios(workload):
    row = step_time.step_times(workload, "prefix", 0.5, repeats=1)
    assert 0.5 < row["compute"] < 1
    assert set(step_time.COLUMNS) - {"model", "layout", "fraction"} <= row.keys()
    assert all(value > 0 for value in row.values())
    ratio = row["stock_ms"] / row["ideal_ms"]
    assert row["stock_over_ideal"] == pytest.approx(ratio)


def test_saved_activations_are_fewer_with_ours(monkeypatch):
    monkeypatch.setattr(saved_activations, "DRAWS", 2)
    frame = saved_activations.measure(["residual"])
    assert frame["frozen"].tolist() == ["all but stem and head", "random half"]
    assert (frame["ours"] < frame["stock"]).all()
    assert (frame["stock"] <= frame["full"]).all()
    assert frame["memsave"].isna().all()


def test_peaks_are_of_steps_without_and_with_ours(workload, monkeypatch):
    """On the CPU with what the forward pass keeps in place of the allocator's peak."""
    kept = partial(saved_activations.kept, workload, workload.model)
    monkeypatch.setattr(peak_memory, "step_gib", lambda workload: kept())
    row = peak_memory.peaks(workload, "scattered", 0.5)
    assert row["ours"] < row["stock"] < row["full"]
    assert row["stock_over_full"] == row["stock"] / row["full"]
    assert set(peak_memory.COLUMNS) - {"model", "layout", "fraction"} <= row.keys()


def test_peak_memory_says_that_it_needs_a_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["peak_memory", "--results", str(tmp_path)])
    peak_memory.main()
    assert "needs a GPU" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_the_peak_falls_with_what_is_frozen():
    (_, row, *_) = peak_memory.measure(["vgg11"]).to_dict("records")
    assert row["ours"] <= row["stock"] < row["full"]


@pytest.mark.parametrize("method", bookkeeping.METHODS)
def test_bookkeeping_is_a_small_part(method, workload):
    assert 0 < bookkeeping.idle_seconds(method, 10, steps=5) < 0.1
    assert 0 < bookkeeping.share(workload, method, intervals=1) < 1


def test_idle_steps_have_a_column_for_each_method(monkeypatch):
    monkeypatch.setattr(bookkeeping, "LAYERS", (2, 3))
    frame = bookkeeping.idle_steps()
    assert list(frame) == list(bookkeeping.IDLE) == ["layers", *bookkeeping.METHODS]
    assert frame["layers"].tolist() == [2, 3]


def test_what_is_reduced_goes_with_what_trains(monkeypatch):
    frame = communication.measure(["residual"])
    assert len(frame) == len(LAYOUTS) * len(communication.FRACTIONS)
    assert (frame["reduced"] - frame["params"]).abs().max() < 2
    assert frame["params"].min() < 10 < 90 < frame["params"].max()


def test_a_benchmark_is_written_and_not_repeated(tmp_path, capsys):
    made = []

    def measure() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"model": ["resnet50"], "ratio": [1.234], "other": [float("nan")]})

    options = parser("example", None).parse_args(
        ["--models", "resnet50", "--repeats", "1", "--results", str(tmp_path)]
    )
    for _ in range(2):
        columns = {"model": "Model", "ratio": "A ratio", "other": "Another"}
        present("example", options, measure, columns, "An example.")
    assert made == [1]
    assert "| ResNet50 | 1.23 | not run |" in capsys.readouterr().out
    text = (tmp_path / "bench-example" / "table.md").read_text()
    assert text.startswith("An example. Measured: ")
    assert f"torch {torch.__version__}" in text
    assert "benchmarks.example --models resnet50 --repeats 1." in text


def test_the_command_line_takes_known_models_only():
    assert parser("example", "What it does.").parse_args([]).models == list(MODELS)
    with pytest.raises(SystemExit):
        parser("example", "What it does.").parse_args(["--models", "resnet51"])


@pytest.mark.parametrize(("model", "dataset"), [("vgg11", "cifar10"), ("bert_mini", "mrpc")])
def test_whole_runs_are_those_of_the_tables(model, dataset):
    config = whole_runs.smartfrz_run(model)
    assert (config.method, config.dataset, config.seed) == ("smartfrz", dataset, 0)


def test_compiled_steps_compile_once_for_each_freeze(monkeypatch):
    small = make_workload("residual", batch_size=2, size=16)
    monkeypatch.setattr(compiled_steps, "as_in_table_2", lambda model: small)
    eager_backend = partial(torch.compile, backend="eager")
    monkeypatch.setitem(compiled_steps.KINDS, "compiled", eager_backend)
    frame = compiled_steps.measure(["residual"], repeats=1)
    by_kind = frame.set_index("kind")
    assert by_kind.loc["eager", "compilations"].eq(0).all()
    assert by_kind.loc["compiled", "compilations"].tolist() == [1, 2, 3, 4, 5]
    assert by_kind.loc["eager", "frozen"].tolist() == [0, 3, 5, 7, 9]
    assert (frame["ms"] > 0).all()


def test_whole_runs_train_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    config = tiny_run("smartfrz", options=save_random_predictor(tmp_path / "predictor"))
    monkeypatch.setattr(whole_runs, "smartfrz_run", lambda model: config)
    (row,) = whole_runs.side_by_side("vgg11", tmp_path).to_dict("records")
    assert row.keys() == whole_runs.COLUMNS.keys()
    assert row["features"] == "computed"
    assert 0 < row["compute"] < 1
    assert row["freezes"] > 0
    assert row["time_over_compute"] == pytest.approx((1 - row["time"]) / (1 - row["compute"]))


@pytest.mark.parametrize(
    ("model", "time", "ratio"),
    [("resnet50", 0.75, "0.72"), ("vgg11", 0.58, "0.75"), ("bert_mini", 0.68, "not given")],
)
def test_the_paper_s_time_saved_over_compute_saved(model, time, ratio):
    found = whole_runs.in_the_paper(model)
    assert float(found["paper_time"]) == pytest.approx(time, abs=0.011)
    assert found["paper"] == ratio
