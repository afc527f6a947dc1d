"""Optional rows of tables: compute-matched controls, and methods with a budget."""

import copy
from dataclasses import replace

import pytest
import torch

from experiments.added_rows import kinds_among, left_out, with_rows
from experiments.methods import Setting
from experiments.plan import labelled_plan
from experiments.runs.setup import make_policy, prepare
from experiments.runs.training_loop import train
from experiments.spec import load_spec
from smartfrz import SimilarityGuided
from tests.helpers.digits import ignore, tiny_run

CONTROLS = ["shorter", "random", "displacement", "simfreeze"]


@pytest.mark.parametrize(
    ("table", "scale"),
    [(name, scale) for name in ("table2", "table6", "table8") for scale in load_spec(name).scales],
)
def test_they_come_after_the_table_s_own_rows(table: str, scale: str) -> None:
    spec = load_spec(table)
    more = with_rows(spec, "controls")
    own, all_rows = labelled_plan(spec, scale), labelled_plan(more, scale)
    assert more.methods == [*spec.methods, *CONTROLS]
    assert own.items() <= all_rows.items()
    assert len(all_rows) == len(own) // len(spec.methods) * len(more.methods)


def test_what_the_table_has_already_is_not_added_again() -> None:
    spec = load_spec("policies")
    added = [name for name in with_rows(spec, "controls").methods if name not in spec.methods]
    assert added == ["random", "simfreeze"]
    runs = labelled_plan(with_rows(spec, "controls"), "small")
    assert len(runs) == len(set(runs))


def test_what_has_nothing_to_be_matched_with_is_left_out() -> None:
    added = with_rows(load_spec("table9"), "controls").methods[-2:]
    assert added == ["displacement", "simfreeze"]
    assert left_out(load_spec("table9"), "controls") == ["shorter", "random"]
    assert left_out(load_spec("table2"), "controls") == []


@pytest.mark.parametrize("scale", ["demo", "small", "medium", "paper"])
@pytest.mark.parametrize("table", ["table2", "table6", "table7"])
def test_within_a_budget_methods_are_set_as_they_are_without(table: str, scale: str) -> None:
    spec = load_spec(table)
    runs = labelled_plan(with_rows(spec, "budget"), scale)
    of_label: dict[str, list] = {}
    for config, label in runs.items():
        of_label.setdefault(label, []).append(config)
    assert [*of_label] == [
        *spec.methods,
        "smartfrz 60%",
        "autofreeze 60%",
        "linear 60%",
        "shorter 60%",
    ]
    for method in ("smartfrz", "autofreeze"):
        within = of_label[f"{method} 60%"]
        assert {config.budget for config in within} == {0.6}
        without = [run for run in of_label[method] if getattr(run.options, "compute", None) is None]
        assert [replace(config, budget=None) for config in within] == without
    for config in of_label["linear 60%"] + of_label["shorter 60%"]:
        assert config.budget is None and config.options.match == "smartfrz 60%"
    assert of_label["linear 60%"][0].options.t0 == of_label["linear"][0].options.t0


def test_a_workload_whose_smartfrz_has_a_compute_gets_no_row_with_another() -> None:
    runs = labelled_plan(with_rows(load_spec("table2"), "budget"), "small")
    rows = {label for run, label in runs.items() if run.model == "efficientnet_lite0"}
    assert rows == {*load_spec("table2").methods, "autofreeze 60%"}


def test_rows_whose_method_or_match_is_not_there_are_left_out() -> None:
    assert with_rows(load_spec("table9"), "budget").methods == load_spec("table9").methods
    added = with_rows(load_spec("policies"), "budget").methods[-3:]
    assert added == ["smartfrz 60%", "linear 60%", "shorter 60%"]


def test_added_rows_are_known_by_their_methods() -> None:
    policies = load_spec("policies")
    assert kinds_among(policies.methods, policies) == []
    assert kinds_among(["full", "simfreeze"], policies) == ["controls"]
    assert kinds_among(["full", "linear 60%", "random"], policies) == ["controls", "budget"]


def test_simfreeze_compares_with_the_model_at_the_start() -> None:
    config = tiny_run("simfreeze", options={"looks": 6, "tolerance": 1.0})
    run = prepare(config)
    start = copy.deepcopy(run.model.state_dict())
    policy = run.freezer.policy
    assert isinstance(policy, SimilarityGuided)
    with torch.no_grad():
        for param in run.model.parameters():
            param.zero_()
    for name, value in policy.reference.state_dict().items():
        assert torch.equal(value, start[name])
    setting = Setting(config, run.model, run.optimizer, run.batches, 30)
    assert make_policy(setting) is not policy


def test_simfreeze_freezes_what_has_stabilised() -> None:
    options = {"looks": 6, "tolerance": 1.0}
    run, _ = train(tiny_run("simfreeze", options=options), ignore, ignore)
    # Any change is within a tolerance of 1: the second measurement, after step 9, freezes all.
    assert set(run.freezer.frozen.values()) == {9}
    assert len(run.freezer.frozen) == len(run.freezer.layers) - 1
