"""Image folders: loading, transforms, mixup, shares of processes, training on them."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.config import RunConfig
from experiments.data import image_folders as folders
from experiments.data.image_folder_batches import FolderBatches
from experiments.data.image_folders import load_folders
from experiments.data.registry import load, make_batches
from experiments.methods import make_config
from experiments.runs.backward import loss_of
from experiments.runs.execute import execute
from experiments.runs.run_files import read_run
from experiments.runs.training_loop import train
from tests.helpers.digits import ignore
from tests.helpers.folders import write_folders

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_folders(tmp_path / "shared" / "imagefolder")
    monkeypatch.setenv("SMARTFRZ_DATA", str(tmp_path / "shared"))
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    load_folders.cache_clear()
    yield tmp_path / "shared" / "imagefolder"
    load_folders.cache_clear()


def run_of(**changes: Any) -> RunConfig:
    values = {
        **{"model": "residual", "dataset": "imagefolder", "epochs": 2, "batch_size": 12},
        **{"lr": 0.05, "image_size": 16},
    }
    return make_config(values | changes)


def batches_of(rank: int = 0, world_size: int = 1, **changes: Any) -> FolderBatches:
    made = make_batches(run_of(**changes), CPU, rank, world_size)
    assert isinstance(made, FolderBatches)
    return made


def test_classes_are_the_folders_in_order() -> None:
    data = load(run_of())
    assert (len(data.train), len(data.test), data.num_classes) == (48, 18, 3)
    for images, labels in batches_of().test():
        assert images.shape[1:] == (3, 16, 16)
        assert torch.equal(images.mean((2, 3)).argmax(1), labels)


def test_an_epoch_has_every_image_once_and_says_which() -> None:
    batches = batches_of()
    labels = torch.cat([batch.labels for batch in batches.epoch(0, 0)])
    keys = torch.cat([batch.keys for batch in batches.epoch(0, 0)])
    assert sorted(keys.tolist()) == list(range(48))
    assert labels.tolist() == [batches.data.train[key][1] for key in keys.tolist()]


def test_a_network_s_own_normalisation_takes_the_place_of_imagenet_s() -> None:
    inputs = {}
    for own in (None, (0.5, 0.25), (0.0, 1.0)):
        ((images, _), *_) = make_batches(run_of(), CPU, normalisation=own).test(3)
        inputs[own] = images
    pixels = inputs[0.0, 1.0]
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert torch.allclose(inputs[0.5, 0.25], (pixels - 0.5) / 0.25, atol=1e-5)
    assert not torch.allclose(inputs[None], inputs[0.5, 0.25])


def test_images_in_folders_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match=r"validation = true needs a data set in memory"):
        load(run_of(validation=True))


def test_random_changes_depend_on_seed_epoch_and_example_alone() -> None:
    for recipe in ("", "deit"):
        first, again, other = (list(batches_of(recipe=recipe).epoch(0, e)) for e in (1, 1, 2))
        for one, same in zip(first, again, strict=True):
            assert torch.equal(one.inputs, same.inputs)
            assert torch.equal(one.labels, same.labels)
        assert not torch.equal(first[0].inputs, other[0].inputs)


def test_the_global_random_number_generators_are_not_advanced() -> None:
    def state() -> tuple:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    found = []
    for reads in (False, True):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        if reads:
            list(batches_of(recipe="deit").epoch(0, 0))
        found.append(state())
    assert found[0] == found[1]


def test_processes_share_out_each_batch_and_the_test_images() -> None:
    whole = list(batches_of().epoch(1, 0))
    parts = [list(batches_of(rank, 2).epoch(1, 0)) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, mine in enumerate(shares):
            assert torch.equal(mine.inputs, batch.inputs[rank::2])
    tests = [
        [label for _, labels in batches_of(rank, 2).test(17, 4, shared=True) for label in labels]
        for rank in range(2)
    ]
    assert [len(each) for each in tests] == [9, 8]
    assert len(list(batches_of(1, 2).test(17, 4))) == 5


def test_mixed_images_have_probabilities_for_labels() -> None:
    for batch in batches_of(recipe="deit").epoch(0, 0):
        assert batch.labels.shape == (12, 3)
        assert torch.allclose(batch.labels.sum(1), torch.ones(12))
        logits = torch.randn(12, 3)
        expected = -(batch.labels * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(loss_of(logits, batch.labels), expected)


def test_a_probe_is_of_the_first_images_as_they_are() -> None:
    first, again = (batches_of(augment=True).probe(20, 8) for _ in range(2))
    assert [len(part) for part in first] == [8, 8, 4]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_first_images_are_of_all_classes() -> None:
    labels = torch.cat([labels for _, labels in batches_of().test(9)])
    assert labels.unique().tolist() == [0, 1, 2]
    (probe,) = batches_of().probe(12)
    assert probe.mean((2, 3)).argmax(1).unique().tolist() == [0, 1, 2]


def test_a_network_learns_from_folders(tmp_path: Path) -> None:
    config = run_of(epochs=6, augment=False, channels_last=True)
    execute(config, tmp_path, "make table3", ignore, ignore)
    run = read_run(tmp_path / f"{config.id}.json")
    assert run is not None
    assert run["final_accuracy"] > 0.9


def test_deit_s_recipe_trains() -> None:
    config = run_of(model="attention", recipe="deit", optimizer="adamw", lr=1e-3, warmup=0.2)
    _, curves = train(config, ignore, ignore)
    assert len(curves.loss) == 2
    assert all(loss == loss for loss in curves.loss)


def test_a_missing_folder_is_an_error_that_says_where(root: Path) -> None:
    shutil.rmtree(root)
    with pytest.raises(ValueError, match=r"imagefolder is missing: .*shared\) has no imagefolder"):
        load(run_of())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: shutil.rmtree(root / "val"), "val is incomplete"),
        (lambda root: shutil.rmtree(root / "val" / "n00000001"), "1 classes are in only one of"),
        (lambda root: [f.unlink() for f in (root / "train" / "n00000002").iterdir()], "incomplete"),
    ],
)
def test_a_partial_folder_is_an_error_that_says_what_is_missing(
    root: Path, spoil: Any, said: str
) -> None:
    spoil(root)
    with pytest.raises(ValueError, match=said):
        load(run_of())


def test_imagenet_has_a_thousand_classes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.rename(root.parent / "imagenet")
    with pytest.raises(ValueError, match="it has 3 of 1000 classes"):
        load(run_of(dataset="imagenet"))
    monkeypatch.setitem(folders.FOLDERS, "imagenet", 3)
    assert load(run_of(dataset="imagenet")).num_classes == 3


def test_an_unknown_recipe_is_an_error() -> None:
    with pytest.raises(ValueError, match="no recipe 'swin'"):
        batches_of(recipe="swin")
