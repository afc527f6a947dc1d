"""Runs of the oracle: its reference run, its inputs, and the layers that it freezes."""

import pytest
import torch

from experiments.models.pretraining import pretraining_run
from experiments.models.weights import load_weights
from experiments.runs.execute import execute
from experiments.runs.setup import prepare
from experiments.runs.training_loop import train
from experiments.tables.queue import missing_prerequisites, prerequisites
from smartfrz import SimilarityGuided
from tests.helpers.digits import ignore, tiny_run
from tests.helpers.reference import layer_cka

TOLERANCE = 0.02


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))


def oracle_run(**options):
    pretraining = {"dataset": "digits[0:5]", "epochs": 1, "train_images": 64}
    options = {"tolerance": TOLERANCE, "probe_images": 40, "reference_seed": 5} | options
    return tiny_run("similarity", seed=2, pretraining=pretraining, options=options)


def prepared(config, folder):
    for each in missing_prerequisites([config], folder / "runs"):
        execute(each, folder / "runs", "make test", ignore, ignore, keep_weights=True)
    run = prepare(config)
    assert isinstance(run.freezer.policy, SimilarityGuided)
    return run, run.freezer.policy


def test_it_needs_the_pretraining_and_a_full_training_run_with_another_seed(tmp_path):
    config = oracle_run()
    pretraining, reference = prerequisites(config)
    assert pretraining == pretraining_run(config) == pretraining_run(reference)
    assert reference == tiny_run("full", seed=5, pretraining=vars(config.pretraining))
    assert missing_prerequisites([config], tmp_path) == [pretraining, reference]
    prepared(config, tmp_path)
    assert missing_prerequisites([config], tmp_path / "runs") == []


def test_it_looks_at_training_images_and_a_reference_that_stays_as_it_is(tmp_path):
    config = oracle_run()
    run, policy = prepared(config, tmp_path)
    assert [len(part) for part in policy.probe] == [32, 8]
    expected = run.batches.probe(40)
    assert all(torch.equal(a, b) for a, b in zip(policy.probe, expected, strict=True))
    assert [step for step in range(30) if policy.is_due(step)] == [9, 19, 29]
    run, _ = train(config, ignore, ignore)
    weights, _ = load_weights(prerequisites(config)[1])
    for name, value in run.freezer.policy.reference.state_dict().items():
        assert torch.equal(value, weights[name])


def test_it_freezes_what_has_settled_by_its_own_measure(tmp_path):
    """Each layer freezes once its CKA has changed by at most 0.02 between two measurements."""
    config = oracle_run(looks_per_epoch=2)
    run, policy = prepared(config, tmp_path)
    body = [layer for layer in run.freezer.layers if not layer.is_head]
    look, looks = policy.layers_to_freeze, []

    def look_aside(active, step):
        if policy.is_due(step):
            looks.append(layer_cka(run.model, policy.reference, body, policy.probe))
        return look(active, step)

    policy.layers_to_freeze = look_aside
    for epoch in range(3):
        run.model.train()
        for images, labels, _ in run.batches.epoch(2, epoch):
            torch.nn.functional.cross_entropy(run.model(images), labels).backward()
            run.freezer.step()
            run.optimizer.step()
            run.optimizer.zero_grad()
    settled = torch.stack(looks).diff(dim=0).abs() <= TOLERANCE
    first = {
        layer.name: 5 * (2 + int(times[0])) - 1
        for layer, times in zip(body, (row.nonzero()[:, 0] for row in settled.T), strict=True)
        if len(times)
    }
    assert run.freezer.frozen == first
    assert len(set(first.values())) > 1


def test_without_its_reference_it_is_an_error_that_names_the_run():
    config = tiny_run("similarity")
    with pytest.raises(ValueError, match=r"There are no final weights of .*full seed 1000"):
        prepare(config)
