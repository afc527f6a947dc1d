"""Image batches: order by seed and epoch, shares of processes, crops and flips."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from experiments.data.image_batches import ImageBatches, crop_and_flip
from experiments.data.images import ImageData, load_data
from experiments.data.sentence_batches import MaskedTextBatches, TextBatches
from experiments.data.sentences import TextData
from experiments.models.registry import NETWORKS
from experiments.runs.setup import prepare
from tests.helpers.digits import tiny_run

CPU = torch.device("cpu")


def numbered_data(train=37, test=11):
    """Images of 16 x 16 pixels whose first pixel is their index."""
    images = torch.randint(0, 256, (train + test, 3, 16, 16), dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(train + test)
    labels = torch.arange(train + test)
    return ImageData(images[:train], labels[:train], images[train:], labels[train:], train + test)


def make_batches(data=None, rank=0, world_size=1, **changes):
    config = tiny_run(**({"train_images": 0, "batch_size": 8} | changes))
    return ImageBatches(config, data or numbered_data(), CPU, rank, world_size)


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        for tensor, other_tensor in zip(one, other, strict=True):
            assert torch.equal(tensor, other_tensor)


@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_depends_on_its_seed_and_number_alone(augment):
    data = numbered_data()
    first = list(make_batches(data, augment=augment).epoch(seed=3, epoch=2))
    torch.manual_seed(123)
    batches = make_batches(data, augment=augment)
    list(batches.epoch(seed=3, epoch=1))
    assert_same(batches.epoch(seed=3, epoch=2), first)


def sentence_batches(kind):
    ids = torch.randint(1000, 2000, (37, 12))
    parts = (ids, torch.zeros_like(ids), torch.arange(37) % 2)
    data = TextData(*parts, *(part[:8] for part in parts), num_classes=2)
    return kind(tiny_run(train_images=0, batch_size=8), data, CPU)


@pytest.mark.parametrize(
    "make",
    [
        partial(make_batches, augment=True),
        partial(sentence_batches, TextBatches),
        partial(sentence_batches, MaskedTextBatches),
    ],
)
def test_steps_of_an_epoch_copy_nothing_to_the_device(make, monkeypatch):
    """With a copy, the host would wait for a GPU at each step."""
    batches = make()
    steps = batches.epoch(0, 0)
    next(steps)

    def refuse(tensor, *args, **kwargs):
        raise AssertionError("copied")

    for name in ("to", "cpu", "cuda", "tolist", "item"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    assert len(list(steps)) == batches.steps_per_epoch - 1 > 0


def test_another_seed_or_epoch_has_another_order():
    batches = make_batches()
    orders = {
        tuple(torch.cat([labels for _, labels, _ in batches.epoch(seed, epoch)]).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_keys_are_the_numbers_of_the_examples():
    for _, labels, keys in make_batches().epoch(0, 0):
        assert torch.equal(keys, labels)


def test_an_epoch_has_every_image_at_most_once_in_full_batches():
    batches = make_batches()
    labels = [labels for _, labels, _ in batches.epoch(0, 0)]
    assert [len(each) for each in labels] == [8] * 4 == [8] * batches.steps_per_epoch
    assert len(torch.cat(labels).unique()) == 32


def test_images_keep_their_labels():
    data = numbered_data()
    mean, std = data.normalisation()
    for images, labels, _ in make_batches(data).epoch(0, 0):
        pixels = (images * std + mean)[:, 0, 0, 0] * 255
        assert torch.equal(pixels.round().long(), labels)


@pytest.mark.parametrize("augment", [False, True])
def test_processes_share_out_each_batch(augment):
    data = numbered_data()
    whole = make_batches(data, augment=augment).epoch(1, 1)
    parts = [make_batches(data, r, 2, augment=augment).epoch(1, 1) for r in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, mine in enumerate(shares):
            assert_same([mine], [[tensor[rank::2] for tensor in batch]])


def test_only_the_first_training_images_are_used():
    labels = torch.cat([labels for _, labels, _ in make_batches(train_images=16).epoch(0, 0)])
    assert sorted(labels.tolist()) == list(range(16))


@pytest.mark.parametrize(("images", "expected"), [(0, 11), (4, 4), (100, 11)])
def test_test_batches_are_the_first_test_images_in_order(images, expected):
    labels = [labels for _, labels in make_batches().test(images, batch_size=3)]
    assert torch.cat(labels).tolist() == list(range(37, 37 + expected))


def test_a_probe_is_of_the_first_training_images_as_they_are():
    data = numbered_data()
    plain = make_batches(data, train_images=20, batch_size=1, augment=False)
    by_label = {int(label): image for (image,), (label,), _ in map(tuple, plain.epoch(0, 0))}
    for asked, sizes in ((6, [4, 2]), (100, [4] * 5)):
        probe = make_batches(data, train_images=20, augment=True).probe(asked, batch_size=4)
        assert [len(part) for part in probe] == sizes
        expected = torch.stack([by_label[i] for i in range(sum(sizes))])
        assert torch.equal(torch.cat(probe), expected)


def test_test_images_of_the_config_bound_those_asked_for():
    labels = [labels for _, labels in make_batches(test_images=5).test(7)]
    assert len(torch.cat(labels)) == 5


@pytest.mark.parametrize(("changes", "world_size"), [({"batch_size": 64}, 1), ({}, 3)])
def test_batches_that_cannot_be_filled_or_shared_are_an_error(changes, world_size):
    with pytest.raises(ValueError, match="37 training images"):
        make_batches(world_size=world_size, **changes)


def test_training_images_have_mean_zero_and_deviation_one():
    ((images, _, _),) = make_batches(numbered_data(train=2000), batch_size=2000).epoch(0, 0)
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(images.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_a_network_s_own_normalisation_takes_the_place_of_the_data_set_s():
    data = numbered_data()
    batches = ImageBatches(
        tiny_run(batch_size=8, train_images=0), data, CPU, normalisation=(127 / 255, 128 / 255)
    )
    for images, labels, _ in batches.epoch(0, 0):
        expected = (data.train_images[labels].float() - 127) / 128
        assert torch.allclose(images, expected, atol=1e-6)
    tested = torch.cat([images for images, _ in batches.test()])
    assert torch.allclose(tested, (data.test_images.float() - 127) / 128, atol=1e-6)


def test_a_run_normalises_as_its_network_expects(monkeypatch):
    own = replace(NETWORKS["residual"], normalisation=(0.5, 0.25))
    monkeypatch.setitem(NETWORKS, "residual", own)
    ((images, _), *_) = prepare(tiny_run()).batches.test(4)
    pixels = load_data("digits[5:10]").test_images[:4].float() / 255
    assert torch.allclose(images, (pixels - 0.5) / 0.25, atol=1e-6)


def test_images_are_scaled_to_the_size_asked_for_after_normalisation():
    data = numbered_data()
    small = torch.cat([images for images, _ in make_batches(data).test()])
    large = torch.cat([images for images, _ in make_batches(data, image_size=24).test()])
    assert torch.equal(large, F.interpolate(small, size=24, mode="bilinear"))


def test_channels_last_changes_the_layout_and_no_value():
    data = numbered_data()
    for (images, *_), (plain, *_) in zip(
        make_batches(data, channels_last=True).epoch(0, 0),
        make_batches(data).epoch(0, 0),
        strict=True,
    ):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, plain)


@pytest.mark.parametrize("side", [16, 32])
def test_crops_and_flips_are_those_of_a_loop_over_images(side):
    images = torch.randint(0, 256, (64, 3, side, side), dtype=torch.uint8)
    uniform = torch.rand(64, 3)
    pad = side // 8
    expected = []
    for image, (row, column, flip) in zip(images, uniform, strict=True):
        padded = torch.zeros(3, side + 2 * pad, side + 2 * pad, dtype=torch.uint8)
        padded[:, pad : pad + side, pad : pad + side] = image
        top, left = int(row * (2 * pad + 1)), int(column * (2 * pad + 1))
        crop = padded[:, top : top + side, left : left + side]
        expected.append(crop.flip(2) if flip < 0.5 else crop)
    assert torch.equal(crop_and_flip(images, uniform), torch.stack(expected))


def test_crops_reach_every_corner_of_the_padding():
    image = torch.ones(1, 1, 16, 16)
    almost_one = 1 - 2**-24
    top_left = crop_and_flip(image, torch.tensor([[0.0, 0.0, 0.9]]))[0, 0]
    bottom_right = crop_and_flip(image, torch.tensor([[almost_one, almost_one, 0.9]]))[0, 0]
    assert top_left[:2].sum() == top_left[:, :2].sum() == 0 and top_left[2:, 2:].all()
    assert bottom_right[-2:].sum() == bottom_right[:, -2:].sum() == 0
    assert bottom_right[:-2, :-2].all()
