"""Tests of the benchmarks on small networks, with a fake clock."""

from functools import partial
from itertools import product

import pandas as pd
import pytest
import torch
from torch import nn
from transformers import GPT2Config

from benchmarks import (
    bookkeeping,
    cached_features,
    captured_steps,
    communication,
    compiled_steps,
    language_model,
    peak_memory,
    saved_activations,
    step_time,
    timing,
    whole_runs,
)
from benchmarks.figures import time_by_kind
from benchmarks.report import device_suffix, parser, present
from benchmarks.timing import median_ratio, seconds, take_turns
from benchmarks.workloads import LAYOUTS, MODELS, make_workload
from smartfrz.cost.flops import forward_macs
from tests.helpers.clock import Clock
from tests.helpers.digits import save_random_predictor, tiny_run


@pytest.fixture
def use_clock(monkeypatch):
    """Sets the durations of the actions that benchmarks time."""
    return lambda *seconds: monkeypatch.setattr(timing, "time", Clock(seconds))


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


def test_seconds_are_the_time_between_the_start_and_the_end_of_an_action(monkeypatch):
    clock, done = Clock([0.25, 0.5]), []
    monkeypatch.setattr(timing, "time", clock)
    assert seconds(lambda: done.append(clock.calls)) == 0.25
    assert seconds(lambda: done.append(clock.calls)) == 0.5
    assert done == [1, 3]  # each between two calls of the clock


def test_turns_after_the_warmup_are_kept():
    calls = {"a": 0, "b": 0}

    def timed(name):
        calls[name] += 1
        return float(calls[name])

    actions = {name: partial(timed, name) for name in calls}
    assert take_turns(actions, repeats=2) == {"a": [3.0, 4.0], "b": [3.0, 4.0]}


def test_step_times_have_all_ratios(workload, use_clock):
    """If each timed action takes 10 ms, the ideal, of two actions, takes 20 ms."""
    use_clock(0.01)
    row = step_time.step_times(workload, "prefix", 0.5, repeats=1)
    assert 0.5 < row["compute"] < 1
    assert set(step_time.COLUMNS) - {"model", "layout", "fraction"} <= row.keys()
    single = ("ours", "lean", "stock", "forward", "backward", "full")
    assert [row[f"{name}_ms"] for name in single] == pytest.approx([10.0] * 6)
    assert row["ideal_ms"] == pytest.approx(20.0)
    for name in ("stock", "ours", "lean"):
        assert row[f"{name}_over_ideal"] == pytest.approx(0.5)
        assert row[f"{name}_over_full"] == pytest.approx(1.0)


def test_step_times_are_medians_over_turns(workload, monkeypatch):
    taken = {
        **{"ours": [3.0, 4.0, 9.0], "lean": [4.0, 6.0, 9.0], "stock": [6.0, 8.0, 9.0]},
        **{"forward": [1.0, 1.0, 2.0], "backward": [2.0, 3.0, 4.0], "full": [6.0, 16.0, 9.0]},
    }

    def turns(actions, repeats):
        assert actions.keys() == taken.keys() and repeats == 3
        return taken

    monkeypatch.setattr(step_time, "take_turns", turns)
    row = step_time.step_times(workload, "prefix", 0.5, repeats=3)
    assert (row["ours_ms"], row["ideal_ms"], row["full_ms"]) == (4000.0, 4000.0, 9000.0)
    # Ratios are taken within a turn: the ideals are 3, 4 and 6.
    assert (row["ours_over_ideal"], row["ours_over_full"]) == (1.0, 0.5)
    assert (row["stock_over_ideal"], row["stock_over_full"]) == (2.0, 1.0)
    assert row["lean_over_ideal"] == 1.5


def test_saved_activations_are_fewer_with_ours(monkeypatch):
    monkeypatch.setattr(saved_activations, "DRAWS", 2)
    frame = saved_activations.measure(["residual"], repeats=1)
    assert frame["frozen"].tolist() == ["nothing", "all but stem and head", "random half"]
    assert (frame["time_over_stock"] > 0).all()
    nothing, *partly = frame.itertuples()
    assert nothing.ours < nothing.stock == nothing.full
    assert all(row.ours < row.stock <= row.full for row in partly)
    assert frame["memsave"].isna().all()


