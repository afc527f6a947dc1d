"""Tests of policies that thaw layers, and of policies that are attached to a freezer."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from smartfrz import Freezer, Gathered, Layer
from tests.helpers.scripted import Scripted, ThawsToo

BODY = ["0", "2", "4"]


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4)),
        *(nn.Linear(4, 4), nn.Linear(4, 2)),
    )


def freezer_of(policy: Any) -> Freezer:
    model = build()
    return Freezer(model, SGD(model.parameters(), lr=0.1, momentum=0.9), policy)


def train(freezer: Freezer, steps: range) -> list[list[str]]:
    """Trains, and returns the layers that move in each step."""
    moved = []
    for step in steps:
        torch.manual_seed(step)
        before = [layer.params[0].clone() for layer in freezer.layers]
        freezer.model.train()
        freezer.model(torch.randn(8, 3)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()
        pairs = zip(freezer.layers, before, strict=True)
        moved.append([layer.name for layer, old in pairs if not torch.equal(layer.params[0], old)])
    return moved


FREEZES, THAWS = {0: BODY, 4: ["4"]}, {2: ["4"], 4: ["2"], 6: BODY}


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "gathered"])
def test_layers_train_from_the_step_after_their_thaw(wrapped: bool) -> None:
    policy = ThawsToo(FREEZES, THAWS)
    freezer = freezer_of(Gathered(policy, 0.01) if wrapped else policy)
    moved = train(freezer, range(8))
    assert moved == [["5"]] * 3 + [["4", "5"]] + [["5"]] + [["2", "5"]] * 2 + [[*BODY, "5"]]
    assert freezer.frozen == {}
    assert freezer.events == [
        *((0, "freeze", name) for name in BODY),
        *((3, "thaw", "4"), (4, "freeze", "4"), (5, "thaw", "2"), (7, "thaw", "0")),
        (7, "thaw", "4"),
    ]
    assert policy.asked[2] == (2, BODY, ["4", "5"])
    costs = freezer.costs
    step_costs = [*(1.0, costs(BODY), costs(BODY), costs(["0", "2"]), costs(["0", "2"]))]
    step_costs += [costs(["0", "4"]), costs(["0", "4"]), 1.0]
    assert freezer.compute_spent == pytest.approx(sum(step_costs))


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "gathered"])
def test_what_is_thawed_and_frozen_at_once_is_thawed(wrapped: bool) -> None:
    policy = ThawsToo({0: BODY, 2: ["0", "2"]}, {2: ["2", "4"]})
    freezer = freezer_of(Gathered(policy, 1.0) if wrapped else policy)
    assert train(freezer, range(4))[3] == ["2", "4", "5"]
    assert list(freezer.frozen) == ["0"]
    assert policy.asked[2] == (2, BODY, ["2", "4", "5"])


def test_only_frozen_layers_are_thawed() -> None:
    class Everything(Scripted):
        def layers_to_thaw(self, frozen: Sequence[Layer], step: int) -> list[Layer]:
            return freezer.layers

    freezer = freezer_of(Everything({0: ["0"]}))
    train(freezer, range(3))
    assert freezer.events == [(0, "freeze", "0"), (2, "thaw", "0")]


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "gathered"])
@pytest.mark.parametrize("stop", range(1, 7))
def test_a_resumed_run_thaws_as_an_unbroken_one(wrapped: bool, stop: int) -> None:
    def start() -> Freezer:
        policy = ThawsToo(FREEZES, THAWS)
        return freezer_of(Gathered(policy, 0.01) if wrapped else policy)

    unbroken, first, second = start(), start(), start()
    train(unbroken, range(8))
    train(first, range(stop))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    train(second, range(stop, 8))
    assert second.events == unbroken.events
    assert second.compute_spent == unbroken.compute_spent
    assert all(map(torch.equal, second.model.parameters(), unbroken.model.parameters()))


@pytest.mark.parametrize("by_hand", [False, True])
def test_norms_that_are_thawed_in_the_step_of_a_freeze_may_move(by_hand: bool) -> None:
    thaws = {} if by_hand else {2: ["0"]}
    freezer = freezer_of(ThawsToo({0: ["0"], 2: ["2"]}, thaws))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(freezer, range(3))
        if by_hand:
            freezer.thaw(freezer.layers[:1])
        mean = freezer.model.get_buffer("1.running_mean").clone()
        train(freezer, range(3, 5))
    assert not torch.equal(freezer.model.get_buffer("1.running_mean"), mean)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "gathered"])
def test_a_policy_is_attached_once_to_a_complete_freezer(wrapped: bool) -> None:
    class Attached(Scripted):
        costs: tuple[float, ...] = ()

        def attach(self, freezer: Freezer) -> None:
            names = [layer.name for layer in freezer.layers]
            self.costs += (freezer.costs(names[:2]), freezer.compute_spent)

    policy = Attached({})
    freezer = freezer_of(Gathered(policy) if wrapped else policy)
    assert policy.costs == (freezer.costs(BODY[:2]), 0.0)
    train(freezer, range(2))
    assert len(policy.costs) == 2


def test_all_layers_frozen_at_step_0_are_no_reason_to_warn() -> None:
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = SGD(model.parameters(), lr=0.1)
        train(Freezer(model, optimizer, Scripted({0: BODY}), total_steps=100), range(3))
