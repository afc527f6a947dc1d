"""Layer tailoring, and the attention window against a list that never forgets."""

import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartfrz.history import (
    BEGINNING,
    PATH,
    WeightHistory,
    sample_indices,
    sample_positions,
    tailor,
)
from smartfrz.layers import Layer


def layer_of(name, *shapes):
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    return Layer(name, (nn.Identity(),), tuple(params))


def test_the_sample_is_the_same_everywhere():
    """Fixed numbers: another platform, version or process must draw these, too."""
    assert sample_indices("layer1.conv", 1000, 8).tolist() == [
        208, 354, 370, 536, 577, 672, 772, 812,
    ]  # fmt: skip
    assert torch.equal(sample_indices("a", 10**12), sample_indices("a", 10**12))
    assert not torch.equal(sample_indices("a", 10**12), sample_indices("b", 10**12))


@given(st.integers(1, 5000), st.integers(1, 1200))
@settings(max_examples=60, deadline=None)
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
    values = tailor(layer)
    assert values.shape == (1024,) and values.dtype == torch.float32
    assert not values.requires_grad
    assert torch.equal(values, flat[sample_indices("qkv", flat.numel())])


def test_tailor_of_a_layer_without_matrices_takes_all_it_has():
    layer = layer_of("norm", (3,), (2,))
    flat = torch.cat([p.detach() for p in layer.params])
    assert torch.equal(tailor(layer), flat[sample_indices("norm", 5)])


