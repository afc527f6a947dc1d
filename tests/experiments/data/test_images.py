"""Image data sets: digits, subsets of classes, CIFAR from parquet files, missing data."""

import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data.images import load_data, parse_name
from experiments.data.registry import make_batches
from tests.helpers.digits import tiny_run

REAL = os.environ.get("SMARTFRZ_DATA")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache on disk and in memory."""
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    load_data.cache_clear()
    yield tmp_path / "cache" / "data"
    load_data.cache_clear()


def write_parquet(folder, split, images, label):
    """Writes images in CIFAR's format: PNG images, and labels in the column ``label``."""
    features = datasets.Features({"img": datasets.Image(), label: datasets.Value("int64")})
    values = {"img": [Image.fromarray(image) for image in images], label: range(len(images))}
    table = datasets.Dataset.from_dict(values, features=features)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / f"{split}-00000.parquet")


@pytest.fixture
def parquet(cache, tmp_path, monkeypatch):
    """A CIFAR-100 of 6 + 3 images."""
    monkeypatch.setenv("SMARTFRZ_DATA", str(tmp_path / "shared"))
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / "shared" / "cifar100-jpeg"
    write_parquet(folder, "train", images[:6], "fine_label")
    write_parquet(folder, "test", images[6:], "fine_label")
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def test_digits_have_the_shapes_of_any_data_set():
    data = load_data("digits")
    assert data.train_images.shape == (1297, 3, 16, 16)
    assert data.test_images.shape == (500, 3, 16, 16)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.unique().tolist() == list(range(10)) == list(range(data.num_classes))
    assert data.train_images.max() == 255 and data.train_images.min() == 0


def test_no_digit_is_in_both_training_and_test():
    data = load_data("digits")
    train = {image.numpy().tobytes() for image in data.train_images}
    test = [image.numpy().tobytes() for image in data.test_images]
    # A few digits are identical in all pixels.
    assert sum(image in train for image in test) <= 2


def test_a_part_holds_its_classes_counted_from_zero():
    whole, part = load_data("digits"), load_data("digits[5:8]")
    assert part.num_classes == 3
    chosen = (whole.train_labels >= 5) & (whole.train_labels < 8)
    assert torch.equal(part.train_images, whole.train_images[chosen])
    assert torch.equal(part.train_labels, whole.train_labels[chosen] - 5)
    assert part.test_labels.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digits", ("digits", 0, 10)),
        ("cifar100", ("cifar100", 0, 100)),
        ("cifar100[50:100]", ("cifar100", 50, 100)),
    ],
)
def test_a_name_says_the_data_set_and_its_classes(name, parts):
    assert parse_name(name) == parts


@pytest.mark.parametrize(
    "name", ["mnist", "digits[", "digits[3]", "digits[3:3]", "cifar10[5:50]", ""]
)
def test_an_unknown_name_is_an_error_that_repeats_it(name):
    with pytest.raises(ValueError) as error:
        load_data(name)
    assert repr(name) in str(error.value)


def test_normalisation_is_that_of_the_training_images():
    data = load_data("digits")
    mean, std = data.normalisation()
    pixels = data.train_images.numpy() / 255
    assert mean.shape == std.shape == (1, 3, 1, 1)
    assert mean.flatten().numpy() == pytest.approx(pixels.mean((0, 2, 3)))
    assert std.flatten().numpy() == pytest.approx(pixels.std((0, 2, 3)), rel=1e-4)


def test_validation_images_are_the_last_tenth_of_the_training_images():
    data = load_data("digits")
    run = tiny_run(dataset="digits", train_images=0, test_images=0, validation=True)
    batches = make_batches(run, torch.device("cpu"))
    assert batches.steps_per_epoch == (1297 - 130) // 32
    labels = torch.cat([labels for _, labels in batches.test()])
    assert torch.equal(labels, data.train_labels[-130:])
    keys = torch.cat([batch.keys for batch in batches.epoch(0, 0)])
    assert keys.max() < 1297 - 130


def test_cifar_is_read_from_parquet_files(parquet):
    data = load_data("cifar100")
    assert torch.equal(data.train_images, parquet[:6])
    assert torch.equal(data.test_images, parquet[6:])
    assert data.train_labels.tolist() == list(range(6))
    assert data.num_classes == 100


def test_cifar_is_decoded_once(parquet, cache, monkeypatch):
    load_data("cifar100")
    load_data.cache_clear()
    monkeypatch.setattr("pandas.read_parquet", None)
    assert torch.equal(load_data("cifar100").train_images, parquet[:6])
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_cache_is_set_aside_and_made_again(parquet, cache):
    load_data("cifar100")
    load_data.cache_clear()
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"renamed to .*\.corrupt"):
        data = load_data("cifar100")
    assert torch.equal(data.train_images, parquet[:6])
    assert sorted(path.suffix for path in cache.iterdir()) == [".corrupt", ".safetensors", ".txt"]


@pytest.mark.parametrize("fault", ["damaged", "column"])
def test_a_bad_file_gets_a_sentence(parquet, tmp_path, fault):
    folder = tmp_path / "shared" / "cifar100-jpeg"
    if fault == "damaged":
        (folder / "test-00000.parquet").write_bytes(b"PAR1, and no more")
    else:
        write_parquet(folder, "test", np.zeros((3, 32, 32, 3), np.uint8), "label")
        write_parquet(folder, "train", np.zeros((3, 32, 32, 3), np.uint8), "label")
    said = {"damaged": "cannot be read", "column": "has no column 'fine_label'"}
    with pytest.raises(ValueError, match=f"cifar100 in .*cifar100-jpeg {said[fault]}"):
        load_data("cifar100")


def test_another_test_file_is_read_anew(parquet, tmp_path):
    load_data("cifar100")
    load_data.cache_clear()
    other = np.full((2, 32, 32, 3), 7, np.uint8)
    write_parquet(tmp_path / "shared" / "cifar100-jpeg", "test", other, "fine_label")
    assert len(load_data("cifar100").test_images) == 2


def test_a_missing_data_set_gets_a_sentence_on_how_to_get_it(tmp_path):
    (tmp_path / "empty").mkdir()
    code = "from scripts.cli import run_command; from experiments.data.images import load_data;"
    code += "run_command(lambda: load_data('cifar10'))"
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "SMARTFRZ_DATA": str(tmp_path / "empty"),
        "SMARTFRZ_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: The data set cifar10 is missing: $SMARTFRZ_DATA (")
    for part in (str(tmp_path / "empty"), "train-00000.parquet", "uoft-cs/cifar10", "go online"):
        assert part in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(not REAL, reason="needs the real data in $SMARTFRZ_DATA")
def test_the_real_cifar_10(tmp_path, cache):
    data = load_data("cifar10")
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.test_images.shape == (10_000, 3, 32, 32)
    assert data.test_labels.bincount().tolist() == [1000] * 10
    mean, _ = data.normalisation()
    assert mean.flatten().tolist() == pytest.approx([0.491, 0.482, 0.447], abs=0.01)
