"""Tests of the policy that freezes one group of layers at one step."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from baselines import FrozenGroup
from baselines.frozen_group import group_of
from smartfrz import Freezer


def trained(policy: FrozenGroup, steps: int) -> tuple[Freezer, list[list[torch.Tensor]]]:
    """A freezer after some steps, and the weights of all layers before each step and at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.randn(8, 4)
    freezer = Freezer(model, optimizer, policy, example_inputs=inputs)
    weights = []
    for _ in range(steps):
        weights.append([layer.weight.detach().clone() for layer in model])
        model(inputs).square().mean().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    return freezer, [*weights, [layer.weight.detach().clone() for layer in model]]


@pytest.mark.parametrize("layers", [4, 5, 10, 53])
def test_groups_are_neighbours_and_cover_all_layers_once(layers):
    parts = [range(layers)[group_of(layers, group, 4)] for group in range(1, 5)]
    assert [index for part in parts for index in part] == list(range(layers))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_group_stands_still_from_its_step_on_and_all_others_go_on():
    freezer, weights = trained(FrozenGroup(step=2, group=2, groups=2), steps=5)
    assert freezer.frozen == {"2": 2, "3": 2, "4": 2}  # the head, 5, is in no group
    for before, after, step in zip(weights, weights[1:], range(5), strict=False):
        moved = [not torch.equal(*each) for each in zip(before, after, strict=True)]
        assert moved == [not (2 <= index <= 4 and step >= 2) for index in range(6)]


@pytest.mark.parametrize(
    ("group", "groups", "said"), [(0, 4, "from 1"), (5, 4, "from 1"), (1, 6, "use fewer groups")]
)
def test_a_group_that_does_not_exist_is_a_sentence(group, groups, said):
    with pytest.raises(ValueError, match=said):
        trained(FrozenGroup(0, group, groups), steps=1)
