"""Tests of schedules that spend a given compute."""

from collections.abc import Collection, Mapping
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartfrz.policies import meet_compute, schedule_compute

NAMES = ["a", "b", "c", "d"]
SHARES = {"a": 0.4, "b": 0.05, "c": 0.2, "d": 0.02}


def costs(frozen: Collection[str]) -> float:
    return 1.0 - sum(SHARES[name] for name in frozen)


def at_once(total_steps: int, position: float) -> dict[str, int]:
    """A family of schedules in which all layers freeze at the same step."""
    return dict.fromkeys(NAMES, int(position * total_steps))


def first_ones(total_steps: int, position: float) -> dict[str, int]:
    """A family in which some layers freeze at step 0 and the others never do."""
    count = int((1 - position) * len(NAMES))
    return {name: 0 if i < count else total_steps for i, name in enumerate(NAMES)}


def test_the_compute_of_a_schedule_is_the_sum_of_its_steps() -> None:
    schedule = {"c": 5, "a": 0, "b": 5, "d": 20}
    assert schedule_compute(schedule, 10, costs) == pytest.approx((1 + 5 * 0.6 + 4 * 0.35) / 10)
    assert schedule_compute({}, 10, costs) == 1.0


@given(st.integers(1, 400), st.floats(0.33, 1), st.sampled_from([at_once, first_ones]))
def test_a_family_meets_the_compute_up_to_half_a_step_of_a_layer(
    total_steps: int, compute: float, family
) -> None:
    spend = partial(schedule_compute, total_steps=total_steps, costs=costs)
    if compute < spend(family(total_steps, 0.0)):
        return
    found = meet_compute(compute, partial(family, total_steps), spend)
    assert list(found) == NAMES
    assert abs(spend(found) - compute) <= max(SHARES.values()) / 2 / total_steps + 1e-9


def test_the_layer_at_which_the_compute_is_reached_moves_and_no_other() -> None:
    spend = partial(schedule_compute, total_steps=100, costs=costs)
    found = meet_compute(0.5, partial(first_ones, 100), spend)
    # 1 + 99 * 0.55 with a and b frozen; c saves 0.2 in 27 further steps.
    assert found == {"a": 0, "b": 0, "c": 72, "d": 100}
    found = meet_compute(0.6, partial(at_once, 100), spend)
    assert max(found.values()) - min(found.values()) == 1
    assert list(found.values()) == sorted(found.values())


def test_a_compute_out_of_reach_is_an_error_that_names_the_least() -> None:
    spend = partial(schedule_compute, total_steps=10, costs=costs)
    with pytest.raises(ValueError, match=r"compute=0\.3 cannot .* still spends 0\.397 of full"):
        meet_compute(0.3, partial(at_once, 10), spend)
    assert meet_compute(0.397, partial(at_once, 10), spend) == dict.fromkeys(NAMES, 0)


def test_a_family_that_cannot_spend_as_much_spends_what_it_can() -> None:
    def some(position: float) -> Mapping[str, int]:
        return {"a": 0, "b": int(10 * position)}

    spend = partial(schedule_compute, total_steps=10, costs=costs)
    assert meet_compute(0.9, some, spend) == {"a": 0, "b": 10}
