"""Tests of gathered freezing: number of freezes, frozen layers, compilations and resuming."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from baselines import AutoFreeze, FreezeOut, RandomOrder
from baselines.freezeout import param_groups
from smartfrz import AttentionPredictor, Freezer, Gathered, SmartFRZ, find_layers
from tests.helpers.scripted import Scripted

BODY = 10
STEPS = 14


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(BODY)), nn.Linear(4, 2))


def one_by_one() -> Scripted:
    """A policy that selects layer k at step k + 1."""
    return Scripted({step: [str(step - 1)] for step in range(1, BODY + 1)})


def train(model: nn.Module, freezer: Freezer, steps: range = range(STEPS)) -> None:
    for step in steps:
        torch.manual_seed(step)
        model(torch.randn(8, 4)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()


def freezer_of(model: nn.Module, policy) -> Freezer:
    layers = find_layers(model)
    return Freezer(model, SGD(param_groups(model, layers), lr=0.1, momentum=0.9), policy, layers)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (0.01, list(range(1, BODY + 1))),
        (0.25, [3, 3, 3, 6, 6, 6, 9, 9, 9, 10]),
        (0.5, [5] * 5 + [10] * 5),
        (1.0, [10] * 10),
    ],
)
def test_layers_freeze_once_enough_of_them_wait(part, expected):
    model = build()
    freezer = freezer_of(model, Gathered(one_by_one(), part))
    train(model, freezer)
    assert list(freezer.frozen.values()) == expected
    assert len(set(freezer.frozen.values())) <= min(BODY, math.ceil(1 / part))


def test_what_is_selected_at_step_0_keeps_its_initial_weights():
    model = build()
    freezer = freezer_of(model, Gathered(Scripted({0: ["0", "3"], 2: ["1"]}), 0.5))
    start = model[0].weight.clone()
    train(model, freezer)
    assert freezer.frozen == {"0": 0, "3": 0}
    assert torch.equal(model[0].weight, start)


def test_what_waits_goes_on_training():
    model = build()
    freezer = freezer_of(model, Gathered(one_by_one(), 0.5))
    train(model, freezer, range(3))
    chosen_long_ago = model[0].weight.clone()
    train(model, freezer, range(3, 5))
    assert not torch.equal(model[0].weight, chosen_long_ago)
    assert not freezer.frozen
    train(model, freezer, range(5, 7))
    at_last = model[0].weight.clone()
    train(model, freezer, range(7, STEPS))
    assert torch.equal(model[0].weight, at_last)


POLICIES = {
    "scripted": lambda optimizer: one_by_one(),
    "random": lambda optimizer: RandomOrder(STEPS, 0.8),
    "linear": lambda optimizer: FreezeOut(optimizer, STEPS, t0=0.2),
    "autofreeze": lambda optimizer: AutoFreeze(2, 1),
    "smartfrz": lambda optimizer: SmartFRZ(
        _predictor(), interval=2, threshold=0.488, min_records=2, guard=False
    ),
}


def _predictor(encoding: str = "displacement") -> AttentionPredictor:
    torch.manual_seed(0)
    return AttentionPredictor(size=16, window=4, encoding=encoding)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_gathered_and_resumed(name):
    def start() -> tuple[nn.Module, Freezer]:
        model = build()
        layers = find_layers(model)
        optimizer = SGD(param_groups(model, layers), lr=0.1, momentum=0.9)
        return model, Freezer(model, optimizer, Gathered(POLICIES[name](optimizer), 0.4), layers)

    unbroken, freezer = start()
    train(unbroken, freezer)
    assert freezer.frozen
    waiting: set[str] = set()
    for stop in (3, 6, 9):
        model, first = start()
        train(model, first, range(stop))
        again, second = start()
        again.load_state_dict(model.state_dict())
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        second.load_state_dict(first.state_dict())
        waiting |= set(first.state_dict()["policy"]["waiting"])
        train(again, second, range(stop, STEPS))
        assert second.frozen == freezer.frozen
        assert all(map(torch.equal, again.parameters(), unbroken.parameters()))
    # Else the state of layers that wait would not have been restored.
    assert waiting


class Watched:
    """A policy that records what it sees, and selects layer k from step k + 1 on, repeatedly."""

    def __init__(self):
        self.seen = []

    def layers_to_freeze(self, active, step):
        self.seen.append([layer.name for layer in active])
        return [layer for layer in active if int(layer.name) < step]


def test_the_policy_still_sees_the_layers_that_wait():
    policy = Watched()
    freezer = freezer_of(build(), Gathered(policy, 0.5))
    train(freezer.model, freezer)
    every = [str(k) for k in range(BODY + 1)]
    assert policy.seen == [every] * 6 + [every[5:]] * 5 + [every[10:]] * 3
    assert list(freezer.frozen.values()) == [5] * 5 + [10] * 5


def test_the_drift_of_a_layer_that_waits_counts_for_those_behind_it():
    """Their input still changes: without it, they would seem to have come to rest."""
    policy = SmartFRZ(_predictor("drift"), interval=1, threshold=2.0)
    seen, wrapped = SmartFRZ(_predictor("drift"), interval=1, threshold=2.0), Gathered(policy, 1.0)
    layers = find_layers(build())
    wrapped.load_state_dict({**wrapped.state_dict(), "count": BODY, "waiting": ["0"]})
    for step in range(4):
        with torch.no_grad():
            layers[0].params[0].add_(1.0)
            for layer in layers[1:]:
                layer.params[0].add_(0.001)
        assert wrapped.layers_to_freeze(layers, step) == []
        seen.layers_to_freeze(layers, step)
    assert torch.equal(policy._records._newest, seen._records._newest)


def test_autofreeze_goes_on_behind_the_layers_that_wait():
    """What it has selected no longer counts for the percentile, as if it were frozen."""
    plain = freezer_of(build(), AutoFreeze(2, 1))
    gathered = freezer_of(build(), Gathered(AutoFreeze(2, 1), 1.0))
    for freezer in (plain, gathered):
        train(freezer.model, freezer, range(6))
    selected = gathered.state_dict()["policy"]["waiting"]
    assert plain.frozen and selected
    first = min(plain.frozen.values())
    at_first = [name for name, step in plain.frozen.items() if step == first]
    assert selected[: len(at_first)] == at_first and not gathered.frozen
    assert len(set(selected)) == len(selected)


def test_compiled_a_handful_of_times():
    compilations = []

    def backend(graph, example_inputs):
        compilations.append(graph)
        return graph

    model = build()
    compiled = torch.compile(model, backend=backend)
    freezer = freezer_of(compiled, Gathered(one_by_one(), 0.25))
    train(compiled, freezer)
    assert len(compilations) == 1 + len(set(freezer.frozen.values())) == 5
    torch.compiler.reset()


@pytest.mark.parametrize("part", [0.0, -0.1, 1.1, math.nan])
def test_a_part_is_more_than_nothing_and_at_most_all(part):
    with pytest.raises(ValueError, match="part"):
        Gathered(one_by_one(), part)
