"""Tests of the policies whose schedule spends a given compute."""

import copy
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from baselines import HeadFirst, Paced, RandomOrder, StaticPrefix, Unfreezing
from smartfrz import Freezer, Gathered, PrefixThenBody
from smartfrz.cost import compute_spent
from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.unrolled import unrolled

POLICIES: dict[str, Callable[..., Any]] = {
    "StaticPrefix": lambda steps, compute: StaticPrefix(compute, steps),
    "PrefixThenBody": lambda steps, compute: PrefixThenBody(steps, compute=compute),
    "with a spread": lambda steps, compute: PrefixThenBody(steps, compute=compute, spread=0.4),
    "Paced": Paced,
    "Unfreezing": Unfreezing,
    "HeadFirst": HeadFirst,
    "RandomOrder": lambda steps, compute: RandomOrder(steps, compute=compute),
}
LAYERS = 6


def chain() -> nn.Sequential:
    """Linear layers of 16 MACs each: the body's names are 0 to 5, the head's is 6."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(LAYERS + 1)))


def four_layers() -> nn.Sequential:
    """The first of four layers costs most of a step."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=4), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 5 * 5, 4)),
    )


@cache
def freezer_of(name: str) -> Freezer:
    if name in ARCHITECTURES:
        model, inputs = ARCHITECTURES[name].build(), ARCHITECTURES[name].inputs()
    else:
        model, inputs = (chain(), torch.zeros(1, 4)) if name == "chain" else (four_layers(), None)
        inputs = torch.zeros(1, 3, 32, 32) if inputs is None else inputs
    return Freezer(model, SGD(model.parameters(), lr=0.1), example_inputs=inputs)


def attached(policy: Any, name: str = "chain") -> Any:
    policy.attach(freezer_of(name))
    return policy


def events_of(policy: Any, steps: int, name: str = "chain") -> list[tuple[int, str, str]]:
    return unrolled(attached(policy, name), freezer_of(name), range(steps))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("compute", [0.45, 0.58, 0.75, 0.9, 1.0])
