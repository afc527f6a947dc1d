"""Text data sets: tokenising, batches, masking, and training BERT on them."""

import math
import os
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from torch import Tensor

from experiments.config import RunConfig
from experiments.data import sentences as text
from experiments.data.registry import load, make_batches
from experiments.data.sentence_batches import MaskedTextBatches
from experiments.data.sentences import CLS, MASK, SEP, load_text
from experiments.methods import make_config
from experiments.models.bert import masked_bert
from experiments.models.pretraining import pretraining_run
from experiments.models.weights import load_weights
from experiments.plan import labelled_plan
from experiments.runs.execute import execute, is_finished
from experiments.runs.run_files import read_run
from experiments.runs.setup import prepare
from experiments.runs.training_loop import Curves, train, train_step
from experiments.spec import load_spec
from experiments.tables.compute import full_tflops
from tests.helpers.digits import ignore
from tests.helpers.sentences import write_sentences

CPU = torch.device("cpu")
LENGTH = 24
REAL = os.environ.get("SMARTFRZ_DATA")


@pytest.fixture(autouse=True)
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "shared"
    write_sentences(root)
    monkeypatch.setenv("SMARTFRZ_DATA", str(root))
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    load_text.cache_clear()
    text._tokenizer.cache_clear()
    yield root
    load_text.cache_clear()
    text._tokenizer.cache_clear()


