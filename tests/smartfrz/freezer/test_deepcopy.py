"""Tests of copies of a partly frozen model (EMA, snapshots, pickles)."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

from smartfrz import Freezer
from tests.helpers.scripted import Scripted


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model: nn.Module) -> nn.Module:
    return AveragedModel(model).module


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_torch_save, averaged])
def test_copy_is_frozen_where_the_model_is(copied: Callable[[nn.Module], nn.Module]):
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["0"]}))
    model(torch.randn(8, 3)).square().mean().backward()
    freezer.step()
    twin = copied(model)  # in the step of the freeze

    assert [param.requires_grad for param in twin.parameters()] == [False] * 4 + [True] * 6
    statistics = model[1].running_mean.clone()
    twin.train()
    twin(torch.randn(8, 3))
    assert torch.equal(twin[1].running_mean, statistics)
    assert not torch.equal(twin[3].running_mean, model[3].running_mean)
    assert not twin[1].training
    assert twin[3].training
    # The copy's frozen norm is independent of the model's.
    twin[1].running_mean.zero_()
    assert torch.equal(model[1].running_mean, statistics)
    assert model.train()[1].train() is model[1]
    assert twin[1].train() is twin[1]
