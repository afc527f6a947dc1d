"""Tests of bit masks of the positive elements of a tensor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smartfrz.memory import bits
from smartfrz.memory.bits import Bits

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
shapes = st.lists(st.integers(0, 9), max_size=5).map(tuple)


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Random numbers that include zeros of both signs, infinities and the bound itself."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 6.0, 1e-30, -1e-30])
    values = 5 * torch.randn(shape, generator=generator)
    chosen = special[torch.randint(len(special), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.3, chosen, values).to(dtype)


@given(shapes, st.sampled_from(FLOATS), st.sampled_from([None, 6.0]), st.integers(0, 99))
def test_bits_say_where_a_tensor_is_positive(shape, dtype, below, seed):
    values = tensor(shape, dtype, seed)
    expected = (values > 0) if below is None else (values > 0) & (values < below)
    packed = Bits(values, below)
    assert torch.equal(packed.unpacked(), expected.to(dtype))
    assert packed.bytes.numel() == -(-values.numel() // 8)


@given(shapes, st.integers(0, 99))
def test_bits_of_booleans_are_booleans(shape, seed):
    mask = tensor(shape, torch.float32, seed) > 0
    assert torch.equal(Bits(mask).unpacked(), mask)


@given(shapes, st.sampled_from(FLOATS), st.sampled_from([None, 6.0]), st.integers(0, 99))
def test_both_ways_of_packing_are_the_same(shape, dtype, below, seed):
    flat = tensor(shape, dtype, seed).flatten()
    packed = bits._packed(flat, below)
    assert torch.equal(packed, bits._packed_by_numpy(flat, below))
    assert torch.equal(bits._unpacked(packed), bits._unpacked_by_numpy(packed))


@pytest.mark.parametrize(
    "arrange",
    [
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 2),
        lambda t: t[:, ::2, 1:],
        lambda t: t[:1].expand(4, -1, -1, -1),
    ],
    ids=["channels_last", "transposed", "sliced", "expanded"],
)
def test_any_arrangement_in_memory(arrange):
    values = arrange(tensor((4, 5, 6, 7), torch.float32, seed=0))
    restored = Bits(values).unpacked()
    assert torch.equal(restored, (values > 0).float())
    if values.is_contiguous(memory_format=torch.channels_last):
        assert restored.stride() == values.stride()
