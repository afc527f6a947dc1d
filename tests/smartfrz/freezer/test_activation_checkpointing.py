"""Tests of activation checkpointing, which must not be reentrant above a frozen prefix."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from smartfrz import Freezer, find_layers
from tests.helpers.scripted import Scripted

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


class Blocks(nn.Module):
    """A stem, checkpointed blocks and a head."""

    def __init__(self, use_reentrant: bool | None) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Dropout(0.1)) for _ in range(4)
        )
        self.head = nn.Linear(8, 2)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if self.use_reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return self.head(x)


def train(
    model: nn.Module, script: dict[int, list[str]], set_to_none: bool = True, batch_size: int = 8
) -> dict[str, Tensor]:
    """Trains 10 steps and returns the final weights."""
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    freezer = Freezer(model, optimizer, Scripted(script), find_layers(model, torch.zeros(1, 3)))
    torch.manual_seed(1)
    for _ in range(10):
        model.train()
        model(torch.randn(batch_size, 3)).square().mean().backward()
        freezer.step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
    assert freezer.frozen.keys() == {name for names in script.values() for name in names}
    assert not any(module._forward_hooks for module in model.modules())
    return model.state_dict()


SCATTERED = {2: ["stem"], 4: ["blocks.2.0"], 6: ["blocks.0.0", "blocks.1.0"]}


def test_non_reentrant_checkpointing_changes_nothing():
    torch.manual_seed(0)
    plain = Blocks(None)
    checkpointed = Blocks(False)
    checkpointed.load_state_dict(plain.state_dict())
    theirs, ours = train(plain, SCATTERED), train(checkpointed, SCATTERED)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_frozen_prefix_is_not_computed_again():
    model = Blocks(use_reentrant=False)
    optimizer = SGD(model.parameters(), lr=0.1)
    prefix = ["stem", "blocks.0.0", "blocks.1.0"]
    freezer = Freezer(model, optimizer, Scripted({0: prefix}))
    passes = [0] * 4
    for number, block in enumerate(model.blocks):
        block[0].register_forward_pre_hook(
            lambda *_, number=number: passes.__setitem__(number, passes[number] + 1)
        )
    for expected in ([2, 2, 2, 2], [1, 1, 2, 2]):
        passes[:] = [0] * 4
        model(torch.randn(8, 3)).square().mean().backward()
        assert passes == expected
        freezer.step()


def test_reentrant_checkpointing_works_until_a_prefix_is_frozen():
    plain = Blocks(None)
    checkpointed = Blocks(True)
    checkpointed.load_state_dict(plain.state_dict())
    script = {2: ["blocks.2.0"]}
    theirs, ours = train(plain, script), train(checkpointed, script)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_reentrant_checkpointing_above_a_frozen_prefix_is_refused(set_to_none: bool):
    with pytest.raises(RuntimeError, match=r"blocks\.0\.0.*use_reentrant=False"):
        train(Blocks(True), {2: ["stem"]}, set_to_none)


def test_reentrant_checkpointing_is_allowed_where_all_it_holds_is_frozen():
    train(Blocks(True), {2: ["stem", *(f"blocks.{i}.0" for i in range(4))]})


class Sometimes(nn.Module):
    """Layers that are legitimately skipped for a step, or have a zero gradient."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.how, self.step = how, 0

    def forward(self, x: Tensor) -> Tensor:
        self.step += self.training
        is_out = self.step % 2 == 0
        x = self.first(x)
        if self.how == "zeroed":  # stochastic depth
            x = x + self.second(x) * (0.0 if is_out else 1.0)
        elif not is_out:  # layer drop, or the head of another task
            x = self.second(x)
        return self.head(x)


@pytest.mark.parametrize("how", ["zeroed", "skipped"])
def test_layers_that_sit_out_a_step_are_no_error(how: str):
    train(Sometimes(how), {2: ["first"]})


@pytest.mark.parametrize(
    ("model", "first"), [(Blocks(None), "stem"), (Sometimes("skipped"), "first")]
)
def test_evaluation_between_two_steps_is_no_error(model: nn.Module, first: str):
    """This holds even if a layer is skipped in the next step."""
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: [first]}), find_layers(model))
    for _ in range(2):
        model(torch.randn(8, 3)).square().mean().backward()
        freezer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.eval()(torch.randn(8, 3))
        model.train()
    assert freezer.frozen == {first: 0}
