"""Layer tailoring, and what is kept of the past against a list that never forgets."""

import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartfrz.history import (
    KEPT,
    PATH,
    PREVIOUS,
    WeightHistory,
    kept_before,
    sample_indices,
    sample_positions,
    spacing,
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


def naive_kept(record):
    """The records that are left, when every second one is dropped once there are too many."""
    kept, step = [], 1
    for t in range(record + 1):
        if t % step == 0:
            kept.append(t)
        if len(kept) > KEPT:
            kept, step = kept[::2], 2 * step
    return kept


@pytest.mark.parametrize("record", [0, 1, 31, 32, 33, 63, 64, 100, 127, 128, 1000])
def test_looks_back_on_what_is_kept(record):
    kept = naive_kept(record)
    assert all(b - a == spacing(record) for a, b in pairwise(kept))
    for fraction in (0, 0.1, 1 / 2, 15 / 16, 0.999):
        assert kept_before(record, fraction) == max(t for t in kept if t <= fraction * record)
    assert kept_before(record, PREVIOUS) == max(0, record - 1)


@given(st.integers(KEPT, 10**7), st.floats(0, 1, exclude_max=True))
def test_looks_back_by_fractions_of_the_time_however_often_records_are_made(record, fraction):
    """To within a record of those that are kept: a sixteenth of the time."""
    moment = kept_before(record, fraction)
    assert 0 <= moment < record
    assert fraction - 2 / KEPT < moment / record <= fraction


SIZE = 8
FRACTIONS = (0, 1 / 8, 1 / 2, 7 / 8, 15 / 16, PREVIOUS, PATH)


class ListHistory:
    """Keeps everything, and finds out what to look back on when asked."""

    def __init__(self):
        self.records = []

    def record(self, layers):
        """Who is not given stays as before."""
        now = {layer.name: tailor(layer, sample_positions(layer, SIZE)) for layer in layers}
        self.records.append((self.records[-1] if self.records else {}) | now)

    def newest(self):
        return torch.stack(list(self.records[-1].values()))

    def earlier(self):
        return torch.stack([self.earlier_of(name) for name in self.records[0]])

    def earlier_of(self, name):
        run, values = [record[name] for record in self.records], []
        for p in range(SIZE):
            fraction = FRACTIONS[p % len(FRACTIONS)]
            if fraction == PATH:
                path = sum(abs(b[p] - a[p]) for a, b in pairwise(run))
                values.append(run[-1][p] - path)
            else:
                values.append(run[kept_before(len(run) - 1, fraction)][p])
        return torch.tensor(values)


def reloaded(history):
    saved = io.BytesIO()
    torch.save(history.state_dict(), saved)
    saved.seek(0)
    resumed = WeightHistory(SIZE)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    return resumed


ALL = [layer_of(name, (4, index + 1)) for index, name in enumerate("abcd")]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_equals_a_plain_list_also_when_resumed(stretches, resume_at):
    """Layers freeze, in any order; records come to be thinned out."""
    history, naive, active = WeightHistory(SIZE), ListHistory(), list(ALL)
    for stretch, num_records in enumerate(stretches):
        if stretch == resume_at:
            history = reloaded(history)
            if stretch:
                torch.testing.assert_close(history.earlier(FRACTIONS), naive.earlier())
        for _ in range(num_records):
            for layer in active:
                nn.init.normal_(layer.params[0])
            weights = history.record(active)
            naive.record(active)
        assert torch.equal(weights, naive.newest())
        torch.testing.assert_close(history.earlier(FRACTIONS), naive.earlier())
        assert [history.names[row] for row in history.rows] == [layer.name for layer in active]
        del active[num_records % len(active)]


def test_a_frozen_layer_stays_as_it_was_when_it_was_last_recorded():
    history = WeightHistory(SIZE)
    for _ in range(3):
        for layer in ALL:
            nn.init.normal_(layer.params[0])
        before = history.record(ALL)
    for layer in ALL:
        nn.init.normal_(layer.params[0])
    after = history.record(ALL[2:])
    assert history.rows == [2, 3]
    assert torch.equal(after[:2], before[:2])
    assert not (after[2:] == before[2:]).any()
    assert not (history.earlier((0,))[:2] == after[:2]).any()  # what it did before is still known


def test_the_memory_is_that_of_all_layers():
    history = WeightHistory(SIZE)
    for number in range(50):
        history.record(ALL if number < 40 else ALL[2:])
    tensors = [value for value in history.state_dict().values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == 4 * (KEPT + 3) * SIZE * 4


def test_the_past_does_not_change_with_the_weights():
    layer = layer_of("l", (3, 3))
    history = WeightHistory(SIZE)
    for _ in range(2):
        nn.init.normal_(layer.params[0])
        history.record([layer])
    before = history.earlier(FRACTIONS)
    nn.init.zeros_(layer.params[0])
    assert torch.equal(history.earlier(FRACTIONS), before)
    state = history.state_dict()
    resumed = WeightHistory(SIZE)
    resumed.load_state_dict(state)
    for value in state.values():
        if isinstance(value, torch.Tensor):
            value.fill_(7)
    for each in (history, resumed):
        assert torch.equal(each.earlier(FRACTIONS), before)


def test_resuming_with_another_size_is_refused():
    history = WeightHistory(SIZE)
    history.record(ALL)
    with pytest.raises(ValueError, match="8 weights per record, not 6"):
        WeightHistory(size=6).load_state_dict(history.state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_records_move_to_the_device_of_the_weights():
    layer = layer_of("l", (3, 3))
    history = WeightHistory(SIZE)
    history.record([layer])
    on_gpu = Layer("l", (nn.Identity(),), (nn.Parameter(layer.params[0].detach().cuda()),))
    resumed = WeightHistory(SIZE)
    resumed.load_state_dict(history.state_dict())
    weights = resumed.record([on_gpu])
    assert weights.is_cuda and resumed.earlier(FRACTIONS).is_cuda
    history.record([layer])
    assert torch.equal(resumed.earlier(FRACTIONS).cpu(), history.earlier(FRACTIONS))


def test_a_record_reads_the_same_weights_in_any_memory_layout():
    weight = nn.Parameter(torch.randn(6, 5, 3, 3))
    layer = Layer("conv", (nn.Identity(),), (weight, nn.Parameter(torch.randn(7, 4)[:, 1:])))
    history = WeightHistory(size=40)
    expected = tailor(layer, sample_positions(layer, 40))
    for layout in (
        weight.data,
        weight.data.contiguous(memory_format=torch.channels_last),
        weight.data.transpose(0, 1).contiguous().transpose(0, 1),
    ):
        weight.data = layout
        assert torch.equal(history.record([layer])[0], expected)
