"""Tests of incremental evaluation: equality with whole histories, cost, and resuming."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartfrz import AttentionPredictor, Layer
from smartfrz.predictor.encodings import ENCODINGS
from smartfrz.predictor.incremental import IncrementalPredictor
from tests.helpers.reference import tailored

SIZE, WINDOW = 16, 5
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def small(encoding, window=WINDOW, **changes):
    torch.manual_seed(0)
    sizes = {"size": SIZE, "hidden": 8, "features": 4, "head_hidden": 6, "window": window}
    predictor = AttentionPredictor(**{**sizes, "encoding": encoding, **changes})
    for param in predictor.parameters():
        nn.init.normal_(param, std=0.5)
    return predictor


def make_layers(count=3):
    """Layers of different sizes, one with fewer weights than are sampled, and different dtypes."""
    kinds = [((6, 5), torch.float32), ((2, 4), torch.float64), ((9, 9), torch.bfloat16)]
    made = [torch.randn(shape).to(dtype) for shape, dtype in (kinds * count)[:count]]
    return [Layer(f"l{i}", (), (nn.Parameter(weight),)) for i, weight in enumerate(made)]


def move(layers, by):
    with torch.no_grad():
        for layer in layers:
            weight = layer.params[0]
            weight += by * torch.randn(weight.shape, dtype=torch.float64).to(weight.dtype)


def reloaded(records, predictor):
    file = io.BytesIO()
    torch.save(records.state_dict(), file)
    file.seek(0)
    resumed = IncrementalPredictor(predictor)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    return resumed


class WholeHistories:
    """Keeps all records of all layers and evaluates the predictor on all of them each time."""

    def __init__(self, predictor):
        self.predictor = predictor
        self.records, self.rows = [], []

    def record(self, layers):
        """Adds a record; layers that are not given keep their last weights."""
        now = {layer.name: tailored(layer, SIZE) for layer in layers}
        self.records.append((self.records[-1] if self.records else {}) | now)
        self.rows = [row for row, name in enumerate(self.records[0]) if name in now]

    def freeze_probability(self):
        records = [torch.stack(list(record.values())) for record in self.records]
        return self.predictor.freeze_probability(torch.stack(records, dim=1))[self.rows]


def assert_same(records, whole):
    probability = records.freeze_probability()
    torch.testing.assert_close(probability, whole.freeze_probability())
    return probability


@every_encoding
@pytest.mark.parametrize("window", [1, 5, 30])
def test_equals_the_whole_history_at_every_record(encoding, window):
    """At the start, after records have left the window, and while weights do not move."""
    predictor, layers = small(encoding, window), make_layers()
    records, whole, seen = IncrementalPredictor(predictor), WholeHistories(predictor), []
    for t in range(40 + window):
        move(layers, by=0.9**t if 3 <= t < 40 else 0.0)
        for each in (records, whole):
            each.record(layers)
        seen.append(assert_same(records, whole))
    can_tell = [set((probability > 0).tolist()) for probability in seen]
    assert can_tell == [{False}] * 3 + [{True}] * (36 + window) + [{False}]


ALL = make_layers(4)


@every_encoding
@given(
    stretches=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    bad=st.dictionaries(st.integers(0, 40), st.sampled_from([math.nan, math.inf]), max_size=2),
    resume_at=st.integers(0, 40),
)
@settings(max_examples=25)
def test_layers_may_freeze_and_runs_resume(encoding, stretches, bad, resume_at):
    predictor, active = small(encoding), list(ALL)
    records, whole, t = IncrementalPredictor(predictor), WholeHistories(predictor), 0
    for stretch in stretches:
        for _ in range(stretch):
            move(active, by=0.1)
            if t == resume_at:
                records = reloaded(records, predictor)
                if t:
                    assert_same(records, whole)
            weight = active[0].params[0].data
            finite = weight.clone()
            if t in bad:
                weight.fill_(bad[t])
            for each in (records, whole):
                each.record(active)
            weight.copy_(finite)
            assert_same(records, whole)
            t += 1
        del active[stretch % len(active)]


def test_an_infinite_weight_that_no_unit_passes_on_counts_while_it_is_in_the_window():
    predictor, layers = small("raw"), make_layers(1)
    for mlp in (predictor.mlp_k, predictor.mlp_q, predictor.mlp_v):
        nn.init.constant_(mlp[0].weight, -1.0)
    records, whole, can_tell = IncrementalPredictor(predictor), WholeHistories(predictor), []
    for t in range(10):
        nn.init.constant_(layers[0].params[0], math.inf if t == 2 else t)
        for each in (records, whole):
            each.record(layers)
        can_tell.append(assert_same(records, whole).item() > 0)
    assert can_tell == [False, True, *[False] * WINDOW, True, True, True]


def test_what_a_frozen_layer_did_before_is_not_forgotten():
    """The drift of the layers behind it still includes that of the frozen layer."""
    predictor, layers = small("drift"), make_layers()
    seen, alone = IncrementalPredictor(predictor), IncrementalPredictor(predictor)
    for t in range(12):
        move(layers, by=0.1)
        seen.record(layers if t < 9 else layers[1:])
        alone.record(layers[1:])
    drift, own = seen._newest, alone._newest
    assert drift.shape == own.shape == (2, SIZE)
    assert (drift >= own).all() and (drift > own).any()


@every_encoding
@pytest.mark.parametrize("resumes", [False, True])
def test_a_layer_that_trains_again_starts_with_an_empty_window(encoding, resumes):
    """Its displacements refer to all its records, but only those since its return are attended."""
    predictor, layers = small(encoding, window=30), make_layers()
    records, past = IncrementalPredictor(predictor), []
    for t in range(16):
        active = layers if t < 5 or t >= 9 else [layers[0], layers[2]]
        move(active, by=0.1)
        if resumes and t in (8, 9, 12):
            records = reloaded(records, predictor)
        records.record(active)
        past.append(torch.stack([tailored(layer, SIZE) for layer in layers]))
    assert records.counts.tolist() == [16, 7, 16]
    history = torch.stack(past, dim=1)
    encoded, attended = predictor.encode(history)
    attended[1, :9] = False
    maps = predictor.mlp_k(encoded), predictor.mlp_v(encoded)
    expected = predictor.decide(encoded[:, -1], *maps, attended).softmax(dim=1)[:, 1]
    torch.testing.assert_close(records.freeze_probability(), expected)


def test_a_layer_that_trains_again_is_not_judged_before_it_moves():
    predictor, layers = small("drift"), make_layers()
    records = IncrementalPredictor(predictor)
    for t in range(9):
        move(layers[1:], by=0.1)
        records.record(layers if t in (0, 8) else layers[1:])
    assert (records.freeze_probability() > 0).tolist() == [False, True, True]


def test_records_at_which_nothing_moved_are_not_counted():
    predictor, layers = small("drift"), make_layers()
    records, counts = IncrementalPredictor(predictor), []
    for moving in (False, False, True, False, True):
        move(layers, by=float(moving))
        records.record(layers)
        counts.append(records.counts.tolist())
    assert counts == [[n] * 3 for n in (1, 1, 2, 2, 3)]


def work(layers, num_records, window):
    """Number of records in the first linear map of each MLP, in a run with one decision."""
    predictor, passed = small("log_displacement", window), []
    for mlp in (predictor.mlp_k, predictor.mlp_v, predictor.mlp_q):
        mlp[0].register_forward_hook(lambda module, args, out: passed.append(len(out)))
    records = IncrementalPredictor(predictor)
    for _ in range(num_records):
        records.record(layers)
    records.freeze_probability()
    return sum(passed)


@pytest.mark.parametrize("count", [1, 10, 100])
def test_the_work_is_linear_in_layers_and_records_whatever_the_window(count):
    layers = make_layers(count)
    assert {work(layers, 7, window) for window in (2, 5, 30)} == {count * (2 * 7 + 1)}


def test_what_is_kept_does_not_grow():
    predictor, layers = small("log_displacement"), make_layers()
    records, sizes = IncrementalPredictor(predictor), []
    for _ in range(12):
        records.record(layers)
        file = io.BytesIO()
        torch.save(records.state_dict(), file)
        sizes.append(file.tell())
    assert len(set(sizes)) == 1


def test_a_state_does_not_change_with_the_records():
    predictor, layers = small("displacement"), make_layers()
    records = IncrementalPredictor(predictor)
    for _ in range(3):
        move(layers, by=0.1)
        records.record(layers)
    state, before = records.state_dict(), records.freeze_probability()
    first, second = IncrementalPredictor(predictor), IncrementalPredictor(predictor)
    first.load_state_dict(state)
    for each in (records, first):
        move(layers, by=0.1)
        each.record(layers)
    second.load_state_dict(state)
    assert torch.equal(second.freeze_probability(), before)


@pytest.mark.parametrize("other", [{"size": 8}, {"window": 4}, {"features": 3}])
def test_the_state_of_another_predictor_is_refused(other):
    records = IncrementalPredictor(small("log_displacement"))
    records.record(make_layers())
    with pytest.raises(ValueError, match="Resume with"):
        IncrementalPredictor(small("log_displacement", **other)).load_state_dict(
            records.state_dict()
        )


@pytest.mark.gpu
@every_encoding
def test_goes_on_on_the_device_of_the_weights(encoding):
    predictor, layers = small(encoding), make_layers()
    records, whole = IncrementalPredictor(predictor), WholeHistories(predictor)
    for _ in range(8):
        move(layers, by=0.1)
        for each in (records, whole):
            each.record(layers)
    expected = whole.freeze_probability()
    resumed = IncrementalPredictor(predictor)
    resumed.load_state_dict(records.state_dict())
    on_gpu = [Layer(x.name, (), (nn.Parameter(x.params[0].detach().cuda()),)) for x in layers]
    torch.testing.assert_close(resumed.freeze_probability(), expected)
    for _ in range(WINDOW - 1):
        resumed.record(on_gpu)
        records.record(layers)
    probability = resumed.freeze_probability()
    assert probability.is_cuda
    torch.testing.assert_close(probability.cpu(), records.freeze_probability().cpu())


def test_records_made_in_inference_mode_are_continued_outside_it():
    predictor, layers = small("displacement"), make_layers()
    records, expected = IncrementalPredictor(predictor), IncrementalPredictor(predictor)
    for step in range(3):
        with torch.inference_mode(step < 2):
            records.record(layers)
            if step == 1:
                records.load_state_dict(records.state_dict())
        expected.record(layers)
        move(layers, 0.1)
    assert torch.equal(records.freeze_probability(), expected.freeze_probability())
