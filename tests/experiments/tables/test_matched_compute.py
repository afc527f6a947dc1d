"""Compute matching: the number of epochs of matched runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from baselines import AnnealedBody, AveragedBody
from experiments.files import write_json_atomic
from experiments.runs.execute import execute, run_file
from experiments.runs.run_files import read_run
from experiments.runs.setup import prepare
from experiments.runs.training_loop import train
from experiments.tables.matched_compute import matched, matched_epochs, mean_flops, partners
from smartfrz import PrefixThenBody
from tests.helpers.digits import ignore, tiny_run

MODELS = ["residual", "plain", "attention"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))


def spent_tflops(config) -> float:
    """Compute of a run of linear freezing: the freezer's steps without training."""
    run, flops = prepare(config), 0
    for _ in range(run.total_steps):
        newly_frozen = run.freezer.step()
        flops += run.flops_per_step
        if newly_frozen:
            run.count_flops()
    return flops / 1e12


def test_what_a_run_spends_is_known_without_training():
    config = tiny_run("linear", model="plain", epochs=1)
    _, curves = train(config, ignore, ignore)
    assert spent_tflops(config) == curves.flops / 1e12


@pytest.mark.parametrize("how", ["linear", "cubic"])
@pytest.mark.parametrize("model", MODELS)
def test_a_matched_run_spends_what_it_was_given(model, how):
    config = tiny_run("linear", model=model, options={"how": how})
    run = prepare(config)
    budget = 0.7 * 150 * run.full_flops_per_step / 1e12
    matched_run = replace(config, epochs=matched_epochs(config, budget))
    assert spent_tflops(matched_run) == pytest.approx(budget, rel=0.03)


@pytest.mark.parametrize("t0", [0.2, 0.5, 0.9])
def test_the_sooner_layers_freeze_the_more_epochs_cost_the_same(t0):
    config = tiny_run("linear", options={"t0": t0})
    sooner = tiny_run("linear", options={"t0": t0 / 2})
    assert matched_epochs(sooner, 1.0) > matched_epochs(config, 1.0)


def test_a_shorter_run_is_full_training_for_a_part_of_the_epochs():
    config, full = tiny_run("shorter", epochs=10), tiny_run(epochs=10)
    budget = 0.7 * prepare(full).total_steps * prepare(full).full_flops_per_step / 1e12
    assert matched_epochs(config, budget) == pytest.approx(7)
    run, curves = train(replace(config, epochs=0.7), ignore, ignore)
    assert run.freezer.frozen == {}
    assert curves.step == 7 and curves.flops == 7 * run.full_flops_per_step
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_twice_the_compute_is_twice_the_epochs():
    config = tiny_run("linear")
    assert matched_epochs(config, 2.0) == pytest.approx(2 * matched_epochs(config, 1.0), rel=0.01)


def test_epochs_are_whole_steps():
    steps = matched_epochs(tiny_run("linear"), 0.0123) * 10
    assert steps == pytest.approx(round(steps))


def test_a_step_costs_less_than_in_full_training_and_more_than_a_forward_pass():
    config = tiny_run("linear")
    full = prepare(tiny_run()).full_flops_per_step / config.batch_size
    assert full / 3 < mean_flops(config) < full


def test_a_compute_of_its_own_takes_the_place_of_a_match(tmp_path):
    """Nothing else has to be done first, and nothing else is planned with it."""
    shorter = tiny_run("shorter", epochs=10, options={"compute": 0.75})
    linear = tiny_run("linear", options={"compute": 0.75})
    planned = {shorter: "shorter", linear: "linear", tiny_run("smartfrz", epochs=10): "smartfrz"}
    assert partners(shorter, planned) == partners(linear, planned) == []
    found = matched(shorter, planned, tmp_path)
    assert found == replace(shorter, epochs=7.5)
    assert prepare(found).total_steps == 75
    assert matched(linear, planned, tmp_path) is linear


@pytest.mark.parametrize("model", MODELS)
def test_linear_freezing_spends_a_compute_of_its_own_in_all_its_epochs(model):
    config = tiny_run("linear", model=model, epochs=10, options={"compute": 0.75})
    run = prepare(config)
    assert run.total_steps == 100
    full = run.total_steps * run.full_flops_per_step / 1e12
    assert spent_tflops(config) == pytest.approx(0.75 * full, rel=0.01)
    config = tiny_run("linear", model=model, epochs=10, options={"compute": 0.75, "freeze": False})
    assert spent_tflops(config) == full
    assert prepare(config).freezer.policy.t0 == run.freezer.policy.t0


