"""Offline tracking with wandb: grouping of runs, and metrics of each evaluation."""

import json
import struct

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from experiments.runs.tracking import METRICS, start_tracking
from experiments.runs.training_loop import train
from tests.helpers.digits import ignore, tiny_run


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")


def records(folder):
    """The records of the offline run, stored in LevelDB's log format: blocks of 32 KiB."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def test_every_evaluation_logs_every_metric(tmp_path):
    config = tiny_run("autofreeze", epochs=2)
    log, finish = start_tracking(config, "table2", "autofreeze often")
    assert wandb.run is not None
    run, curves = train(config, ignore, log)
    finish()
    assert wandb.run is None
    wandb.teardown()  # waits until all is written

    written = list(records(tmp_path))
    (started,) = (record.run for record in written if record.HasField("run"))
    assert started.run_id == config.id
    assert started.run_group == "table2/residual-digits[5:10]"
    assert started.job_type == "autofreeze often"
    assert started.display_name == "residual digits[5:10] autofreeze often seed 0"
    logged = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert logged["method"] == "autofreeze often"
    assert logged["table"] == "table2" and logged["seed"] == 0 and logged["lr"] == 0.05

    rows = [
        {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in row.history.item
        }
        for row in written
        if row.HasField("history")
    ]
    assert [row["_step"] for row in rows] == [10, 20]
    assert all(row.keys() >= set(METRICS) for row in rows)
    assert [row["loss"] for row in rows] == curves.loss
    assert [row["accuracy"] for row in rows] == curves.accuracy
    assert [row["frozen_fraction"] for row in rows] == curves.frozen_fraction
    full = run.full_flops_per_step * run.total_steps
    assert rows[-1]["compute"] == curves.flops / full < 1
    assert "layers._type" not in rows[0]
    assert rows[-1]["layers._type"] == "image-file"
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/layers_*.png"))) == 1
    assert rows[-1]["tflops"] == curves.flops / 1e12
    assert rows[-1]["seconds"] == curves.train_seconds
    assert rows[-1]["memory_gib"] == curves.peak_memory_bytes / 2**30


def test_without_an_account_there_is_a_sentence(monkeypatch):
    def fail(**_):
        raise wandb.errors.UsageError("No API key.")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(ValueError, match=r"wandb: No API key\. Log in, or set WANDB_MODE=offline"):
        start_tracking(tiny_run(), "table2", "full")
