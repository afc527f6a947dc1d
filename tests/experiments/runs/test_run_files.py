"""Run files: atomic writes, damaged files, and data frames of runs."""

import errno
import json
import os

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from experiments.errors import UserError
from experiments.files import write_csv, write_json_atomic
from experiments.runs.run_files import RUN_KEYS, is_intact, read_run, sealed
from experiments.runs.run_frame import load_runs, read_csv, runs_to_frame


def make_run(seed=0, method="smartfrz", **changes):
    config = {"model": "vgg11", "dataset": "cifar10", "method": method, "seed": seed}
    run = {
        "id": f"{seed}e{len(method)}",
        "status": "finished",
        "config": config | {"epochs": 10.0, "batch_size": 32, "options": {"window": 30}},
        "metric": "accuracy",
        "accuracy": [0.41, 0.1 + 0.2],
        "eval_steps": [80, 160],
        "final_accuracy": 0.1 + 0.2,
        "loss": [2.1, 0.7],
        "steps": 160,
        "steps_per_epoch": 16,
        "frozen_fraction": [0.0, 0.5],
        "train_seconds": 118.2,
        "overhead_seconds": 0.31,
        "eval_seconds": 5.0,
        "tflops": 12.3,
        "tflops_paper": 12.5,
        "tflops_full": 20.1,
        "peak_memory_bytes": 812345678,
        "layers": ["conv1", "head"],
        "frozen": {"conv1": 120},
        "pretrained": {"source": "cifar100", "accuracy": 0.33},
        "machine": {"cpu": "AMD EPYC", "cores": 2, "gpu": None},
        "torch": "2.10",
        "git": "12e4567",
        "command": "make table2 SCALE=small",
        "date": "2026-11-23T18:00:00",
    }
    return run | changes


def diverged_run(seed=1):
    return make_run(seed, status="diverged", final_accuracy=None, loss=[2.3, float("nan")])


def test_a_run_reads_back_as_written(tmp_path):
    path = tmp_path / "runs" / "a.json"
    write_json_atomic(path, make_run())
    assert read_run(path) == make_run()
    assert list(path.parent.iterdir()) == [path]


def fail_with_a_full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"old": 1})
    monkeypatch.setattr(os, call, fail_with_a_full_disk)
    with pytest.raises(UserError, match=r"a\.json cannot be written: .*No space left"):
        write_json_atomic(path, {"new": 2})
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text()) == {"old": 1}


def test_the_target_changes_only_once_the_content_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
    write_json_atomic(path, {})
    assert seen == [False]
    assert path.exists()


def without(key):
    run = make_run()
    del run[key]
    return json.dumps(run)


CORRUPT = [
    "",
    json.dumps(make_run())[:-40],
    "[]",
    json.dumps(make_run(config={"model": "vgg11"})),
    json.dumps(make_run(config=None)),
    *map(without, sorted(RUN_KEYS)),
]


@pytest.mark.parametrize("text", CORRUPT)
def test_a_file_that_is_no_whole_run_counts_as_missing_and_is_left_as_it_is(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"a\.json cannot be read .*counts as missing"):
        assert read_run(path) is None
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == text


def test_bytes_that_are_no_text_are_no_run(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe{")
    with pytest.warns(UserWarning, match="codec can.t decode"):
        assert read_run(path) is None


def test_the_warning_names_what_is_missing(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(without("tflops"))
    with pytest.warns(UserWarning, match="tflops missing"):
        read_run(path)


def test_load_runs_skips_what_it_cannot_read(tmp_path):
    write_json_atomic(tmp_path / "a.json", make_run(seed=3))
    (tmp_path / "b.json").write_text("{")
    with pytest.warns(UserWarning, match=r"b\.json"):
        frame = load_runs(tmp_path)
    assert frame["seed"].tolist() == [3]


def test_the_frame_is_flat():
    frame = runs_to_frame([make_run(seed=1), make_run(seed=0, method="full")])
    assert frame["method"].tolist() == ["full", "smartfrz"]
    row = frame.iloc[1]
    assert row["machine"] == "AMD EPYC, 2 cores"
    assert row["batch_size"] == 32
    assert (row["pretrained_source"], row["pretrained_accuracy"]) == ("cifar100", 0.33)
    assert json.loads(row["frozen"]) == {"conv1": 120}
    assert json.loads(row["options"]) == {"window": 30}


def test_a_gpu_is_the_machine():
    gpu = {"cpu": "AMD EPYC", "cores": 16, "gpu": "NVIDIA H100"}
    assert runs_to_frame([make_run(machine=gpu)])["machine"].tolist() == ["NVIDIA H100"]


def test_eight_processes_are_another_machine_than_one():
    gpu = {"cpu": "AMD EPYC", "cores": 16, "gpu": "NVIDIA H100", "processes": 8}
    assert runs_to_frame([make_run(machine=gpu)])["machine"].tolist() == ["8 x NVIDIA H100"]
    assert runs_to_frame([make_run(machine=gpu | {"processes": 1})])["machine"].tolist() == [
        "NVIDIA H100"
    ]


def test_no_pretraining_is_blank():
    frame = runs_to_frame([make_run(pretrained=None)])
    assert frame[["pretrained_source", "pretrained_accuracy"]].isna().all(axis=None)


@pytest.mark.parametrize(
    "runs", [[make_run(), diverged_run()], [make_run(pretrained=None)], [diverged_run()]]
)
def test_a_frame_survives_a_csv(tmp_path, runs):
    frame = runs_to_frame(runs)
    write_csv(frame, tmp_path / "runs.csv")
    assert_frame_equal(read_csv(tmp_path / "runs.csv"), frame, check_dtype=False)


def test_ids_and_versions_stay_words(tmp_path):
    write_csv(runs_to_frame([make_run()]), tmp_path / "runs.csv")
    row = read_csv(tmp_path / "runs.csv").iloc[0]
    assert (row["id"], row["torch"], row["git"]) == ("0e8", "2.10", "12e4567")


def test_no_runs_are_an_empty_frame_that_survives_a_csv(tmp_path):
    frame = runs_to_frame([])
    write_csv(frame, tmp_path / "runs.csv")
    read = read_csv(tmp_path / "runs.csv")
    assert read.empty
    assert list(read.columns) == list(frame.columns)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_digit_survives_a_csv(tmp_path_factory, seconds):
    path = tmp_path_factory.getbasetemp() / "digits.csv"
    write_csv(runs_to_frame([make_run(train_seconds=seconds)]), path)
    assert read_csv(path)["train_seconds"].item() == seconds


def test_a_config_that_hides_a_measurement_is_refused():
    run = make_run()
    run["config"]["steps"] = 7
    with pytest.raises(AssertionError, match="steps"):
        runs_to_frame([run])


def test_the_diverged_run_has_no_accuracy():
    frame = runs_to_frame([make_run(), diverged_run()])
    assert pd.isna(frame.set_index("status").at["diverged", "final_accuracy"])


def test_a_sealed_run_is_intact_until_it_is_edited(tmp_path):
    for i, run in enumerate([make_run(), diverged_run()]):
        path = tmp_path / f"{i}.json"
        write_json_atomic(path, sealed(run))
        found = read_run(path)
        assert is_intact(found)
        for key, value in {"final_accuracy": 0.31, "seed": 5, "frozen": {}}.items():
            assert not is_intact(found | {key: value})
        assert sorted(runs_to_frame([found, make_run()])["is_intact"]) == [False, True]