def run_of(dataset: str = "mrpc", **changes: Any) -> RunConfig:
    values = {
        **{"model": "bert_mini", "dataset": dataset, "epochs": 2, "batch_size": 16},
        **{"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "max_length": LENGTH},
    }
    return make_config(values | changes)


def words_of(ids: Tensor) -> list[str]:
    return text._tokenizer().convert_ids_to_tokens(ids[ids > 0].tolist())


def test_pairs_are_two_sentences_with_their_types() -> None:
    data = load_text("mrpc", LENGTH)
    assert (len(data.train_ids), len(data.test_ids), data.num_classes) == (96, 24, 2)
    for ids, types, label in zip(data.train_ids, data.train_types, data.train_labels, strict=True):
        words = words_of(ids)
        end = words.index("[SEP]")
        assert words[0] == "[CLS]"
        assert words[-1] == "[SEP]"
        assert types[: end + 1].sum() == 0
        assert types[end + 1 : len(words)].all()
        assert types[len(words) :].sum() == 0
        assert ("w0" in words[:end]) == bool(label)


def test_long_sentences_are_cut_and_still_end() -> None:
    short = load_text("mrpc", 9)
    assert short.train_ids.shape == (96, 9)
    assert (short.train_ids == SEP).sum(1).eq(2).all()


def test_sentences_to_predict_words_in_hold_every_word_once_and_no_padding() -> None:
    data = load_text("sentences", LENGTH)
    ids = torch.cat([data.test_ids, data.train_ids])
    assert (ids[:, 0] == CLS).all()
    assert (ids > 0).all()
    assert (data.train_types == 0).all()
    # Every sentence ends with [SEP].
    assert (ids == SEP).sum() > 96


def test_validation_sentences_are_held_out_from_the_training_set() -> None:
    whole, data = load(run_of()), load(run_of(validation=True))
    assert (len(data.train_ids), len(data.test_ids)) == (86, 10)
    for part in ("ids", "types", "labels"):
        train = torch.cat([getattr(data, f"train_{part}"), getattr(data, f"test_{part}")])
        assert torch.equal(train, getattr(whole, f"train_{part}"))


def test_batches_name_what_bert_is_called_with() -> None:
    batches = make_batches(run_of(), CPU)
    data = load(run_of())
    for inputs, labels, keys in batches.epoch(0, 0):
        assert isinstance(inputs, dict)
        assert torch.equal(inputs["input_ids"], data.train_ids[keys])
        assert torch.equal(labels, data.train_labels[keys])
        assert torch.equal(inputs["attention_mask"].bool(), inputs["input_ids"] > 0)
    assert sum(len(labels) for _, labels in batches.test()) == 24


def test_masked_words_are_fifteen_percent_of_the_words_and_can_be_put_back() -> None:
    batches = make_batches(run_of("sentences", model="bert_mini_masked"), CPU)
    assert isinstance(batches, MaskedTextBatches)
    data = load(batches.config)
    masked = total = 0
    for inputs, labels, keys in batches.epoch(0, 0):
        original = data.train_ids[keys]
        found = inputs["input_ids"].gather(1, inputs["positions"])
        truth = original.gather(1, inputs["positions"])
        assert labels.shape == (len(keys), round(0.15 * LENGTH))
        assert torch.equal(labels[labels >= 0], truth[labels >= 0])
        assert not ((truth == CLS) | (truth == SEP))[labels >= 0].any()
        assert torch.equal(inputs["input_ids"].scatter(1, inputs["positions"], truth), original)
        masked += (found == MASK).sum().item()
        total += (labels >= 0).sum().item()
    assert 0.65 < masked / total < 0.95


def test_masks_depend_on_seed_and_epoch_alone_and_test_masks_on_nothing() -> None:
    batches = make_batches(run_of("sentences", model="bert_mini_masked"), CPU)
    first, again, other = (next(iter(batches.epoch(0, epoch))).inputs for epoch in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"], other["input_ids"])
    tests = [next(iter(batches.test(5)))[0]["input_ids"] for _ in range(2)]
    assert torch.equal(*tests)


def test_all_of_the_masked_model_that_trains_has_a_part_in_its_output() -> None:
    """DDP waits for the gradients of all trainable parameters."""
    model = masked_bert("bert_tiny")
    model(torch.tensor([[1, 2]]), input_ids=torch.arange(8)[None]).sum().backward()
    assert all(param.grad is not None for param in model.parameters() if param.requires_grad)


def test_the_masked_model_and_the_classifier_share_their_weights(tmp_path: Path) -> None:
    pretraining = {"dataset": "sentences", "epochs": 0.2, "batch_size": 8, "lr": 1e-3}
    config = run_of(pretraining=pretraining, epochs=1)
    source = pretraining_run(config)
    assert source is not None
    assert source.model == "bert_mini_masked"
    execute(source, tmp_path, "make table6", ignore, ignore, keep_weights=True)
    assert is_finished(source, tmp_path, needs_weights=True)
    weights, _ = load_weights(source)
    run = prepare(config)
    for name, parameter in run.model.named_parameters():
        assert name.startswith("classifier.") or torch.equal(parameter, weights[name])
    assert run.pretrained["source"] == "sentences"


def test_bert_learns_and_freezes_and_reports_all_metrics(tmp_path: Path) -> None:
    options = {"intervals_per_epoch": 2, "percentile": 80.0}
    config = run_of("mrpc", method="autofreeze", options=options, epochs=3, feature_cache=True)
    execute(config, tmp_path, "make table6", ignore, ignore)
    run = read_run(tmp_path / f"{config.id}.json")
    assert run is not None
    assert run["metric"] == "accuracy"
    assert run["scores"].keys() == {"accuracy", "f1"}
    assert run["final_accuracy"] == run["scores"]["accuracy"]
    assert run["frozen"]
    assert run["tflops"] < run["tflops_full"]


def test_a_run_with_a_feature_cache_skips_the_front() -> None:
    options = {"intervals_per_epoch": 2}
    config = run_of("cola", method="autofreeze", options=options, epochs=4, feature_cache=True)
    run, _ = train(config, ignore, ignore)
    assert run.features is not None
    assert run.features.cut


def test_cola_is_measured_by_the_matthews_correlation() -> None:
    run = prepare(run_of("cola"))
    _, curves = train(run_of("cola", epochs=0.4), ignore, ignore)
    assert list(curves.scores) == ["matthews", "accuracy"]
    assert run.config.max_length == LENGTH


def test_the_learning_rate_warms_up_and_then_falls_to_zero() -> None:
    run = prepare(run_of(epochs=5, warmup=0.2))
    rates = []
    for _ in range(run.total_steps):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.optimizer.step()
        assert run.scheduler is not None
        run.scheduler.step()
    assert run.total_steps == 30
    assert rates[:7] == pytest.approx([1e-3 * (i + 1) / 7 for i in range(6)] + [1e-3])
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_linear_freezing_warms_up_as_the_others_do() -> None:
    run = prepare(run_of(method="linear", epochs=5, warmup=0.2))
    curves = Curves()
    rates = []
    for batch in run.batches.epoch(0, 0):
        train_step(run, curves, batch)
        rates.append(run.optimizer.param_groups[-1]["lr"])
    cosine = [0.5 * (1 + math.cos(math.pi * step / 30)) for step in range(6)]
    assert rates == pytest.approx([1e-3 * (i + 1) / 7 * cosine[i] for i in range(6)])


def test_compute_of_a_run_goes_with_its_sentences() -> None:
    once = full_tflops(run_of(epochs=1))
    assert full_tflops(run_of(epochs=3)) == pytest.approx(3 * once)
    assert full_tflops(run_of(epochs=1, max_length=2 * LENGTH)) > 1.9 * once


def test_table_6_is_planned_at_every_scale() -> None:
    spec = load_spec("table6")
    for scale in spec.scales:
        planned = labelled_plan(spec, scale)
        found = {config.dataset for config in planned}
        assert found >= {"mrpc", "cola"} or found == {"made"}


@pytest.mark.parametrize("dataset", ["mrpc", "sentences"])
def test_missing_sentences_are_an_error_that_says_where(
    dataset: str, made_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made_up / "glue" / "mrpc" / "train-00000.parquet").unlink()
    monkeypatch.setattr(datasets, "load_dataset", _fail_for("nyu-mll/glue"))
    with pytest.raises(ValueError, match=r"has no glue/mrpc/train-00000\.parquet"):
        load_text(dataset, LENGTH)


def test_a_wrong_column_is_an_error_that_names_the_right_ones(made_up: Path) -> None:
    file = made_up / "glue" / "mrpc" / "train-00000.parquet"
    pd.read_parquet(file).rename(columns={"sentence2": "text"}).to_parquet(file)
    with pytest.raises(ValueError, match=r"no column 'sentence2': .*text.* but sentence1 and"):
        load_text("mrpc", LENGTH)


def test_a_length_that_holds_no_sentence_is_an_error() -> None:
    with pytest.raises(ValueError, match="max_length = 0"):
        load(run_of(max_length=0))


@pytest.mark.skipif(not REAL, reason="needs the real sentences in $SMARTFRZ_DATA")
def test_real_sentences_are_those_of_glue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTFRZ_DATA", str(REAL))
    load_text.cache_clear()
    text._tokenizer.cache_clear()
    data = load_text("mrpc", 128)
    assert (len(data.train_ids), len(data.test_ids)) == (3668, 408)
    assert (data.train_labels.sum(), data.test_labels.sum()) == (2474, 279)
    assert not (data.train_ids == 100).any()


def _fail_for(name: str) -> Any:
    original = datasets.load_dataset

    def load_dataset(first: str, *args: Any, **kwargs: Any) -> Any:
        if first == name:
            raise ConnectionError("no network")
        return original(first, *args, **kwargs)

    return load_dataset


def test_made_sentences_are_told_apart_by_one_word() -> None:
    data = load_text("made", 16)
    for ids, labels in ((data.train_ids, data.train_labels), (data.test_ids, data.test_labels)):
        assert torch.equal((ids == 1000).any(1), labels == 1)
        assert (ids[:, 0] == CLS).all()
        assert (ids[:, -1] == SEP).all()