SPENDING = ["static_prefix", "prefix_then_body", "paced", "unfreezing", "head_first", "random"]
SPENDING += ["measured"]


@pytest.mark.parametrize("method", SPENDING)
def test_a_method_with_a_compute_spends_it(method):
    config = tiny_run(method, model="residual", epochs=10, options={"compute": 0.6})
    run = prepare(config)
    for _ in range(run.total_steps):
        run.freezer.step()  # without training
    assert run.freezer.compute_spent / run.total_steps == pytest.approx(0.6, rel=0.01)
    assert matched(config, {config: method}, Path("nowhere")) is config


@pytest.mark.parametrize(
    ("options", "kind", "compute"),
    [
        ({}, PrefixThenBody, 0.6),
        ({"anneal": 0.2}, AnnealedBody, 0.6),
        ({"average": 0.2}, AveragedBody, 0.6),
        ({"anneal": 0.2, "freeze": False}, AnnealedBody, 1.0),
    ],
)
def test_the_body_freezes_gently_only_on_request(options, kind, compute):
    options = {"prefix": 0.9, "compute": 0.6} | options
    run = prepare(tiny_run("prefix_then_body", epochs=10, options=options))
    policy = run.freezer.policy
    assert type(policy) is kind and (policy.prefix, policy.compute) == (0.9, 0.6)
    assert getattr(policy, "anneal", getattr(policy, "average", 0.2)) == 0.2
    for _ in range(run.total_steps):
        run.freezer.step()  # without training
    assert run.freezer.compute_spent / run.total_steps == pytest.approx(compute, rel=0.01)


def test_the_flops_of_a_run_follow_freezes_and_thaws():
    run, curves = train(tiny_run("unfreezing", options={"compute": 0.6}), ignore, ignore)
    assert {what for _, what, _ in run.freezer.events} == {"freeze", "thaw"}
    spent = curves.flops / run.full_flops_per_step
    assert run.freezer.compute_spent == pytest.approx(spent)


@pytest.fixture
def planned():
    """All methods with two seeds; two methods are matched with a variant of autofreeze."""
    options = {
        "shorter": {"match": "autofreeze 50"},
        "autofreeze": {"percentile": 40.0},
        "autofreeze 50": {"percentile": 50.0},
        "linear": {"match": "autofreeze 50"},
    }
    return {
        tiny_run(name.split()[0], seed=seed, epochs=1, options=options.get(name)): name
        for seed in (0, 1)
        for name in ("full", "autofreeze", "autofreeze 50", "linear", "shorter")
    }


def test_other_methods_are_left_as_they_are(planned, tmp_path):
    full, autofreeze, *_ = planned
    assert matched(full, planned, tmp_path) is full
    assert matched(autofreeze, planned, tmp_path) is autofreeze
    unmatched = tiny_run("linear", options={"match": ""})
    assert matched(unmatched, planned, tmp_path) is unmatched


def test_the_match_is_the_run_of_the_same_workload_seed_and_variant(planned, tmp_path):
    _, other, autofreeze, linear, shorter, *_, linear_of_seed_1, _ = planned
    execute(other, tmp_path, "make test", ignore, ignore)
    assert matched(linear, planned, tmp_path) is None
    execute(autofreeze, tmp_path, "make test", ignore, ignore)
    found = matched(linear, planned, tmp_path)
    run = read_run(run_file(autofreeze, tmp_path))
    assert found is not None and run is not None
    assert found == replace(linear, epochs=matched_epochs(linear, run["tflops"]))
    found = matched(shorter, planned, tmp_path)
    assert found == replace(shorter, epochs=matched_epochs(shorter, run["tflops"]))
    assert matched(linear_of_seed_1, planned, tmp_path) is None


def test_there_is_no_match_with_a_diverged_run(planned, tmp_path):
    _, _, autofreeze, linear, shorter, *_ = planned
    execute(autofreeze, tmp_path, "make test", ignore, ignore)
    file = run_file(autofreeze, tmp_path)
    write_json_atomic(file, (read_run(file) or {}) | {"status": "diverged"})
    assert matched(linear, planned, tmp_path) is None
    assert matched(shorter, planned, tmp_path) is None