def test_a_frozen_front_of_a_language_model_saves_more_if_its_embedding_is_detached(use_clock):
    use_clock(0.01)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=4, n_head=2, n_positions=8)
    frame = language_model.measure(config, repeats=1).set_index(["embedding", "fraction"])
    assert set(language_model.COLUMNS) - {"embedding", "fraction"} <= set(frame.columns)
    for embedding in ("tied", "tied, detached"):
        rows = frame.loc[embedding]
        assert rows.index.tolist() == [*language_model.FRACTIONS]
        for column in ("compute", "activations", "gradients"):
            assert rows[column].is_monotonic_decreasing and rows[column].nunique() == 5
    tied, detached = (frame.loc[(name, 1.0)] for name in ("tied", "tied, detached"))
    assert tied["compute"] > 0.6 and detached["compute"] < 0.5
    assert detached["activations"] < 0.5 * tied["activations"]
    assert detached["gradients"] == tied["gradients"] == 50 * 16 * 4 / 2**20


def test_peaks_are_of_steps_without_and_with_ours(workload, monkeypatch):
    """On the CPU, the memory saved by the forward pass replaces the allocator's peak."""
    kept = partial(saved_activations.kept, workload, workload.model)
    monkeypatch.setattr(peak_memory, "step_gib", lambda workload: kept())
    row = peak_memory.peaks(workload, "scattered", 0.5)
    assert row["ours"] < row["stock"] < row["full"]
    assert row["stock_over_full"] == row["stock"] / row["full"]
    assert set(peak_memory.COLUMNS) - {"model", "layout", "fraction"} <= row.keys()


