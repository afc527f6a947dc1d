"""Tests of layer tailoring: the sampled weights, and their independence of memory layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartfrz.layers import Layer
from smartfrz.predictor.tailoring import Tailor, deciding_layers, sample_indices, sample_positions
from tests.helpers.reference import tailored


def layer_of(name, *shapes):
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    return Layer(name, (nn.Identity(),), tuple(params))


def test_the_sample_is_the_same_everywhere():
    """Fixed numbers, which every platform, version and process must draw."""
    assert sample_indices("layer1.conv", 1000, 8).tolist() == [
        208, 354, 370, 536, 577, 672, 772, 812,
    ]  # fmt: skip
    assert torch.equal(sample_indices("a", 10**12), sample_indices("a", 10**12))
    assert not torch.equal(sample_indices("a", 10**12), sample_indices("b", 10**12))


@given(st.integers(1, 5000), st.integers(1, 1200))
@settings(max_examples=60)
def test_every_index_is_drawn_once_or_equally_often(numel, size):
    indices = sample_indices("name", numel, size)
    assert indices.shape == (size,) and indices.dtype == torch.int64
    assert indices.min() >= 0 and indices.max() < numel
    assert torch.equal(indices, indices.sort().values)
    counts = torch.bincount(indices, minlength=numel)
    if numel >= size:
        assert counts.max() == 1
    else:
        assert counts.max() - counts.min() <= 1


def test_the_sample_is_spread_over_the_whole_layer():
    indices = sample_indices("layer", 1_000_000).double() / 1_000_000
    assert abs(indices.mean() - 0.5) < 0.05
    assert (indices[511] - 0.5).abs() < 0.06


def test_tailor_reads_the_flat_concatenation_of_the_weight_matrices():
    layer = layer_of("qkv", (40, 30), (30,), (20, 5, 3, 3), (1200, 1))
    flat = torch.cat([p.detach().flatten() for p in layer.params if p.ndim >= 2])
    values = Tailor()(layer)
    assert values.shape == (1024,) and values.dtype == torch.float32
    assert not values.requires_grad
    assert torch.equal(values, flat[sample_indices("qkv", flat.numel())])


def test_tailor_of_a_layer_without_matrices_takes_all_it_has():
    layer = layer_of("norm", (3,), (2,))
    flat = torch.cat([p.detach() for p in layer.params])
    assert torch.equal(Tailor()(layer), flat[sample_indices("norm", 5)])


def test_tailor_is_a_copy():
    layer = layer_of("small", (32, 32))
    values = Tailor()(layer)
    before = values.clone()
    with torch.no_grad():
        layer.params[0].zero_()
    assert torch.equal(values, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tailor_gives_float32(dtype):
    layer = Layer("l", (nn.Identity(),), (nn.Parameter(torch.randn(40, 40, dtype=dtype)),))
    flat = layer.params[0].detach().flatten()
    assert torch.equal(Tailor()(layer), flat[sample_indices("l", 1600)].float())


def test_memory_format_makes_no_difference():
    weight = torch.randn(64, 32, 3, 3)
    layouts = (
        weight,
        weight.to(memory_format=torch.channels_last),
        weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    )
    values = [Tailor()(Layer("c", (nn.Identity(),), (nn.Parameter(w),))) for w in layouts]
    assert not layouts[2].is_contiguous()
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_positions_are_split_over_the_matrices():
    layer = layer_of("l", (50, 2), (3,), (60, 5))
    first, second = sample_positions(layer, size=80)
    joined = torch.cat([first, second + 100])
    assert torch.equal(joined, sample_indices("l", 400, 80))


def test_tailored_again_and_again_it_is_the_same_whatever_the_layout():
    weight = nn.Parameter(torch.randn(6, 5, 3, 3))
    layer = Layer("conv", (nn.Identity(),), (weight, nn.Parameter(torch.randn(7, 4)[:, 1:])))
    again = Tailor(size=40)
    for layout in (
        weight.data,
        weight.data.contiguous(memory_format=torch.channels_last),
        weight.data.transpose(0, 1).contiguous().transpose(0, 1),
    ):
        weight.data = layout
        for _ in range(2):
            assert torch.equal(again(layer), tailored(layer, 40))
            weight.data += 1


def test_embeddings_are_decided_by_the_first_other_layer_behind_them():
    def layers(kinds):
        modules = {"e": nn.Embedding(2, 2), "b": nn.EmbeddingBag(2, 2), "l": nn.Linear(2, 2)}
        return [Layer(f"{i}", (modules[kind],), ()) for i, kind in enumerate(kinds)]

    assert deciding_layers(layers("eblel")) == [2, 2, 2, 4, 4]
    assert deciding_layers(layers("lle")) == [0, 1, 2]
    assert deciding_layers([]) == []


def test_complex_weights_are_sampled_as_pairs_of_real_ones():
    weight = torch.randn(30, 20, dtype=torch.cfloat)
    real = torch.view_as_real(weight).clone()
    layers = [Layer("spectral", (nn.Identity(),), (nn.Parameter(each),)) for each in (weight, real)]
    for size in (80, 2000):
        first, second = (Tailor(size)(layer) for layer in layers)
        assert torch.equal(first, second)
        (positions,) = sample_positions(layers[0], size)
        assert torch.equal(first, real.flatten()[positions])
    vector = Layer("v", (nn.Identity(),), (nn.Parameter(weight[0, :4]),))
    assert Tailor(8)(vector).tolist() == real[0, :4].flatten().tolist()
