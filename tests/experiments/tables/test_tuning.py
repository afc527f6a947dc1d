"""Choice of settings: the most accurate candidate of each method, the same effort for each."""

from dataclasses import asdict

import pandas as pd
import pytest

from experiments.errors import UserError
from experiments.plan import labelled_plan
from experiments.spec import Spec, load_spec
from experiments.tables.tuning import best_settings, check_efforts

ROWS = ["full lr=0.1", "full lr=0.2", "linear t0=0.3", "linear t0=0.5"]
SPEC = Spec(
    "Settings.",
    ROWS,
    {"demo": {"models": ["plain"], "datasets": ["digits"], "seeds": [0, 1], "run": {}}},
    options={"linear t0=0.3": {"t0": 0.3, "match": ""}, "linear t0=0.5": {"t0": 0.5, "match": ""}},
    fields={"full lr=0.1": {"lr": 0.1}, "full lr=0.2": {"lr": 0.2}},
)


def runs(accuracies: dict[str, list[float]]) -> pd.DataFrame:
    found = [("plain", row, each) for row, of in accuracies.items() for each in of]
    return pd.DataFrame(found, columns=["model", "method", "final_accuracy"])


def test_the_most_accurate_candidate_is_chosen_over_all_seeds() -> None:
    found = runs(dict(zip(ROWS, ([0.9, 0.5], [0.8, 0.7], [0.6, 0.6], [0.9, 0.2]), strict=True)))
    assert best_settings(found, SPEC, "demo") == {
        "plain": {"run": {"lr": 0.2}, "options": {"linear": {"t0": 0.3}}}
    }


def test_no_setting_is_chosen_while_a_run_is_missing() -> None:
    found = runs(dict(zip(ROWS, ([0.9, 0.5], [0.8], [0.6, 0.6], [0.9, 0.9]), strict=True)))
    assert best_settings(found, SPEC, "demo") == {"plain": {"options": {"linear": {"t0": 0.5}}}}


def test_a_candidate_that_diverged_is_not_chosen() -> None:
    nan = float("nan")
    found = runs(dict(zip(ROWS, ([0.1, 0.1], [0.9, nan], [nan] * 2, [nan] * 2), strict=True)))
    assert best_settings(found, SPEC, "demo") == {"plain": {"run": {"lr": 0.1}}}


def test_methods_have_the_same_number_of_candidates() -> None:
    check_efforts(SPEC)
    check_efforts(load_spec("tune"))
    with pytest.raises(UserError, match="these are full 2, linear 1"):
        check_efforts(Spec("Settings.", ROWS[:3]))


@pytest.mark.parametrize("scale", ["demo", "small", "medium", "paper"])
def test_nothing_is_chosen_on_test_examples_or_on_seeds_of_a_table(scale: str) -> None:
    values, table = load_spec("tune").scales[scale], load_spec("table2").scales[scale]
    assert values["run"]["validation"] is True
    assert not {*values["seeds"]} & {*table["seeds"]}


@pytest.mark.parametrize("scale", ["demo", "small", "medium", "paper"])
def test_candidates_differ_from_the_table_in_what_is_chosen_and_in_the_compute_alone(
    scale: str,
) -> None:
    """Otherwise the settings would be chosen for another method than the table's."""
    planned = labelled_plan(load_spec("table2"), scale)
    table = {(run.model, row): run.options for run, row in planned.items()}
    for run, row in labelled_plan(load_spec("tune"), scale).items():
        method, *settings = row.split()
        chosen = {setting.partition("=")[0] for setting in settings} | {"match", "min_records"}
        if (run.model, method) in table and run.options is not None:
            own, other = asdict(run.options), asdict(table[run.model, method])
            assert {k: v for k, v in own.items() if k not in chosen} == {
                k: v for k, v in other.items() if k not in chosen
            }
