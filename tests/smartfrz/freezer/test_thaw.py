"""Tests of thawing: by `Freezer.thaw`, and by setting ``requires_grad`` outside of the freezer."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from smartfrz import ComputeBudget, FeatureCache, Freezer, fold_batch_norms, save_memory
from tests.helpers.scripted import Scripted


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )


def train(model: nn.Module, freezer: Freezer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        model.train()
        model(torch.randn(8, 3)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()


def frozen_model(
    make_optimizer: Callable[..., Optimizer] = SGD,
) -> tuple[nn.Module, Freezer]:
    """A model of which layers 0 and 2 were frozen at steps 1 and 3."""
    model = build()
    optimizer = make_optimizer(model.parameters(), lr=0.1, weight_decay=0.1)
    freezer = Freezer(model, optimizer, Scripted({1: ["0"], 3: ["2"]}))
    train(model, freezer, range(5))
    return model, freezer


def test_by_default_all_layers_thaw():
    _, freezer = frozen_model()
    freezer.thaw()
    assert freezer.frozen == {}
    assert [event for event in freezer.events if event[1] == "thaw"] == [
        (5, "thaw", "0"),
        (5, "thaw", "2"),
    ]


@pytest.mark.parametrize("make_optimizer", [SGD, AdamW])
def test_thawed_layers_train_as_if_they_had_never_been_frozen(make_optimizer):
    model, freezer = frozen_model(make_optimizer)
    twin = build()
    twin.load_state_dict(model.state_dict())
    optimizer = make_optimizer(twin.parameters(), lr=0.1, weight_decay=0.1)
    head = {twin[4].weight: model[4].weight, twin[4].bias: model[4].bias}
    for theirs, ours in head.items():  # the head alone has kept its state
        optimizer.state[theirs] = {
            key: value.clone() if torch.is_tensor(value) else value
            for key, value in freezer.optimizer.state[ours].items()
        }
    freezer.thaw(freezer.layers[:2])
    train(model, freezer, range(5, 9))
    train(twin, Freezer(twin, optimizer), range(5, 9))
    expected = twin.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert freezer.frozen == {}
    assert freezer.events == [
        (1, "freeze", "0"),
        (3, "freeze", "2"),
        (5, "thaw", "0"),
        (5, "thaw", "2"),
    ]


def test_one_of_several_layers_is_thawed():
    model, freezer = frozen_model()
    freezer.thaw(freezer.layers[:1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, freezer, range(5, 7))
    moved = {key[0] for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert moved == {"0", "1", "4"}
    assert freezer.frozen == {"2": 3}


def test_layers_that_are_not_frozen_are_refused_before_any_is_thawed():
    _, freezer = frozen_model()
    with pytest.raises(ValueError, match=r"\['4'\] are not frozen"):
        freezer.thaw(freezer.layers)
    assert list(freezer.frozen) == ["0", "2"]


def test_a_policy_can_freeze_them_again():
    model, freezer = frozen_model()
    freezer.thaw(freezer.layers[:1])
    freezer.policy = Scripted({6: ["0"]})
    train(model, freezer, range(5, 7))
    assert freezer.frozen == {"2": 3, "0": 6}


def test_requires_grad_set_by_hand_is_followed():
    model, freezer = frozen_model()
    model.requires_grad_(True)
    weights = model[0].weight.clone()
    with pytest.warns(UserWarning, match=r"\['0', '2'\] train again"):
        train(model, freezer, range(5, 6))
    assert freezer.frozen == {}
    # The gradient of this step had been computed with norms in eval mode, and without DDP.
    assert torch.equal(model[0].weight, weights)
    train(model, freezer, range(6, 7))
    assert not torch.equal(model[0].weight, weights)
    assert model[1].training


def test_max_norm_of_an_embedding_applies_again():
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 2))
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({0: ["0"]}))
    freezer.step()
    assert model[0].max_norm is None
    freezer.thaw(freezer.layers[:1])
    assert model[0].max_norm == 1.0


def test_a_budget_pays_for_thawed_layers():
    _, freezer = frozen_model()
    budget = ComputeBudget(freezer, steps=10, example_inputs=torch.zeros(1, 3))
    budget.step()
    cheap = budget.spent
    freezer.thaw(freezer.layers[:2])
    budget.step()  # the step of the thaw was computed with frozen layers
    assert budget.spent == pytest.approx(2 * cheap)
    budget.step()
    assert budget.spent == pytest.approx(2 * cheap + 0.1)


def test_a_budget_notices_that_another_layer_is_frozen():
    model, freezer = frozen_model()
    freezer.thaw(freezer.layers[1:2])
    budget = ComputeBudget(freezer, steps=10, example_inputs=torch.zeros(1, 3))
    freezer.thaw(freezer.layers[:1])
    freezer.policy = Scripted({5: ["2"]})
    train(model, freezer, range(5, 6))
    budget.step()
    before = budget.spent
    budget.step()
    other = ComputeBudget(freezer, steps=10, example_inputs=torch.zeros(1, 3))
    other.step()
    assert budget.spent - before == pytest.approx(other.spent)


def test_memory_saving_and_folding_follow():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten()
    )
    inputs = torch.randn(4, 3, 2, 2)
    fold_batch_norms(model, inputs)
    save_memory(model)
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({0: ["0"]}))
    model(inputs).sum().backward()
    freezer.step()
    freezer.optimizer.zero_grad()
    model(inputs)
    freezer.thaw(freezer.layers[:1])
    twin = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten()
    )
    twin.load_state_dict(model.state_dict())
    for net in (model, twin):
        net(inputs).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(model[1].running_mean, twin[1].running_mean)


def test_a_feature_cache_computes_thawed_layers_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({0: ["0", "2"]}))
    cached, inputs = FeatureCache(freezer), torch.randn(6, 3)

    def step() -> None:
        torch.testing.assert_close(cached(range(6), inputs), model(inputs))
        cached(range(6), inputs).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()

    for _ in range(4):
        step()
    assert cached.cut == "3"
    freezer.thaw(freezer.layers[1:2])
    for _ in range(4):
        step()
    assert cached.cut == "1"
    freezer.thaw(freezer.layers[:1])
    for _ in range(2):
        step()
    assert cached.cut == ""


def test_dropout_of_thawed_layers_is_on_again():
    model = nn.Sequential(
        nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 2)
    )
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), Scripted({0: ["0", "2"]}))
    cached, inputs = FeatureCache(freezer, dropout="eval"), torch.randn(6, 3)
    for _ in range(3):
        cached(range(6), inputs).square().mean().backward()
        freezer.step()
        freezer.optimizer.zero_grad()
    assert not model.train()[1].training
    freezer.thaw(freezer.layers[1:2])
    cached(range(6), inputs)
    assert model[1].training and model.train()[1].training
