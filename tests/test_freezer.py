"""What the freezer asks of a policy, and what it makes of the answer."""

from collections.abc import Sequence

import pytest
from scripted import Scripted
from torch import nn
from torch.optim import SGD

from smartfrz import Freezer, Layer, find_layers


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))


def freezer_of(model: nn.Module, policy: object) -> Freezer:
    return Freezer(model, SGD(model.parameters(), lr=0.1), policy)


def test_policy_is_asked_at_every_step_about_what_still_trains():
    asked = []

    class Policy:
        def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
            asked.append((step, [layer.name for layer in active]))
            return active[:1] if step == 1 else []

    freezer = freezer_of(build(), Policy())
    assert [[layer.name for layer in freezer.step()] for _ in range(3)] == [[], ["0"], []]
    assert asked == [(0, ["0", "2", "3"]), (1, ["0", "2", "3"]), (2, ["2", "3"])]
    assert freezer.frozen == {"0": 1}


def test_newly_frozen_layers_come_in_execution_order():
    freezer = freezer_of(build(), Scripted({0: ["2", "0"]}))
    assert [layer.name for layer in freezer.step()] == ["0", "2"]


def test_the_head_is_never_frozen_and_nothing_twice():
    model = build()
    freezer = freezer_of(model, Scripted({0: ["0", "3"], 1: ["0", "3"]}))
    assert [layer.name for layer in freezer.step()] == ["0"]
    assert freezer.step() == []
    assert freezer.frozen == {"0": 0}
    assert all(param.requires_grad for param in model[3].parameters())


def test_decisions_fall_only_on_steps_that_are_due():
    class EveryThird(Scripted):
        def is_due(self, step: int) -> bool:
            return step % 3 == 2

    freezer = freezer_of(build(), EveryThird({1: ["0"], 2: ["2"]}))
    for _ in range(4):
        freezer.step()
    assert freezer.frozen == {"2": 2}


def test_full_training_freezes_nothing():
    model = build()
    freezer = freezer_of(model, None)
    assert freezer.step() == []
    assert all(param.requires_grad for param in model.parameters())


def test_layers_that_leave_nothing_to_train_are_refused():
    model = build()
    optimizer = SGD(model.parameters(), lr=0.1)
    layers = [Layer(layer.name, layer.modules, layer.params) for layer in find_layers(model)]
    with pytest.raises(ValueError, match="is_head"):
        Freezer(model, optimizer, layers=layers)
    freezer = Freezer(model, optimizer, Scripted({0: ["0", "2"]}), layers[:2])
    assert len(freezer.step()) == 2
