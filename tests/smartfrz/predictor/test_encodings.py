"""Tests of the encodings against naive loops, and of their invariances."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfrz.predictor.encodings import ENCODINGS
from smartfrz.predictor.history import kept_before

FRACTIONS = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16)
SCALE_FREE = ["standardised", "displacement", "log_displacement", "drift"]
SORTED = ["log_displacement", "drift"]
FLOOR, CEILING = -2.5, 7.5


def histories(layers=3, records=4, size=8, seed=0):
    """Weights that start at random and move less and less."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(layers, records, size, generator=generator, dtype=torch.float64)
    return (steps * 0.7 ** torch.arange(records)[:, None]).cumsum(1)


def rms(numbers):
    return math.sqrt(sum(x * x for x in numbers) / len(numbers))


def naive_ratios(run):
    """Ratios of the last record: ascending distances for each earlier time, then path lengths."""
    newest, scale, ratios = run[-1], rms(run[-1]), []
    for group in range(8):
        distances = []
        for p in range(group, len(newest), 8):
            if group < 7:
                then = run[kept_before(len(run) - 1, FRACTIONS[group])]
                distances.append(abs(newest[p] - then[p]))
            else:
                distances.append(sum(abs(b[p] - a[p]) for a, b in pairwise(run)))
        ratios += sorted(distance / scale for distance in distances)
    return ratios


def naive_log(ratios):
    return [math.log10(min(max(ratio, 1e-5), 1e5)) + 2.5 for ratio in ratios]


def naive(name, runs):
    """The encoding of the last record of each layer, all layers with the same number of records."""
    encoded, squares = [], [0.0] * len(runs[0][0])
    for run in runs:
        newest = run[-1]
        match name:
            case "raw" | "outputs":
                encoded.append(newest)
            case "standardised":
                centred = [x - sum(newest) / len(newest) for x in newest]
                encoded.append([x / rms(centred) for x in centred])
            case "displacement":
                before = run[max(0, len(run) - 2)]
                steps = [x - b for x, b in zip(newest, before, strict=True)]
                encoded.append([100 * step / rms(newest) for step in steps])
            case "log_displacement":
                encoded.append(naive_log(naive_ratios(run)))
            case "drift":
                squares = [s + r * r for s, r in zip(squares, naive_ratios(run), strict=True)]
                encoded.append(naive_log(map(math.sqrt, squares)))
    return encoded


def naive_at_every_record(name, history):
    runs = history.tolist()
    records = [naive(name, [run[: t + 1] for run in runs]) for t in range(history.shape[1])]
    return torch.tensor(records, dtype=torch.float64).transpose(0, 1)


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize(("records", "size"), [(1, 8), (5, 5), (70, 19)])
def test_equals_the_naive_encoding(name, records, size):
    history = histories(2, records, size)
    encoded = ENCODINGS[name](history)
    assert encoded.shape == history.shape
    torch.testing.assert_close(encoded, naive_at_every_record(name, history))


@pytest.mark.parametrize("name", ENCODINGS)
@given(gaps=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3))
@settings(max_examples=20)
def test_a_missing_record_is_a_repetition(name, gaps):
    """It repeats the preceding record or, at the start, the first one present."""
    valid = torch.tensor(gaps)
    valid[:, -1] = True
    history = histories(len(gaps), 6)
    filled = history.clone()
    for layer, is_valid in enumerate(valid.tolist()):
        first = is_valid.index(True)
        for record in range(6):
            source = max((r for r in range(record + 1) if is_valid[r]), default=first)
            filled[layer, record] = history[layer, source]
    history[~valid] = math.nan
    assert torch.equal(ENCODINGS[name](history, valid), ENCODINGS[name](filled))


@pytest.mark.parametrize("name", ENCODINGS)
@given(changed=st.integers(1, 69), value=st.sampled_from([0.0, 1e9, math.inf, math.nan]))
@settings(max_examples=20)
def test_later_records_make_no_difference(name, changed, value):
    history = histories(records=70)
    before = ENCODINGS[name](history)[:, :changed]
    history[:, changed:] = value
    assert torch.equal(ENCODINGS[name](history)[:, :changed], before)


@pytest.mark.parametrize("name", SCALE_FREE)
@given(st.integers(1, 31), st.floats(-100, 100), st.sampled_from([1, -1]))
@settings(max_examples=40)
def test_the_scale_of_the_weights_makes_no_difference(name, records, log_scale, sign):
    """Their sign makes no difference either, except for encodings that have signs themselves."""
    history = histories(records=records, size=19)
    encoding = ENCODINGS[name]
    expected = encoding(history) * (1 if name in SORTED else sign)
    torch.testing.assert_close(encoding(history * sign * 10**log_scale), expected)


@pytest.mark.parametrize("name", SORTED)
@given(records=st.integers(1, 31), random=st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_order_of_weights_that_look_back_as_far_makes_no_difference(name, records, random):
    history, order = histories(records=records, size=19), list(range(19))
    for group in range(8):
        order[group::8] = random.sample(order[group::8], len(order[group::8]))
    shuffled = ENCODINGS[name](history[..., order])
    torch.testing.assert_close(shuffled, ENCODINGS[name](history))


@pytest.mark.parametrize("name", SORTED)
def test_log_displacements_of_any_finite_weights_are_of_order_one(name):
    extremes = torch.tensor([0.0, 1e-45, -1e-38, 1e-8, 1.0, -1e8, 3e38, -3e38])
    history = extremes[torch.randint(8, (50, 6, 16))]
    history[:4, -1] = torch.tensor([0.0, 3e38, 1e-45, 1e-38])[:, None]
    encoded = ENCODINGS[name](history)
    assert encoded.min() >= FLOOR and encoded.max() <= CEILING


@pytest.mark.parametrize("name", SORTED)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_log_displacements_of_weights_that_do_not_move_are_the_floor(name, value):
    assert (ENCODINGS[name](torch.full((2, 4, 8), value)) == FLOOR).all()


@pytest.mark.parametrize("name", ["standardised", "displacement"])
def test_weights_that_are_all_alike_and_do_not_move_are_zero(name):
    assert (ENCODINGS[name](torch.full((2, 4, 8), 3.0)) == 0).all()


@pytest.mark.parametrize("name", SORTED)
def test_weights_that_need_a_gradient_are_encoded_the_same(name):
    """PyTorch's sort is then used, as on a GPU."""
    history = histories(records=33, size=19)
    expected = ENCODINGS[name](history)
    encoded = ENCODINGS[name](history.requires_grad_())
    assert encoded.requires_grad and torch.equal(encoded, expected)


def test_drift_accumulates_over_preceding_layers():
    history = histories(layers=3)
    encoded = ENCODINGS["drift"](history)
    assert torch.equal(encoded[:1], ENCODINGS["log_displacement"](history[:1]))
    assert (encoded.diff(dim=0)[:, 1:] >= 0).all()
