"""Tests of the feature cache: equal outputs and gradients, and forward passes that are saved."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from smartfrz import FeatureCache, Freezer, find_layers
from tests.helpers.architectures import ARCHITECTURES, Architecture, loss_of
from tests.helpers.counted import BATCH, Deeper, Net, frozen, images, seen
from tests.helpers.scripted import Scripted

every_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


class _Called:
    """A model behind a feature cache, for `loss_of`."""

    def __init__(self, cache: FeatureCache, keys: list[int]) -> None:
        self.cache, self.keys = cache, keys

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.cache(self.keys, *args, **kwargs)


@every_architecture
def test_a_frozen_prefix_of_any_architecture_is_skipped_with_the_same_gradients(
    architecture: Architecture,
) -> None:
    torch.manual_seed(0)
    model = architecture.build()
    inputs = architecture.inputs()
    layers = find_layers(model, inputs)
    prefix = [layer.name for layer in layers[: (len(layers) + 1) // 2] if not layer.is_head]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # In two stages, to compute the second features from the first.
    script = {0: prefix[: len(prefix) // 2], 1: prefix}
    freezer = Freezer(model, optimizer, Scripted(script), layers)
    cache = FeatureCache(freezer, dropout="eval")
    model.train()
    called = _Called(cache, [0, 1])
    for _ in range(2):
        freezer.step()
        for _ in range(2):
            loss_of(called, inputs)
    state = copy.deepcopy(model.state_dict())

    torch.manual_seed(1)
    loss_of(model, inputs).backward()
    expected, after = gradients(model), copy.deepcopy(model.state_dict())
    for _ in range(2):
        model.load_state_dict(state)
        torch.manual_seed(1)
        loss_of(called, inputs).backward()
        found = gradients(model)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, after[name])
    # A head tied to the first layer stays active, and nothing computed with it is cached.
    assert bool(cache.cut) is not layers[0].is_head


def test_each_sample_passes_the_prefix_once() -> None:
    model = Net().train()
    cache = FeatureCache(frozen(model, ["first.0"]))
    x = images()
    cache(BATCH, x[BATCH])
    seen(model)
    for keys, new in (([3, 4, 5, 6], 4), ([0, 3, 5, 7], 2), ([7, 0, 4, 3], 0), ([1, 2], 2)):
        stock = model(x[keys])
        seen(model)
        torch.testing.assert_close(cache(torch.tensor(keys), x[keys]), stock)
        assert seen(model) == new
    assert cache.cut == "dropout"


def test_the_rest_trains_as_without_a_cache() -> None:
    torch.manual_seed(0)
    models = [Net().train()]
    models.append(copy.deepcopy(models[0]))
    x, labels = images(), torch.arange(12) % 5
    for model, is_cached in zip(models, (False, True), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        freezer = Freezer(model, optimizer, Scripted({2: ["first.0"], 5: ["second.0"]}))
        cache = FeatureCache(freezer)
        for step in range(20):
            keys = torch.randperm(12, generator=torch.Generator().manual_seed(step))[:4]
            logits = cache(keys, x[keys]) if is_cached else model(x[keys])
            F.cross_entropy(logits, labels[keys]).backward()
            freezer.step()
            optimizer.step()
            optimizer.zero_grad()
    assert cache.cut == "second"
    for stock, cached in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(cached, stock)


def test_when_the_prefix_grows_features_are_computed_from_the_stored_ones() -> None:
    model = Deeper().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    script = {0: ["first.0"], 1: ["third"], 2: ["second.0"]}
    freezer = Freezer(model, optimizer, Scripted(script))
    cache = FeatureCache(freezer)
    x = images()[BATCH]

    def step() -> tuple[int, int]:
        for name in ("first", "second"):
            seen(model, name)
        torch.testing.assert_close(cache(BATCH, x), expected)
        return seen(model, "first"), seen(model, "second")

    freezer.step()
    expected = model(x)
    step()
    assert cache.cut == "first"
    assert [step(), step()] == [(4, 4), (0, 4)]
    freezer.step()
    expected = model(x)
    assert [step(), step()] == [(0, 4), (0, 4)]
    assert cache.cut == "first"
    freezer.step()
    expected = model(x)
    step()
    assert cache.cut == "third"
    assert [step(), step()] == [(0, 4), (0, 0)]


def test_it_is_cut_again_at_once_and_no_sample_passes_a_layer_twice() -> None:
    model = Deeper().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    script = {0: ["first.0"], 1: ["second.0"], 2: ["third"]}
    freezer = Freezer(model, optimizer, Scripted(script))
    cache = FeatureCache(freezer)
    x = images(18)

    def passed(keys: list[int]) -> tuple[int, int]:
        stock = model(x[keys])
        for name in ("first", "second"):
            seen(model, name)
        torch.testing.assert_close(cache(keys, x[keys]), stock)
        return seen(model, "first"), seen(model, "second")

    cuts = []
    # Each batch is stored at another cut; 12 to 15 come when layers have just frozen.
    for keys in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]):
        freezer.step()
        passed([12, 13, 14, 15])
        cuts.append(cache.cut)
        passed(keys)
    assert cuts == ["first", "second", "third"]
    assert passed([0, 4, 8, 12]) == (0, 1)
    assert passed([12, 8, 4, 0]) == (0, 0)
    assert passed([1, 2, 3, 13]) == (0, 3)
    assert passed([16, 17, 6, 14]) == (2, 2)
    assert passed([1, 17, 7, 15]) == (0, 0)


def test_a_cut_is_sought_with_two_samples() -> None:
    model = Net().train()
    cache = FeatureCache(frozen(model, ["first.0"]), dropout="eval")
    seen(model)
    cache(range(12), images())
    # The batch passes once, the two three times: to find dropout, to find the cut and to check it.
    assert seen(model) == 12 + 3 * 2


def test_on_disk_it_is_the_same_and_leaves_no_file(tmp_path: Path) -> None:
    model = Net().train()
    cache = FeatureCache(frozen(model, ["first.0"]), folder=tmp_path / "features")
    x = images()[BATCH]
    for _ in range(3):
        output = cache(BATCH, x)
    seen(model)
    assert torch.equal(cache(BATCH, x), output)
    assert seen(model) == 0
    assert list((tmp_path / "features").iterdir()) == []


def test_half_precision_features_stay_in_half_precision() -> None:
    model = Net().train()
    cache = FeatureCache(frozen(model, ["first.0"]))
    x = images()[BATCH]
    with torch.autocast("cpu", torch.bfloat16):
        stock = model(x)
        outputs = [cache(BATCH, x) for _ in range(3)]
    assert outputs[2].dtype == stock.dtype == torch.bfloat16
    torch.testing.assert_close(outputs[2], stock)


def test_in_eval_mode_the_model_is_simply_called() -> None:
    model = Net()
    cache = FeatureCache(frozen(model, ["first.0"]))
    for x in images().chunk(3):
        model.train()
        cache(BATCH, images()[BATCH])
        model.eval()
        assert torch.equal(cache(BATCH, x), model(x))


def test_augmented_inputs_are_refused() -> None:
    model = Net().train()
    cache = FeatureCache(frozen(model, []))
    x = images()[BATCH]
    cache(BATCH, x)
    for changed in (x.flip(3), x.roll(1, 2), x + 1e-7):
        with pytest.raises(ValueError, match="Sample 0 has other inputs"):
            cache(BATCH, changed)
    cache(BATCH, x)


def test_compiled_models_are_refused() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="compile"):
        FeatureCache(Freezer(torch.compile(model), optimizer, layers=find_layers(model)))


def test_inside_ddp_the_reducer_is_served_as_before() -> None:
    model = Net().train()
    x, expected = images()[BATCH], None
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        cache = FeatureCache(frozen(wrapped, ["first.0"]))
        for call in (lambda: wrapped(x), *[lambda: cache(BATCH, x)] * 4):
            seen(model)
            call().sum().backward()
            found = gradients(model)
            torch.testing.assert_close(found, expected or found)
            expected = found
    finally:
        dist.destroy_process_group()
    assert seen(model) == 0


def test_hooks_and_state_dict_are_as_before() -> None:
    model = Net().train()
    before = list(model.state_dict())
    cache = FeatureCache(frozen(model, ["first.0"]))
    for _ in range(3):
        cache(BATCH, images()[BATCH])
    assert list(model.state_dict()) == before
    assert all("forward" not in vars(module) for module in model.modules())
    assert [len(module._forward_hooks) for module in model.first] == [1, 0, 0]


def test_a_sample_may_appear_twice_in_a_batch() -> None:
    model = Net().train()
    cache = FeatureCache(frozen(model, ["first.0"]))
    x = images()
    for keys in ([0, 1], [0, 0, 1], [2, 3, 2, 2], [4, 5], [5, 4, 0, 1, 2, 3, 3]):
        torch.testing.assert_close(cache(keys, x[keys]), model(x[keys]))
    seen(model)
    torch.testing.assert_close(cache([5, 3, 5], x[[5, 3, 5]]), model(x[[5, 3, 5]]))
    assert seen(model) == 3  # of the model itself
    with pytest.raises(ValueError, match="Sample 7 has other inputs"):
        cache([6, 7, 7], x[[6, 7, 8]])


def test_features_are_discarded_when_changed_inputs_are_reported_late() -> None:
    model = Net().train()
    cache = FeatureCache(frozen(model, ["first.0"]), budget_bytes=2**20)
    x = images()
    cache([0], x[:1])
    compared, cache._fingerprints.changed = (
        cache._fingerprints.changed,
        lambda wait: compared(wait) if wait else [],
    )
    cache([0, 1, 2, 3], x[[1, 1, 2, 3]])  # as on a GPU, not reported yet
    for _ in range(2):
        with pytest.raises(ValueError, match="Sample 0 has other inputs"):
            cache([0, 4], x[[0, 4]])
        torch.testing.assert_close(cache([0, 1], x[[0, 1]]), model(x[[0, 1]]))
        cache([0], x[4:5])
    model.eval()
    with pytest.raises(ValueError, match="Sample 0 has other inputs"):
        cache([0], x[:1])
