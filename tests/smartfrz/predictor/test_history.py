"""Tests of the weight history against a list of all records."""

import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartfrz.layers import Layer
from smartfrz.predictor.history import KEPT, PATH, PREVIOUS, WeightHistory, kept_before, spacing
from tests.helpers.reference import tailored


def layer_of(name, *shapes):
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    return Layer(name, (nn.Identity(),), tuple(params))


def naive_kept(record):
    """The remaining records if every second one is dropped whenever there are too many."""
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
    """With an error of at most one spacing of kept records, a sixteenth of the time."""
    moment = kept_before(record, fraction)
    assert 0 <= moment < record
    assert fraction - 2 / KEPT < moment / record <= fraction


SIZE = 8
FRACTIONS = (0, 1 / 8, 1 / 2, 7 / 8, 15 / 16, PREVIOUS, PATH)


class ListHistory:
    """Keeps all records and selects the earlier weights only when they are requested."""

    def __init__(self):
        self.records = []

    def record(self, layers):
        """Adds a record; layers that are not given keep their last weights."""
        now = {layer.name: tailored(layer, SIZE) for layer in layers}
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
@settings(max_examples=40)
def test_equals_a_plain_list_also_when_resumed(stretches, resume_at):
    """With layers that freeze in any order, and enough records for thinning out."""
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
    assert not (history.earlier((0,))[:2] == after[:2]).any()  # its earlier weights are still known


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
