"""Tests of the cut behind the frozen prefix, and of dropout before and after it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smartfrz import FeatureCache, Freezer
from tests.helpers.counted import BATCH, Net, frozen, images, seen
from tests.helpers.scripted import Scripted


class Around(Net):
    """With a connection around the second convolution."""

    def forward(self, x: Tensor) -> Tensor:
        early = self.first(x)
        return self.head((self.second(early) + early[:, :, 1:-1, 1:-1]).mean((2, 3)))


def test_what_comes_around_the_cut_is_not_lost() -> None:
    model = Around().train()
    cache = FeatureCache(frozen(model, ["first.0", "second.0"]))
    x = images()[BATCH]
    stock = model(x)
    for _ in range(3):
        torch.testing.assert_close(cache(BATCH, x), stock)
    assert cache.cut == "first"


def test_features_stay_where_a_longer_prefix_ends_in_the_same_cut() -> None:
    model = Around().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["first.0"], 1: ["second.0"]}))
    cache = FeatureCache(freezer)
    x = images()
    freezer.step()
    for _ in range(2):
        cache(BATCH, x[BATCH])
    freezer.step()
    cache([4, 5, 6, 7], x[4:8])
    seen(model)
    cache(BATCH, x[BATCH])
    assert seen(model) == 0


def test_where_there_is_no_place_to_cut_it_says_so() -> None:
    class Unseen(Net):
        def forward(self, x: Tensor) -> Tensor:
            early = F.relu(F.conv2d(x, self.first[0].weight))
            return self.head((self.second(early)).mean((2, 3)))

    model = Unseen().train()
    cache = FeatureCache(frozen(model, ["first.0"]))
    x = images()[BATCH]
    with pytest.warns(UserWarning, match="no module after which"):
        cache(BATCH, x)
    assert cache.cut == ""
    torch.testing.assert_close(cache(BATCH, x), model(x))


def test_a_norm_with_statistics_of_the_batch_is_not_skipped() -> None:
    model = Net().train()
    model.first[1] = nn.BatchNorm2d(4, track_running_stats=False)
    cache = FeatureCache(frozen(model, ["first.0"]))
    cache(BATCH, images()[BATCH])
    assert cache.cut == "first.0"


def test_live_dropout_is_refused_before_anything_is_frozen() -> None:
    model = Net(dropout=0.5).train()
    cache = FeatureCache(frozen(model, []))
    for _ in range(2):
        with pytest.raises(ValueError, match="dropout draws random numbers"):
            cache(BATCH, images()[BATCH])


def test_dropout_behind_the_last_layer_that_can_freeze_is_no_matter() -> None:
    model = Net().train()
    model.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 5))
    cache = FeatureCache(frozen(model, ["first.0", "second.0"]))
    x = images()[BATCH]
    outputs = []
    for _ in range(4):
        torch.manual_seed(1)
        outputs.append(cache(BATCH, x))
    torch.manual_seed(1)
    torch.testing.assert_close(outputs[3], model(x))
    assert not torch.allclose(cache(BATCH, x), outputs[3])
    assert cache.cut == "second"


def test_dropout_can_be_switched_off_in_the_frozen_prefix() -> None:
    model = Net(dropout=0.5).train()
    cache = FeatureCache(frozen(model, ["first.0", "second.0"]), dropout="eval")
    x = images()[BATCH]
    cache(BATCH, x)
    model.train()
    assert not model.dropout.training
    assert cache.cut == "second"
    torch.testing.assert_close(cache(BATCH, x), model(x))


def test_dropout_stays_live_in_front_of_what_trains() -> None:
    model = Net(dropout=0.5).train()
    cache = FeatureCache(frozen(model, ["first.0"]), dropout="eval")
    for _ in range(3):
        cache(BATCH, images()[BATCH])
    assert model.dropout.training
    assert cache.cut == "first"
