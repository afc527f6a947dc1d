"""Asked record by record: the same answers as from whole histories, for the work of one record."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartfrz import AttentionPredictor, Layer
from smartfrz.encodings import ENCODINGS
from smartfrz.history import sample_positions, tailor
from smartfrz.incremental import IncrementalPredictor

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
    """Of different sizes, one with fewer weights than are sampled, and of different types."""
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
    """Keeps all records of the layers that are there, and asks the predictor anew each time."""

    def __init__(self, predictor):
        self.predictor = predictor
        self.runs = {}
        self.num_records = 0

    def record(self, layers):
        self.num_records += 1
        self.runs = {
            layer.name: [
                *self.runs.get(layer.name, []),
                tailor(layer, sample_positions(layer, SIZE)),
            ]
            for layer in layers
        }

    def freeze_probability(self):
        history = torch.full((len(self.runs), self.num_records, SIZE), math.nan)
        valid = torch.zeros(history.shape[:2], dtype=torch.bool)
        for row, run in enumerate(self.runs.values()):
            history[row, -len(run) :] = torch.stack(run)
            valid[row, -len(run) :] = True
        return self.predictor.freeze_probability(history, valid)


def assert_same(records, whole):
    probability = records.freeze_probability()
    torch.testing.assert_close(probability, whole.freeze_probability())
    return probability


@every_encoding
@pytest.mark.parametrize("window", [1, 5, 30])
def test_equals_the_whole_history_at_every_record(encoding, window):
    """While it begins, once records have left the window, and while weights stand still."""
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
# A layer that has been away starts anew. Drift, which knows of layers that are frozen by now what
# they did before, is another matter.
one_by_one = [name for name in ENCODINGS if name != "drift"]


@pytest.mark.parametrize("encoding", one_by_one)
@given(
    stretches=st.lists(
        st.tuples(st.sets(st.integers(0, 3), min_size=1), st.integers(1, 10)),
        min_size=1,
        max_size=6,
    ),
    bad=st.dictionaries(st.integers(0, 59), st.sampled_from([math.nan, math.inf]), max_size=2),
    resume_at=st.integers(0, 59),
)
@settings(max_examples=25, deadline=None)
def test_layers_may_freeze_or_join_and_runs_resume(encoding, stretches, bad, resume_at):
    predictor, actives = small(encoding), [active for active, n in stretches for _ in range(n)]
    records, whole = IncrementalPredictor(predictor), WholeHistories(predictor)
    for t, chosen in enumerate(actives):
        layers = [ALL[i] for i in sorted(chosen)]
        move(ALL, by=0.1)
        if t == resume_at:
            records = reloaded(records, predictor)
            if t:
                assert_same(records, whole)
        weight = layers[0].params[0].data
        finite = weight.clone()
        if t in bad:
            weight.fill_(bad[t])
        for each in (records, whole):
            each.record(layers)
        weight.copy_(finite)
        assert_same(records, whole)


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


@every_encoding
def test_what_a_frozen_layer_did_before_is_not_forgotten(encoding):
    """Each record is attended to as what it was when it was made."""
    predictor, layers = small(encoding), make_layers()
    records, encoded, history = IncrementalPredictor(predictor), [], []
    for t in range(12):
        move(layers, by=0.1)
        active = layers if t < 9 else layers[1:]
        records.record(active)
        history.append(torch.stack([tailor(x, sample_positions(x, SIZE)) for x in layers]))
        so_far = torch.stack(history, dim=1)[len(layers) - len(active) :]
        encoded.append(predictor.encode(so_far)[0][-2:, -1])
    window = torch.stack(encoded[-WINDOW:], dim=1)
    keys, values = predictor.mlp_k(window), predictor.mlp_v(window)
    there = torch.ones(2, WINDOW, dtype=torch.bool)
    expected = predictor.decide(window[:, -1], keys, values, there).softmax(dim=1)[:, 1]
    torch.testing.assert_close(records.freeze_probability(), expected)


def work(layers, num_records, window):
    """Records that pass the first linear map of each MLP, in a training with one decision."""
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
    with pytest.raises(ValueError, match="resume with"):
        IncrementalPredictor(small("log_displacement", **other)).load_state_dict(
            records.state_dict()
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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
