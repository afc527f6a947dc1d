"""The rows that a sceptic asks for, in any table."""

import copy

import pytest
import torch
from digits import ignore, tiny_run

from experiments.methods import make_policy
from experiments.plan import labelled_plan, load_spec, with_controls
from experiments.setup import prepare
from experiments.train import train
from smartfrz import SimilarityGuided

CONTROLS = ["shorter", "random", "displacement", "simfreeze"]


@pytest.mark.parametrize(
    ("table", "scale"),
    [(name, scale) for name in ("table2", "table6", "table8") for scale in load_spec(name).scales],
)
def test_they_come_after_the_table_s_own_rows(table: str, scale: str) -> None:
    spec = load_spec(table)
    more = with_controls(spec)
    own, all_rows = labelled_plan(spec, scale), labelled_plan(more, scale)
    assert more.methods == [*spec.methods, *CONTROLS]
    assert own.items() <= all_rows.items()
    assert len(all_rows) == len(own) // len(spec.methods) * len(more.methods)


def test_what_the_table_has_already_is_not_added_again() -> None:
    spec = load_spec("policies")
    added = [name for name in with_controls(spec).methods if name not in spec.methods]
    assert added == ["random", "simfreeze"]
    runs = labelled_plan(with_controls(spec), "small")
    assert len(runs) == len(set(runs))


def test_what_has_nothing_to_be_matched_with_is_left_out() -> None:
    added = with_controls(load_spec("table9")).methods[-2:]
    assert added == ["displacement", "simfreeze"]
    assert "random" not in with_controls(load_spec("table9")).methods


def test_simfreeze_compares_with_the_model_at_the_start() -> None:
    config = tiny_run("simfreeze", options={"looks_per_epoch": 2, "tolerance": 1.0})
    run = prepare(config)
    start = copy.deepcopy(run.model.state_dict())
    policy = run.freezer.policy
    assert isinstance(policy, SimilarityGuided)
    with torch.no_grad():
        for param in run.model.parameters():
            param.zero_()
    for name, value in policy.reference.state_dict().items():
        assert torch.equal(value, start[name])
    assert make_policy(config, run.model, run.optimizer, run.batches, 30) is not policy


def test_simfreeze_freezes_what_has_stabilised() -> None:
    options = {"looks_per_epoch": 2, "tolerance": 1.0}
    run, _ = train(tiny_run("simfreeze", options=options), ignore, ignore)
    # Any change is within a tolerance of 1: the second look, after step 9, freezes all.
    assert set(run.freezer.frozen.values()) == {9}
    assert len(run.freezer.frozen) == len(run.freezer.layers) - 1
