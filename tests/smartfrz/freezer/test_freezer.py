"""Tests of the calls from freezer to policy, and of the decisions that the freezer applies."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from baselines.freezeout import FreezeOut, param_groups
from smartfrz import Freezer, Layer, find_layers
from tests.helpers.scripted import Scripted


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


def test_the_state_of_another_policy_is_refused_before_anything_freezes():
    def freezer_with(policy) -> Freezer:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        return Freezer(model, SGD(model.parameters(), lr=0.1), policy)

    scripted = freezer_with(Scripted({0: ["0"]}))
    scripted.step()
    other = freezer_with(None)
    with pytest.raises(ValueError, match="of Scripted, but the policy is NoneType"):
        other.load_state_dict(scripted.state_dict())
    assert other.frozen == {} and all(p.requires_grad for p in other.model.parameters())


def test_a_layer_can_be_marked_as_a_further_head():
    model = build()
    layers = [
        replace(each, is_head=each.is_head or each.name == "2") for each in find_layers(model)
    ]
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({0: ["0", "2"]}), layers)
    assert [layer.name for layer in freezer.step()] == ["0"]


def test_no_head_of_several_is_ever_frozen():
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.main, self.aux = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.main(self.body(x)), self.aux(self.body(x))

    model = TwoHeads()
    layers = find_layers(model, torch.zeros(1, 3))
    optimizer = SGD(param_groups(model, layers), lr=0.1)
    freezer = Freezer(model, optimizer, FreezeOut(optimizer, total_steps=10), layers)
    for _ in range(10):
        model(torch.ones(1, 3))[0].sum().backward()
        freezer.step()
        optimizer.step()
    assert list(freezer.frozen) == ["body"]


@pytest.mark.parametrize(
    ("script", "total_steps", "is_early"),
    [
        ({1: ["0", "2"]}, 8, True),
        ({0: ["0"], 1: ["2"]}, 8, True),
        ({1: ["0"]}, 8, False),
        ({2: ["0", "2"]}, 8, False),
        ({1: ["0", "2"]}, None, False),
    ],
)
def test_warns_if_all_layers_but_the_head_freeze_in_the_first_quarter(
    script: dict[int, list[str]], total_steps: int | None, is_early: bool
):
    model = build()
    freezer = Freezer(model, SGD(model.parameters(), 0.1), Scripted(script), None, total_steps)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for _ in range(8):
            freezer.step()
    assert ["first quarter" in str(each.message) for each in shown] == [True] * is_early
