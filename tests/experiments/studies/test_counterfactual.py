"""Tests of the costs of freezing groups of layers, and of their correlations with the labels."""

import dataclasses
import math
from typing import Any

import pandas as pd
import pytest
import torch

from experiments.errors import UserError
from experiments.plan import plan
from experiments.reporting.markup import BLANK
from experiments.runs.training_loop import train
from experiments.spec import load_spec
from experiments.studies.counterfactual import correlations, costs, finding, table, workloads
from tests.helpers.digits import ignore, tiny_run
from tests.helpers.recordings import history_of


def run(loss: float = 1.0, accuracy: float = 0.5, status: str = "finished", **config: Any) -> Any:
    values = dataclasses.asdict(tiny_run(**config))
    return {"config": values, "status": status, "loss": [9.0, loss], "final_accuracy": accuracy}


def frozen(group: int, at: float, **values: Any) -> Any:
    return run(method="frozen_group", options={"group": group, "at": at, "groups": 2}, **values)


def history() -> Any:
    """Five records of four layers."""
    shape = (5, 4)
    contribution = torch.arange(20.0).reshape(shape)
    cka = torch.linspace(0.2, 1, 5)[:, None] * torch.tensor([1, 1, 0.5, 0.7])
    return history_of(
        torch.zeros(*shape, 8),
        cka,
        probe_contribution=contribution,
        progress=torch.tensor([0, 0.2, 0.4, 0.6, 0.8]),
        cost=torch.tensor([0.1, 0.2, 0.3, 0.05]),
    )


def test_a_cost_is_the_difference_to_full_training_beside_what_was_recorded_at_the_moment():
    row = costs(frozen(2, 0.6, loss=1.5, accuracy=0.4), run(), history())
    assert (row["loss"], row["accuracy"]) == pytest.approx((0.5, 0.1))
    assert row["contribution"] == 18 + 19  # of the last two layers, after the fourth record
    assert row["cka"] == pytest.approx(1 - 0.8 * 0.6)
    assert row["time"] == pytest.approx(0.4)
    assert (row["depth"], row["flops"]) == (2, pytest.approx(0.35))
    assert row["start"] == "from scratch"


@pytest.mark.parametrize(("ours", "theirs"), [("diverged", "finished"), ("finished", "diverged")])
def test_a_diverged_run_is_a_sentence(ours, theirs):
    with pytest.raises(UserError, match="diverged"):
        costs(frozen(1, 0.2, status=ours), run(status=theirs), history())


def found(seeds=(0, 1)) -> pd.DataFrame:
    """Costs that the contribution ranks as they are, and CKA the other way round with seed 1."""
    rows = [
        {
            **{"model": "residual", "dataset": "digits", "start": "from scratch", "seed": seed},
            **{"group": group, "at": at, "loss": group + 10 * at, "accuracy": 0.0},
            **{"contribution": math.exp(group + 10 * at), "depth": group, "time": 1 - at},
            **{"cka": (group + 10 * at) * (-1) ** seed, "flops": -group},
        }
        for seed in seeds
        for at in (0.1, 0.5)
        for group in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def test_costs_are_ranked_within_workloads_moments_and_groups():
    ranked = correlations(found())
    assert ranked["workload"].nunique() == len(workloads(found())) == 2
    by = ranked[ranked["cost"] == "loss"].set_index(["workload", "score"])
    first, second = dict.fromkeys(ranked["workload"])
    assert (first[-1], second[-1]) == ("0", "1")
    within = ["overall", "within_moment", "within_group"]
    assert by.loc[(first, "contribution"), within].tolist() == pytest.approx([1, 1, 1])
    assert by.loc[(second, "cka"), within].tolist() == pytest.approx([-1, -1, -1])
    assert by.loc[(first, "flops"), "within_moment"] == pytest.approx(-1)
    assert math.isnan(by.loc[(first, "time"), "within_moment"])
    assert by.loc[(first, "time"), "within_group"] == pytest.approx(-1)
    assert ranked[ranked["cost"] == "accuracy"][within].isna().all(axis=None)


def test_the_table_has_means_over_workloads_and_the_finding_counts_them():
    ranked = correlations(found())
    rows = {line.split(" | ")[0]: line for line in table(ranked).splitlines()}
    assert rows["| Remaining contribution"].endswith(
        f"| +1.00 | +1.00 | +1.00 | {BLANK} | {BLANK} | {BLANK} |"
    )
    assert "| +0.00 | +0.00 | +0.00 |" in rows["| 1 - CKA to the end"]
    said = finding(ranked)
    assert "over all groups and moments better than CKA in 1 and worse in 0 of 2" in said
    assert "(mean +1.00 and +0.00; depth " in said and f"time {BLANK})" in said


@pytest.mark.parametrize("scale", ["demo", "small"])
def test_full_training_is_planned_and_recorded_with_the_settings_of_every_run(scale):
    configs = plan(load_spec("counterfactual"), scale)
    methods = {method: [] for method in ("full", "record", "frozen_group")}
    for config in configs:
        methods[config.method].append(config.full_training)
    settings = set(methods["full"])
    assert settings == set(methods["record"]) == set(methods["frozen_group"])
    assert len(methods["frozen_group"]) == 16 * len(settings)


def test_the_recorded_runs_are_those_that_predictors_learn_from():
    known = set(plan(load_spec("recordings"), "small"))
    own = [c for c in plan(load_spec("counterfactual"), "small") if c.method == "record"]
    assert len(own) == 4 and set(own) <= known


def test_a_run_freezes_its_group_at_its_moment(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path))
    options = {"group": 2, "at": 0.3}
    config = tiny_run("frozen_group", options=options, epochs=1, test_images=32)
    done, _ = train(config, ignore, ignore)
    body = [layer.name for layer in done.freezer.layers if not layer.is_head]
    assert done.freezer.frozen == dict.fromkeys(body[len(body) // 4 : len(body) // 2], 3)


@pytest.mark.parametrize("options", [{"group": 5, "at": 0.1}, {"group": 1, "at": 1.0}])
def test_options_out_of_range_are_a_sentence(options):
    with pytest.raises(UserError, match="must be"):
        tiny_run("frozen_group", options=options)