@pytest.mark.parametrize("benchmark", [peak_memory, captured_steps])
def test_a_benchmark_says_that_it_needs_a_gpu(benchmark, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmark", "--results", str(tmp_path)])
    benchmark.main()
    assert "needs a GPU" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_the_peak_falls_with_what_is_frozen():
    (_, row, *_) = peak_memory.measure(["vgg11"]).to_dict("records")
    assert row["ours"] <= row["stock"] < row["full"]


@pytest.mark.parametrize("method", bookkeeping.METHODS)
def test_bookkeeping_is_a_share_of_the_time(method, workload, use_clock):
    """Backward pass 60 ms, ``Freezer.step`` 10 ms, optimizer 30 ms, after a slower warmup."""
    interval = 20
    use_clock(*[9.0] * (3 * interval), *[0.06, 0.01, 0.03] * interval)
    assert bookkeeping.share(workload, method, interval, intervals=1) == pytest.approx(0.1)


def test_shares_have_a_row_for_each_interval_and_method(monkeypatch, workload, use_clock):
    use_clock(0.25)
    monkeypatch.setattr(bookkeeping, "as_in_table_2", lambda model: workload)
    monkeypatch.setattr(bookkeeping, "INTERVALS", (2, 3))
    frame = bookkeeping.shares(["residual"], repeats=1)
    assert list(frame) == list(bookkeeping.SHARES)
    cases = [(interval, method) for interval in (2, 3) for method in bookkeeping.METHODS]
    assert [*zip(frame["interval"], frame["method"], strict=True)] == cases
    assert frame["share"].to_numpy() == pytest.approx(100 / 3)


@pytest.mark.filterwarnings("error:Freezer.step was called again")
@pytest.mark.parametrize("method", bookkeeping.METHODS)
def test_idle_steps_are_medians(method, use_clock):
    use_clock(9.0, 0.5, 0.1, 0.4, 0.2, 0.3)
    assert bookkeeping.idle_seconds(method, 10, steps=5) == pytest.approx(0.3)


def test_idle_steps_have_a_column_for_each_method(monkeypatch, use_clock):
    use_clock(0.25)
    monkeypatch.setattr(bookkeeping, "LAYERS", (2, 3))
    frame = bookkeeping.idle_steps()
    assert list(frame) == list(bookkeeping.IDLE) == ["layers", *bookkeeping.METHODS]
    assert frame["layers"].tolist() == [2, 3]
    microseconds = frame[list(bookkeeping.METHODS)].to_numpy()
    assert microseconds == pytest.approx(250_000.0)


@pytest.mark.slow
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
    present("example", options, measure, columns, "An example.", nan="\u2013")
    assert "| ResNet50 | 1.23 | \u2013 |" in capsys.readouterr().out
    text = (tmp_path / "bench-example" / "table.md").read_text()
    assert text.startswith("An example. Measured on ")
    assert f"torch {torch.__version__}" in text
    assert "benchmarks.example --models resnet50 --repeats 1." in text


@pytest.mark.parametrize(
    ("gpu", "suffix"),
    [("NVIDIA H100 80GB HBM3", "-h100-80gb-hbm3"), ("Tesla T4", "-tesla-t4"), (None, "")],
)
def test_results_are_named_by_the_device(gpu, suffix, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    assert device_suffix() == suffix


def test_the_command_line_takes_known_models_only():
    assert parser("example", "What it does.").parse_args([]).models == list(MODELS)
    with pytest.raises(SystemExit):
        parser("example", "What it does.").parse_args(["--models", "resnet51"])


@pytest.mark.parametrize(("model", "dataset"), [("vgg11", "cifar10"), ("bert_mini", "mrpc")])
def test_whole_runs_are_those_of_the_tables(model, dataset):
    config = whole_runs.smartfrz_run(model)
    assert (config.method, config.dataset, config.seed) == ("smartfrz", dataset, 0)


@pytest.fixture
def compiled_by_eager(monkeypatch):
    """Compiles to the unchanged graph, for a small residual network."""
    small = make_workload("residual", batch_size=2, size=16)
    monkeypatch.setattr(compiled_steps, "as_in_table_2", lambda model, batch_size: small)
    compiled = partial(torch.compile, backend="eager")
    monkeypatch.setitem(compiled_steps.KINDS, "compiled", compiled)

    def compile_blocks(model: nn.Module) -> nn.Module:
        for block in compiled_steps.blocks(model):
            block.compile(backend="eager", dynamic=False)
        return model

    monkeypatch.setitem(compiled_steps.KINDS, "compiled blocks", compile_blocks)


@pytest.mark.filterwarnings("ignore:There is no CUDA graph on a CPU")
@pytest.mark.usefixtures("compiled_by_eager")
def test_captured_steps_are_measured_beside_eager_ones(use_clock):
    use_clock(0.002)
    kinds = ("eager", compiled_steps.CAPTURED)
    frame = compiled_steps.measure(["residual"], 1, kinds, [32])
    assert frame["kind"].tolist() == [*kinds] * 5
    assert frame["over_full"].to_numpy() == pytest.approx(1.0)
    assert frame["frozen"].tolist() == [0, 0, 3, 3, 5, 5, 7, 7, 9, 9]


@pytest.mark.usefixtures("compiled_by_eager")
def test_compiled_steps_compile_once_for_each_freeze(use_clock):
    use_clock(0.002)
    kinds = ("eager", "compiled", "compiled blocks")
    frame = compiled_steps.measure(["residual"], 1, kinds, [32])
    assert list(compiled_steps.COLUMNS) == list(frame)
    by_kind = frame.set_index("kind")
    assert set(by_kind.index) == {*kinds}
    assert by_kind.loc["eager", "compilations"].eq(0).all()
    assert by_kind.loc["compiled", "compilations"].tolist() == [1, 2, 3, 4, 5]
    assert by_kind.loc["eager", "frozen"].tolist() == [0, 3, 5, 7, 9]
    assert by_kind.loc["eager", "compute"].is_monotonic_decreasing
    assert frame["ms"].to_numpy() == pytest.approx(2.0)
    for column in ("over_eager", "over_full"):
        assert frame[column].to_numpy() == pytest.approx(1.0)
    assert frame["saved_over_saved"].dropna().to_numpy() == pytest.approx([0.0] * 12)
    assert frame["first_s"].to_numpy() == pytest.approx(0.002)


def test_blocks_are_the_outermost_modules_of_a_repeated_class():
    names = {"resnet50": 16, "deit_tiny": 12, "mobilenet_v2": 19, "vgg11": 0}
    for name, count in names.items():
        model = make_workload(name, batch_size=2, size=32).model
        found = list(compiled_steps.blocks(model))
        inner = {part for block in found for part in list(block.modules())[1:]}
        assert len(found) == count and inner.isdisjoint(found), name


def test_time_is_drawn_for_each_network_batch_and_kind():
    cases = product(["resnet50", "vgg11"], [32, 256], ["eager", "compiled"], [1.0, 0.5])
    frame = pd.DataFrame(cases, columns=["model", "batch_size", "kind", "compute"])
    figure = time_by_kind(frame.assign(over_full=frame["compute"] + 0.1))
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [f"{m}, batch {b}" for b in (32, 256) for m in ("ResNet50", "VGG11")]
    for ax in figure.axes:
        ideal, *lines = ax.get_lines()
        assert [*ideal.get_xdata()] == [*ideal.get_ydata()]
        assert [line.get_label() for line in lines] == ["eager", "compiled"]
        assert all([*line.get_ydata()] == pytest.approx([1.1, 0.6]) for line in lines)


def test_whole_runs_train_side_by_side(tmp_path, monkeypatch, use_clock):
    """Each step of full training takes 4 ms, each one of SmartFRZ 3 ms."""
    use_clock(0.004, 0.003)
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    config = tiny_run("smartfrz", options=save_random_predictor(tmp_path / "predictor"))
    monkeypatch.setattr(whole_runs, "smartfrz_run", lambda model: config)
    (row,) = whole_runs.side_by_side("vgg11", tmp_path).to_dict("records")
    assert row.keys() == whole_runs.COLUMNS.keys()
    assert 0 < row["compute"] < 1
    assert row["freezes"] > 0
    assert row["time"] == pytest.approx(0.75)
    assert row["time_over_compute"] == pytest.approx(0.25 / (1 - row["compute"]))


def test_methods_run_with_and_without_cached_features(tmp_path, monkeypatch, use_clock):
    """Each step of full training takes 4 ms, computed features take 3 ms, and cached ones 2 ms."""
    use_clock(0.004, 0.003, 0.002)
    text = {"model": "bert_tiny", "dataset": "made", "max_length": 16, "optimizer": "adamw"}
    config = tiny_run("static_prefix", options={"compute": 0.75}, lr=1e-3, **text)
    monkeypatch.setattr(cached_features, "computed_runs", lambda model: {"static_prefix": config})
    computed, cached = cached_features.side_by_side("minilm", tmp_path).to_dict("records")
    assert computed.keys() == cached.keys() == cached_features.COLUMNS.keys()
    assert [computed["features"], cached["features"]] == ["computed", "cached"]
    assert [computed["time"], cached["time"]] == pytest.approx([0.75, 0.5])
    assert computed["compute"] == cached["compute"] < 1


def test_cached_features_are_measured_at_equal_compute():
    runs = cached_features.computed_runs("minilm")
    assert {config.options.compute for config in runs.values()} == {0.58}
    assert {config.pretraining.dataset for config in runs.values()} == {"sentence_pairs"}
    assert not any(config.feature_cache for config in runs.values())


@pytest.mark.parametrize(
    ("model", "time", "ratio"),
    [("resnet50", 0.75, "0.72"), ("vgg11", 0.58, "0.75"), ("bert_mini", 0.68, "not given")],
)
def test_the_paper_s_time_saved_over_compute_saved(model, time, ratio):
    found = whole_runs.in_the_paper(model)
    assert float(found["paper_time"]) == pytest.approx(time, abs=0.011)
    assert found["paper"] == ratio
