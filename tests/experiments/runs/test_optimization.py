"""Optimizers and schedules of runs: layer-wise learning-rate decay."""

import pytest
import torch
from torch.optim import SGD, AdamW

from experiments.config import RunConfig
from experiments.models.registry import build_model
from experiments.runs.optimization import make_optimizer, make_scheduler
from experiments.runs.setup import prepare
from experiments.runs.training_loop import train
from smartfrz import Layer, find_layers
from tests.helpers.digits import ignore, save_random_predictor, tiny_run


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))


def made(config: RunConfig):
    model = build_model(config.model, 5, config.image_size)
    layers = find_layers(model, torch.zeros(1, 3, 16, 16))
    return model, layers, make_optimizer(config, model, layers)


def rates_by_param(optimizer) -> dict[int, float]:
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


def rates_of(layer: Layer, rates: dict[int, float]) -> set[float]:
    return {rates[id(param)] for param in layer.params}


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adamw", AdamW)])
def test_the_learning_rate_falls_by_the_decay_from_each_layer_to_the_one_before(name, kind):
    config = tiny_run(optimizer=name, lr=0.1, layer_decay=0.5)
    model, layers, optimizer = made(config)
    assert isinstance(optimizer, kind)
    rates = rates_by_param(optimizer)
    assert rates.keys() == {id(param) for param in model.parameters()}
    assert [layer.is_head for layer in layers] == [False] * (len(layers) - 1) + [True]
    for distance, layer in enumerate(reversed(layers)):
        assert rates_of(layer, rates) == {0.1 * 0.5**distance}


def test_parameters_in_no_layer_have_the_rate_of_the_head():
    config = tiny_run(lr=0.1, layer_decay=0.5)
    model, (stray, *layers), _ = made(config)
    rates = rates_by_param(make_optimizer(config, model, layers))
    assert rates_of(stray, rates) == {0.1}
    assert rates_of(layers[-2], rates) == {0.05}


def test_without_decay_there_is_one_group_unless_the_method_sets_rates():
    assert len(made(tiny_run())[2].param_groups) == 1
    _, layers, optimizer = made(tiny_run("linear", lr=0.1))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1] * len(layers)


def test_the_schedule_scales_the_rates_of_all_layers_alike():
    config = tiny_run(lr=0.1, layer_decay=0.5, warmup=0.2)
    _, _, optimizer = made(config)
    scheduler = make_scheduler(config, optimizer, 20, None)
    assert scheduler is not None
    for _ in range(20):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rates[-1] * 0.5**d for d in reversed(range(len(rates)))])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("method", ["full", "linear", "autofreeze", "smartfrz"])
def test_every_method_trains_and_freezes_with_the_decay(tmp_path, method):
    options = save_random_predictor(tmp_path / "predictor") if method == "smartfrz" else None
    rates: list[list[float]] = []
    config = tiny_run(method, options=options, layer_decay=0.9)
    run, curves = train(
        config,
        lambda run, curves: rates.append([g["lr"] for g in run.optimizer.param_groups]),
        ignore,
    )
    assert curves.loss[-1] < curves.loss[0]
    assert bool(run.freezer.frozen) == (method != "full")
    head_is_fastest = [early[-1] == max(early) > early[0] for early in rates[:10]]
    assert all(head_is_fastest)


def test_linear_freezing_anneals_each_layer_from_its_own_rate():
    run = prepare(tiny_run("linear", lr=0.1, layer_decay=0.5))
    run.freezer.step()
    rates = [group["lr"] for group in run.optimizer.param_groups]
    assert rates == pytest.approx([0.1 * 0.5**d for d in reversed(range(len(rates)))])