def test_tailor_is_a_copy():
    layer = layer_of("small", (32, 32))
    values = tailor(layer)
    before = values.clone()
    with torch.no_grad():
        layer.params[0].zero_()
    assert torch.equal(values, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tailor_gives_float32(dtype):
    layer = Layer("l", (nn.Identity(),), (nn.Parameter(torch.randn(40, 40, dtype=dtype)),))
    flat = layer.params[0].detach().flatten()
    assert torch.equal(tailor(layer), flat[sample_indices("l", 1600)].float())


def test_memory_format_makes_no_difference():
    weight = torch.randn(64, 32, 3, 3)
    layouts = (
        weight,
        weight.to(memory_format=torch.channels_last),
        weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    )
    values = [tailor(Layer("c", (nn.Identity(),), (nn.Parameter(w),))) for w in layouts]
    assert not layouts[2].is_contiguous()
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_positions_are_split_over_the_matrices():
    layer = layer_of("l", (50, 2), (3,), (60, 5))
    first, second = sample_positions(layer, size=80)
    joined = torch.cat([first, second + 100])
    assert torch.equal(joined, sample_indices("l", 400, 80))


SIZE = 6


class ListHistory:
    """Keeps everything, and finds out what is in the window when asked."""

    def __init__(self, window):
        self.window = window
        self.records = []

    def record(self, layers):
        self.records.append(
            {layer.name: tailor(layer, sample_positions(layer, SIZE)) for layer in layers}
        )

    def of(self, layer):
        """The layer's values since it was last missing, oldest first."""
        run = []
        for record in reversed(self.records):
            if layer.name not in record:
                break
            run.insert(0, record[layer.name])
        return run

    def earlier(self, layer, lags):
        run = self.of(layer)
        newest, values = run[-1], []
        for p in range(SIZE):
            lag = lags[p % len(lags)]
            if lag == PATH:
                path = sum(abs(b[p] - a[p]) for a, b in pairwise(run))
                values.append(newest[p] - path)
            else:
                values.append(run[max(0, len(run) - 1 - lag)][p])
        return torch.tensor(values)


def assert_same(history, naive, layers):
    values, valid = history.window_of(layers)
    runs = [naive.of(layer)[-naive.window :] for layer in layers]
    length = max(map(len, runs))
    assert values.shape == (len(layers), length, SIZE) and values.dtype == torch.float32
    assert valid.shape == (len(layers), length) and valid.dtype == torch.bool
    for row, mask, run in zip(values, valid, runs, strict=True):
        assert mask.tolist() == [False] * (length - len(run)) + [True] * len(run)
        assert torch.equal(row[length - len(run) :], torch.stack(run))


ALL = [layer_of(name, (4, index + 1)) for index, name in enumerate("abcd")]
active_sets = st.lists(st.sets(st.sampled_from(range(4)), min_size=1), min_size=1, max_size=12)


@given(active_sets, st.integers(1, 5), st.integers(0, 11))
@settings(max_examples=80, deadline=None)
def test_equals_a_plain_list_also_when_resumed(actives, window, resume_at):
    history, naive = WeightHistory(window, SIZE), ListHistory(window)
    for step, chosen in enumerate(actives):
        layers = [ALL[index] for index in sorted(chosen)]
        for layer in layers:
            nn.init.normal_(layer.params[0])
        if step == resume_at:
            saved = io.BytesIO()
            torch.save(history.state_dict(), saved)
            saved.seek(0)
            history = WeightHistory(window, SIZE)
            history.load_state_dict(torch.load(saved, weights_only=True))
            if step:
                assert_same(history, naive, [ALL[index] for index in sorted(actives[step - 1])])
        weights = history.record(layers)
        naive.record(layers)
        assert torch.equal(weights, torch.stack([naive.of(layer)[-1] for layer in layers]))
        assert_same(history, naive, layers)
        assert_same(history, naive, layers[::-1])
        lags = (0, BEGINNING, window - 1, PATH)
        expected = torch.stack([naive.earlier(layer, lags) for layer in layers])
        torch.testing.assert_close(history.earlier(lags), expected)


def test_frozen_layers_take_no_memory():
    history = WeightHistory(window=4, size=SIZE)
    for _ in range(9):
        history.record(ALL)
    history.record(ALL[2:])
    state = history.state_dict()
    assert state["names"] == ["c", "d"]
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == 2 * ((4 + 2) * SIZE * 4 + 8)
    with pytest.raises(ValueError, match="'a' has no weight history"):
        history.window_of(ALL)


def test_the_past_does_not_change_with_the_weights():
    layer = layer_of("l", (3, 3))
    history = WeightHistory(window=2, size=SIZE)
    history.record([layer])
    before = history.window_of([layer])[0]
    nn.init.zeros_(layer.params[0])
    assert torch.equal(history.window_of([layer])[0], before)
    state = history.state_dict()
    resumed = WeightHistory(window=2, size=SIZE)
    resumed.load_state_dict(state)
    for name in ("ring", "first", "path"):
        state[name].fill_(7)
    for each in (history, resumed):
        assert torch.equal(each.window_of([layer])[0], before)
        assert torch.equal(each.earlier((BEGINNING, PATH)), before[:, 0])


@pytest.mark.parametrize("other", [{"size": 8}, {"window": 4}])
def test_resuming_with_another_size_or_window_is_refused(other):
    history = WeightHistory(window=5, size=SIZE)
    history.record(ALL)
    with pytest.raises(ValueError, match=r"\(5, 6\), not"):
        WeightHistory(**{"window": 5, "size": SIZE} | other).load_state_dict(history.state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_records_move_to_the_device_of_the_weights():
    layer = layer_of("l", (3, 3))
    history = WeightHistory(size=SIZE)
    history.record([layer])
    on_gpu = Layer("l", (nn.Identity(),), (nn.Parameter(layer.params[0].detach().cuda()),))
    resumed = WeightHistory(size=SIZE)
    resumed.load_state_dict(history.state_dict())
    resumed.record([on_gpu])
    values, valid = resumed.window_of([on_gpu])
    assert values.is_cuda and valid.is_cuda
    assert torch.equal(values[0, 0], values[0, 1])
    assert torch.equal(values[0, 0].cpu(), tailor(layer, sample_positions(layer, SIZE)))
