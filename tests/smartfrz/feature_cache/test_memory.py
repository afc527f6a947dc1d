"""Tests of the memory of the feature cache: its budget, and what it keeps alive."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from smartfrz import FeatureCache, Freezer
from tests.helpers.counted import BATCH, Deeper, Net, frozen, images, seen
from tests.helpers.scripted import Scripted


def test_both_generations_of_features_keep_within_the_budget() -> None:
    row = 4 * 6 * 6 * 4
    model = Deeper().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["first.0"], 1: ["second.0", "third"]}))
    cache = FeatureCache(freezer, budget_bytes=5 * row)
    x = images()[BATCH]
    freezer.step()
    for _ in range(2):
        cache(BATCH, x)
    freezer.step()
    for _ in range(4):
        torch.testing.assert_close(cache(BATCH, x), model(x))
    assert cache.cut == "third"
    seen(model)
    cache(BATCH, x)
    assert seen(model) == 0


def test_no_more_is_remembered_than_the_budget_allows() -> None:
    model = Net().train()
    row = 4 * 6 * 6 * 4
    cache = FeatureCache(frozen(model, ["first.0"]), budget_bytes=3 * row + 1)
    x = images()
    cache(BATCH, x[BATCH])
    for _ in range(2):
        seen(model)
        torch.testing.assert_close(cache(BATCH, x[BATCH]), model(x[BATCH]))
    assert seen(model) == 1 + 4
    nothing = FeatureCache(frozen(model, ["first.0"]), budget_bytes=0)
    for _ in range(3):
        torch.testing.assert_close(nothing(BATCH, x[BATCH]), model(x[BATCH]))


@pytest.mark.parametrize("folder", ["", "features"])
def test_memory_is_allocated_as_needed_and_within_the_budget(folder: str, tmp_path: Path) -> None:
    row, x = 4 * 6 * 6 * 4, torch.randn(200, 3, 8, 8)
    model = Wide().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["first.0"], 1: ["second.0"]}))
    cache = FeatureCache(freezer, 200 * row, tmp_path / folder if folder else None)

    def epoch(seed: int) -> None:
        for keys in torch.randperm(200, generator=torch.Generator().manual_seed(seed)).split(8):
            cache(keys, x[keys])
            assert cache.nbytes <= 200 * row

    freezer.step()
    for _ in range(2):
        cache(BATCH, x[BATCH])
    assert 4 * row <= cache.nbytes <= 8 * row
    epoch(seed=0)
    assert cache.nbytes == 200 * row
    freezer.step()
    cache(BATCH, x[BATCH])
    assert cache.cut == "second"
    seen(model)
    epoch(seed=1)
    assert cache.nbytes == 200 * row
    # The second features, as large as the first, took their place with hardly any loss.
    assert seen(model) <= 20


class Wide(Net):
    """With a second convolution whose output is as large as that of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.second[0].padding = 1


def test_skipped_modules_allocate_nothing_that_stays() -> None:
    width = 2**10
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(8)], nn.Linear(width, 2)).train()
    cache = FeatureCache(frozen(model, [str(i) for i in range(8)]))
    x = torch.randn(16, width)
    storages: list[StorageWeakRef] = []
    alive: list[int] = []

    class Allocations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                storages.append(StorageWeakRef(out.untyped_storage()))
            return out

    model[8].register_forward_pre_hook(
        lambda module, args: alive.append(len({s.cdata for s in storages if not s.expired()}))
    )
    for _ in range(2):
        cache(range(16), x)
    alive.clear()
    with Allocations():
        cache(range(16), x)
    assert alive[0] <= 4


def test_nothing_but_features_is_kept_of_a_forward_pass() -> None:
    class Opaque:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    class Attention(Net):
        """Returns an object beside the logits, as a decoder returns its keys and values."""

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.second(self.first(x))
            kept.append(StorageWeakRef(hidden.untyped_storage()))
            return self.head(hidden.mean((2, 3))), Opaque(hidden)

    kept: list[StorageWeakRef] = []
    model = Attention().train()
    cache = FeatureCache(frozen(model, ["first.0"]))
    for _ in range(3):
        cache(BATCH, images()[BATCH])
    assert all(storage.expired() for storage in kept)
