"""Tests of the store: repeated samples, memory that grows and shrinks with the rows."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smartfrz.feature_cache.store import FeatureStore
from smartfrz.memory.activations import activation_bytes

ROW = 4 * 4
in_memory_and_on_disk = pytest.mark.parametrize("folder", ["", "features"])


def rows(keys: list[int]) -> Tensor:
    """A row for each sample, filled with its key."""
    return torch.tensor(keys, dtype=torch.float32)[:, None].expand(-1, 4)


def store(capacity: int, folder: Path | None = None) -> FeatureStore:
    return FeatureStore(torch.empty(4), capacity * ROW + 3, folder)


@in_memory_and_on_disk
def test_a_sample_that_repeats_in_a_batch_is_stored_once(folder: str, tmp_path: Path) -> None:
    features = store(4, tmp_path / folder if folder else None)
    features.put([7, 7, 8], rows([7, 7, 8]))
    features.put([9, 8, 9, 5, 6], rows([9, 8, 9, 5, 6]))
    assert len(features) == 4
    assert features.has([7, 8, 9, 5, 6]) == [True] * 4 + [False]
    assert torch.equal(features.get([5, 7, 9, 8, 7]), rows([5, 7, 9, 8, 7]))


@in_memory_and_on_disk
def test_memory_grows_with_the_rows(folder: str, tmp_path: Path) -> None:
    features = store(6400, tmp_path / folder if folder else None)
    made = activation_bytes(lambda: features.put([0, 1], rows([0, 1])), [])
    assert 2 * ROW <= made == features.nbytes <= 6400 * ROW // 64
    for start in range(2, 8000, 500):
        keys = list(range(start, start + 500))
        features.put(keys, rows(keys))
        assert len(features) * ROW <= features.nbytes <= (len(features) + 100) * ROW
    assert len(features) == 6400 and features.nbytes == 6400 * ROW
    assert torch.equal(features.get([6399, 0, 99, 100]), rows([6399, 0, 99, 100]))


@in_memory_and_on_disk
def test_memory_of_dropped_rows_is_given_back(folder: str, tmp_path: Path) -> None:
    features = store(640, tmp_path / folder if folder else None)
    keys = list(range(640))
    features.put(keys, rows(keys))
    features.drop([*range(0, 640, 2), 0, 999])
    assert len(features) == 320 and features.nbytes == 320 * ROW
    assert torch.equal(features.get(keys[1::2]), rows(keys[1::2]))
    features.shrink(100 * ROW)
    assert features.nbytes == 100 * ROW == len(features) * ROW
    left = [key for key in keys if features.has([key])[0]]
    assert torch.equal(features.get(left), rows(left))
    features.shrink(0)
    assert len(features) == features.nbytes == 0


batches = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), max_size=12)


@given(batches, st.integers(0, 40), st.integers(1, 5))
def test_every_row_is_that_of_its_sample(batches, capacity, dropped_every):
    features = store(capacity)
    for index, keys in enumerate(batches):
        needed = features.bytes_with(len(features.fitting(keys)))
        features.put(keys, rows(keys))
        assert features.nbytes == needed <= capacity * ROW
        if index % dropped_every == 0:
            features.drop(keys[::2])
        stored = [key for key in range(31) if features.has([key])[0]]
        assert len(stored) == len(features) <= capacity
        if stored:
            assert torch.equal(features.get(stored), rows(stored))


def test_rows_without_elements_are_stored() -> None:
    features = FeatureStore(torch.empty(0), 10)
    features.put([1, 2], torch.empty(2, 0))
    assert features.get([2, 1]).shape == (2, 0)


def test_rows_stored_in_inference_mode_can_be_added_to_and_trained_on() -> None:
    with torch.inference_mode():
        features = store(200)
        features.put([1], rows([1]))
    features.put([2], rows([2]))
    weight = torch.ones(4, requires_grad=True)
    (features.get([1, 2]) * weight).sum().backward()
    assert torch.equal(weight.grad, torch.full((4,), 3.0))