@pytest.mark.parametrize(
    "model",
    [
        *("chain", "four layers", "torchvision vgg", "torchvision mobilenet_v2"),
        *("torchvision densenet", "torch transformer"),
    ],
)
def test_the_compute_is_spent_within_a_percent(policy: str, compute: float, model: str) -> None:
    steps = 150
    events = events_of(POLICIES[policy](steps, compute), steps, model)
    costs = freezer_of(model).costs
    assert compute_spent(events, steps, costs) / steps == pytest.approx(compute, rel=0.01)
    heads = [layer.name for layer in freezer_of(model).layers if layer.is_head]
    assert not {name for _, _, name in events} & {*heads}
    assert bool(events) == (compute < 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_compute_that_cannot_be_reached_is_an_error_that_names_the_least(policy: str) -> None:
    # A step of the chain costs 21 times 16 MACs, and 8 times with the head alone.
    least = (1 + 99 * 8 / 21) / 100
    with pytest.raises(ValueError, match=r"compute=0\.3 cannot .* spends 0\.388 of full training"):
        attached(POLICIES[policy](100, 0.3))
    within = [event for event in events_of(POLICIES[policy](100, least), 100) if event[0] < 100]
    assert within == [(0, "freeze", str(i)) for i in range(LAYERS)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("compute", [0.0, -0.5, 1.1])
def test_a_compute_that_is_no_fraction_is_an_error(policy: str, compute: float) -> None:
    with pytest.raises(ValueError, match=f"compute={compute} must be more than 0"):
        POLICIES[policy](100, compute)


@pytest.mark.parametrize("make", [Paced, HeadFirst, Unfreezing, PrefixThenBody])
def test_a_run_has_steps(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="total_steps=0"):
        make(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PrefixThenBody(100, prefix=1.5),
        lambda: PrefixThenBody(100, spread=1.5),
        lambda: Unfreezing(100, over=-0.1),
        lambda: RandomOrder(100),
        lambda: RandomOrder(100, 0.5, compute=0.5),
    ],
)
def test_other_arguments_out_of_range_are_errors(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"prefix=1|spread=1|over=-0|either span or compute"):
        make()


def test_a_static_prefix_freezes_at_step_0_and_one_layer_more_within_the_run() -> None:
    events = events_of(StaticPrefix(0.7, 1000), 1000)
    assert [event[::2] for event in events[:-1]] == [(0, "0"), (0, "1")]
    assert events[-1][2] == "2"
    # A step costs 21, 18, 16, 14, ... of 21 with no, one, two, three layers frozen.
    assert events[-1][0] == pytest.approx(1000 * (0.7 - 14 / 21) / (2 / 21), abs=4)


@pytest.mark.parametrize(
    ("compute", "length"), [(1.0, 0), (0.85, 1), (0.72, 2), (0.7, 3), (0.39, 6)]
)
def test_a_static_prefix_of_a_run_without_end_is_the_nearest(compute: float, length: int) -> None:
    events = events_of(StaticPrefix(compute), 200)
    assert events == [(0, "freeze", str(i)) for i in range(length)]


def test_a_prefix_and_the_body_are_frozen_at_two_moments() -> None:
    events = events_of(PrefixThenBody(1000, prefix=0.75, compute=0.58), 1000)
    front, body = events[:2], events[2:]
    assert front == [(0, "freeze", "0"), (0, "freeze", "1")]
    steps = {step for step, _, _ in body}
    assert len(body) == 4 and max(steps) - min(steps) <= 1
    # Up to the body's moment a step costs 16 / 21, then 8 / 21.
    assert min(steps) == pytest.approx(1000 * (0.58 - 8 / 21) / (8 / 21), abs=3)


def test_the_body_behind_a_prefix_freezes_at_an_even_pace_over_the_spread() -> None:
    events = events_of(PrefixThenBody(1000, prefix=0.75, compute=0.58, spread=0.3), 1000)
    assert [name for _, _, name in events] == [str(i) for i in range(LAYERS)]
    assert [step for step, _, _ in events[:2]] == [0, 0]
    steps = [step for step, _, _ in events[2:]]
    assert steps[-1] - steps[0] == pytest.approx(300, abs=2)
    gaps = [b - a for a, b in pairwise(steps)]
    assert max(gaps) - min(gaps) <= 2


def test_a_prefix_that_leaves_too_little_is_shorter() -> None:
    events = events_of(PrefixThenBody(1000, prefix=0.5, compute=0.84), 1000)
    assert events[0] == (0, "freeze", "0") and min(step for step, _, _ in events[1:]) > 900


def test_layers_freeze_at_an_even_pace_from_the_moment_that_fits_to_the_end() -> None:
    events = events_of(Paced(1000, 0.8), 1000)
    steps = [step for step, _, _ in events]
    assert [name for _, _, name in events] == [str(i) for i in range(len(steps))]
    gaps = [b - a for a, b in pairwise(steps)]
    assert max(gaps) - min(gaps) <= 2
    assert steps[0] + (LAYERS - 1) * gaps[0] == pytest.approx(1000, abs=6)


def test_the_pace_ends_earlier_where_a_start_at_once_is_too_much_compute() -> None:
    steps = [step for step, _, _ in events_of(Paced(1000, 0.45), 1000)]
    assert steps[0] == 0 and len(steps) == LAYERS and steps[-1] < 800
    gaps = [b - a for a, b in pairwise(steps)]
    assert max(gaps) - min(gaps) <= 2


def test_layers_thaw_evenly_from_the_back_to_the_prefix_that_stays_frozen() -> None:
    events = events_of(Unfreezing(1200, 0.6, over=0.25), 1200)
    assert events[:LAYERS] == [(0, "freeze", str(i)) for i in range(LAYERS)]
    thaws = events[LAYERS:]
    assert [name for _, _, name in thaws] == ["5", "4", "3", "2"][: len(thaws)]
    assert [step for step, _, _ in thaws[:-1]] == [51, 101, 151][: len(thaws) - 1]
    assert thaws[-1][0] > thaws[-2][0]


def test_all_thaw_faster_where_the_pace_would_spend_too_little() -> None:
    thaws = events_of(Unfreezing(1200, 0.95, over=0.5), 1200)[LAYERS:]
    assert [name for _, _, name in thaws] == ["5", "4", "3", "2", "1", "0"]
    gaps = [b[0] - a[0] for a, b in pairwise(thaws)]
    assert max(gaps) - min(gaps) <= 2 and gaps[0] < 50


def test_the_head_trains_first_and_then_all_layers() -> None:
    events = events_of(HeadFirst(1000, 0.75), 1000)
    assert events[:LAYERS] == [(0, "freeze", str(i)) for i in range(LAYERS)]
    steps = {step for step, what, _ in events[LAYERS:]}
    assert len(events) == 2 * LAYERS and max(steps) - min(steps) <= 1
    assert min(steps) == pytest.approx(1000 * 0.25 / (13 / 21), abs=3)


def test_the_random_order_of_a_compute_is_that_of_its_seed() -> None:
    orders = {
        tuple(name for _, _, name in events_of(RandomOrder(100, seed=seed, compute=0.5), 100))
        for seed in range(5)
    }
    assert len(orders) == 5


def started(policy: Any) -> Freezer:
    model = chain()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Freezer(model, optimizer, policy, example_inputs=torch.zeros(1, 4))


def train(freezer: Freezer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        freezer.model(torch.randn(4, 4)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()


def resumed(freezer: Freezer, policy: Any) -> Freezer:
    """A freezer with another policy object that goes on from the state of the first."""
    second = started(policy)
    second.model.load_state_dict(freezer.model.state_dict())
    second.load_state_dict(copy.deepcopy(freezer.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(freezer.optimizer.state_dict()))
    return second


@pytest.mark.parametrize("is_gathered", [False, True], ids=["alone", "gathered"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_follows_its_schedule_and_a_resumed_one_goes_on_with_it(
    policy: str, is_gathered: bool
) -> None:
    def start() -> Any:
        made = POLICIES[policy](30, 0.6)
        return Gathered(made, 0.3) if is_gathered else made

    unbroken = started(start())
    train(unbroken, range(30))
    if not is_gathered:
        assert unbroken.events == events_of(POLICIES[policy](30, 0.6), 30)
        assert unbroken.compute_spent == pytest.approx(0.6 * 30, rel=0.01)
    assert unbroken.events
    for stop in (1, 17):
        first = started(start())
        train(first, range(stop))
        second = resumed(first, start())
        train(second, range(stop, 30))
        assert second.events == unbroken.events
        assert all(map(torch.equal, second.model.parameters(), unbroken.model.parameters()))


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "RandomOrder"])
@pytest.mark.parametrize("other", [200, 400])
def test_a_run_that_resumes_with_another_length_plans_the_rest_anew(
    policy: str, other: int
) -> None:
    freezer = freezer_of("chain")
    first = attached(POLICIES[policy](300, 0.62))
    events = unrolled(first, freezer, range(100))
    second = attached(POLICIES[policy](other, 0.62))
    second.load_state_dict(first.state_dict())
    frozen = {name for _, what, name in events if what == "freeze"}
    frozen -= {name for _, what, name in events if what == "thaw"}
    later = unrolled(second, freezer, range(100, other), frozen)
    spent = compute_spent([*events, *later], other, freezer.costs)
    assert spent / other == pytest.approx(0.62, rel=0.01)
