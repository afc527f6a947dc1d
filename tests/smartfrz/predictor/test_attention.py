"""Tests of the predictor against loops for Eqs. 1-4, and of its masks, errors and files."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from smartfrz.predictor import files
from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.encodings import ENCODINGS, fill_gaps
from tests.helpers.reference import attention_weights

SMALL = {"size": 8, "hidden": 6, "features": 4, "head_hidden": 5, "window": 5}
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def small(encoding="raw", seed=0, **changes):
    torch.manual_seed(seed)
    predictor = AttentionPredictor(**{**SMALL, "encoding": encoding, **changes})
    for param in predictor.parameters():
        nn.init.normal_(param, std=0.5)  # far from a uniform attention
    return predictor.double()


def histories(layers=3, records=4, size=8, seed=0):
    """Weights that start at random and move less and less."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(layers, records, size, generator=generator, dtype=torch.float64)
    return (steps * 0.7 ** torch.arange(records)[:, None]).cumsum(1)


def naive_mlp(mlp, x):
    linears = [module for module in mlp if isinstance(module, nn.Linear)]
    for index, linear in enumerate(linears):
        weight, bias = linear.weight.tolist(), linear.bias.tolist()
        x = [
            sum(w * a for w, a in zip(row, x, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        if index < len(linears) - 1:
            x = [max(a, 0.0) for a in x]
    assert len(linears) == 3
    return x


def naive_attention_and_logits(predictor, records, attended):
    """Eqs. 1-4 for one layer; ``records`` is a list of lists, oldest first."""
    query = naive_mlp(predictor.mlp_q, records[-1])
    scores = [-math.inf] * len(records)
    for j in attended:
        key = naive_mlp(predictor.mlp_k, records[j])
        scores[j] = sum(q * k for q, k in zip(query, key, strict=True))
    weights = [math.exp(score - max(scores)) for score in scores]
    alpha = [weight / sum(weights) for weight in weights]
    context = [0.0] * len(query)
    for j in attended:
        for f, v in enumerate(naive_mlp(predictor.mlp_v, records[j])):
            context[f] += alpha[j] * v
    return alpha, naive_mlp(predictor.mlp_z, context)


def naive_attended(encoding, valid, window):
    """The records that are attended to: those present in the window.

    If records are compared with earlier ones, the first counts only if it is alone.
    """
    present = [j for j, is_valid in enumerate(valid) if is_valid]
    if encoding not in ("raw", "standardised") and len(present) > 1:
        present = present[1:]
    return [j for j in present if j >= len(valid) - window]


def test_the_paper_s_size():
    predictor = AttentionPredictor()
    assert sum(param.numel() for param in predictor.parameters()) == 1_037_122
    assert predictor.mlp_k[0].in_features == 1024


@every_encoding
@given(data=st.data(), records=st.integers(1, 8))
@settings(max_examples=15)
def test_equals_the_equations_written_as_loops(encoding, data, records):
    """Histories shorter and longer than the window, with records missing except at the end."""
    predictor, history = small(encoding), histories(layers=2, records=records)
    row = st.lists(st.booleans(), min_size=records, max_size=records)
    valid = torch.tensor(data.draw(st.one_of(st.just([[True] * records] * 2), st.tuples(row, row))))
    valid[:, -1] = True
    encoded = ENCODINGS[encoding](history, valid).tolist()
    naive = [
        naive_attention_and_logits(predictor, layer, naive_attended(encoding, is_valid, 5))
        for layer, is_valid in zip(encoded, valid.tolist(), strict=True)
    ]
    alpha, logits = (torch.tensor(part, dtype=torch.float64) for part in zip(*naive, strict=True))
    torch.testing.assert_close(attention_weights(predictor, history, valid), alpha)
    torch.testing.assert_close(predictor(history, valid), logits)
    # With one record, nothing has moved.
    probability = logits.softmax(dim=1)[:, 1] * (valid.sum(dim=1) > 1)
    if records <= 5:
        torch.testing.assert_close(predictor.freeze_probability(history, valid), probability)
    if valid.all():
        torch.testing.assert_close(predictor(history), logits)


@every_encoding
def test_decides_at_every_record_as_on_the_history_up_to_it(encoding):
    predictor, history = small(encoding), histories(records=70)
    at_once = predictor.decide_at_every_record(predictor.encode(history)[0])
    one_by_one = [predictor(history[:, : t + 1]) for t in range(70)]
    torch.testing.assert_close(at_once, torch.stack(one_by_one, dim=1))


@every_encoding
@given(data=st.data(), padding=st.integers(0, 3))
@settings(max_examples=20)
def test_what_stands_in_missing_records_makes_no_difference(encoding, data, padding):
    """Other layers make no difference either, except for drift, which accumulates over layers."""
    predictor = small(encoding)
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    longest = max(lengths) + padding
    rubbish = data.draw(st.sampled_from([1e3, math.inf, math.nan]))
    history = torch.full((len(lengths), longest, 8), rubbish, dtype=torch.float64)
    valid = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, n in enumerate(lengths):
        history[row, longest - n :] = histories(1, n, seed=row)
        valid[row, longest - n :] = True
    filled, together = fill_gaps(history, valid), len(lengths) if encoding == "drift" else 1
    parts = zip(filled.split(together), valid.split(together), strict=True)
    expected = torch.cat([predictor(*part) for part in parts])
    torch.testing.assert_close(predictor(history, valid), expected)
    assert predictor.freeze_probability(history, valid).isfinite().all()
    assert (attention_weights(predictor, history, valid)[~valid] == 0).all()


@pytest.mark.parametrize(("encoding", "needed"), [("raw", 5), ("displacement", 6)])
def test_records_before_the_window_do_not_count(encoding, needed):
    """One exception is the record with which the oldest one in the window is compared."""
    predictor, history = small(encoding), histories(records=12)
    whole = predictor.freeze_probability(history)
    history[:, :-needed] = math.nan
    assert torch.equal(whole, predictor.freeze_probability(history))
    assert not torch.allclose(whole, predictor.freeze_probability(history[:, 1 - needed :]))


def eager(encoding, **changes):
    """A predictor that would freeze any layer."""
    predictor = small(encoding, **changes)
    nn.init.zeros_(predictor.mlp_z[-1].bias)
    predictor.mlp_z[-1].bias.data[1] = 100.0
    return predictor


@every_encoding
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("record", [0, 3])
def test_a_layer_that_is_not_finite_is_never_frozen(encoding, bad, record):
    """With a cumulative encoding, the layers behind it are not frozen either."""
    history = histories()
    history[2, record, 2] = bad
    assert eager(encoding).freeze_probability(history).tolist() == [1, 1, 0]


def test_an_infinite_weight_that_no_unit_passes_on_counts_as_one():
    history, predictor = histories(), eager("raw")
    for mlp in (predictor.mlp_k, predictor.mlp_q, predictor.mlp_v):
        nn.init.constant_(mlp[0].weight, -1.0)
    history[1, 2, 3] = math.inf
    assert predictor(history).isfinite().all()
    assert predictor.freeze_probability(history).tolist() == [1, 0, 1]


def test_scores_that_overflow_freeze_nothing():
    history = torch.full((1, 3, 8), 3e38)
    history[:, 0] = 0
    assert eager("raw").float().freeze_probability(history).tolist() == [0]


@every_encoding
def test_one_record_alone_freezes_nothing(encoding):
    history = histories(records=3)
    valid = torch.tensor([[False, False, True], [False, True, True], [True, False, True]])
    assert eager(encoding).freeze_probability(history[:, -1:]).tolist() == [0, 0, 0]
    assert eager(encoding).freeze_probability(history, valid).tolist() == [0, 1, 1]


@every_encoding
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_layer_that_did_not_move_in_the_window_is_not_frozen(encoding, value):
    """It has not begun to train, or it last moved before the window."""
    history = torch.full((2, 9, 8), value)
    history[1, :3], history[1, 3:] = 1.0, 2.0  # the window is of 5 records
    assert eager(encoding).freeze_probability(history).tolist() == [0, 0]
    assert eager(encoding).freeze_probability(history[:, :8]).tolist() == [0, 1]


@every_encoding
@given(st.lists(st.lists(st.floats(width=32), min_size=8, max_size=8), min_size=1, max_size=7))
@settings(max_examples=40)
def test_whatever_the_weights_it_is_a_probability(encoding, records):
    probability = eager(encoding).float().freeze_probability(torch.tensor([records]))
    assert 0 <= probability.item() <= 1


def test_the_probability_carries_no_graph_and_the_logits_do():
    predictor = small()
    assert not predictor.freeze_probability(histories()).requires_grad
    predictor(histories()).sum().backward()
    assert all(param.grad is not None for param in predictor.parameters())


@every_encoding
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_histories_of_any_float_type(encoding, dtype):
    predictor = small(encoding).float()
    history = histories().to(dtype)
    expected = predictor.freeze_probability(history.float())
    torch.testing.assert_close(predictor.freeze_probability(history), expected)


@every_encoding
def test_a_predictor_of_less_precision_sees_how_far_weights_moved(encoding):
    """With moves of a ten-thousandth, which would be lost in bfloat16 weights."""
    history = 1 + 1e-4 * histories()
    expected = ENCODINGS[encoding](history.float())
    seen, _ = small(encoding).bfloat16().encode(history)
    assert seen.dtype == torch.bfloat16
    torch.testing.assert_close(seen.float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("method", ["__call__", "freeze_probability", "encode"])
@pytest.mark.parametrize(
    ("history", "valid", "message"),
    [
        ((3, 4, 7), None, r"\(layers, records, 8\)"),
        ((4, 8), None, r"\(layers, records, 8\)"),
        ((3, 0, 8), None, "at least one record"),
        ((3, 4, 8), torch.ones(3, 5, dtype=torch.bool), r"must be bool and \(3, 4\)"),
        ((3, 4, 8), torch.ones(3, 4), "must be bool"),
        ((3, 4, 8), torch.zeros(3, 4, dtype=torch.bool), "newest record"),
    ],
)
def test_wrong_arguments(method, history, valid, message):
    with pytest.raises(ValueError, match=message):
        getattr(small(), method)(torch.zeros(history), valid)


def test_wrong_configurations():
    with pytest.raises(ValueError, match=r"'fourier'.*'raw'"):
        AttentionPredictor(encoding="fourier")
    for wrong in (0, -1, 2.5, "8"):
        with pytest.raises(ValueError, match="positive integers"):
            AttentionPredictor(window=wrong)


@pytest.fixture
def saved(tmp_path):
    """A folder with a predictor in it."""
    small("raw").float().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_what_is_saved_loads_bit_for_bit(saved):
    original, loaded = small("raw").float(), AttentionPredictor.from_pretrained(saved)
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert config == {**SMALL, "encoding": "raw", "threshold": 0.5}
    assert not loaded.training
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    history = histories().float()
    assert torch.equal(loaded.freeze_probability(history), original.freeze_probability(history))
    loaded.save_pretrained(saved.parent / "again")
    for name in ("config.json", "model.safetensors"):
        assert (saved.parent / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_a_threshold_chosen_after_training_is_saved(saved):
    predictor = AttentionPredictor.from_pretrained(saved)
    predictor.threshold = 0.25
    predictor.save_pretrained(saved)
    assert AttentionPredictor.from_pretrained(saved).threshold == 0.25


def test_saving_keeps_a_model_card_that_is_there(saved):
    card = saved / "README.md"
    card.write_text("mine")
    AttentionPredictor.from_pretrained(str(saved)).save_pretrained(saved)
    assert card.read_text() == "mine"


@pytest.mark.parametrize("fails", ["_save_pretrained", "push_to_hub"])
def test_an_error_while_saving_leaves_no_model_card(saved, monkeypatch, fails):
    predictor = AttentionPredictor.from_pretrained(saved)

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(predictor, fails, fail)
    with pytest.raises(ConnectionError, match="no network"):
        predictor.save_pretrained(saved, push_to_hub=True)
    assert not (saved / "README.md").exists()


def test_bundled_predictors_load_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BUNDLED", tmp_path)
    small("raw").save_pretrained(tmp_path / "raw")
    small("drift").save_pretrained(tmp_path / "drift")
    assert AttentionPredictor.from_pretrained().encoding == "drift"
    assert AttentionPredictor.from_pretrained(None).encoding == "drift"
    assert AttentionPredictor.from_pretrained("raw").encoding == "raw"
    with pytest.raises(ValueError, match=r"bundled predictor: \['drift', 'raw'\]"):
        AttentionPredictor.from_pretrained("rwa")


def test_hub_ids_are_fetched_with_the_options_given(saved, monkeypatch):
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        return str(saved / filename)

    monkeypatch.setattr(files, "hf_hub_download", download)
    AttentionPredictor.from_pretrained("user/name", revision="v1")
    assert asked == [
        ("user/name", "config.json", {"revision": "v1"}),
        ("user/name", "model.safetensors", {"revision": "v1"}),
    ]


def test_a_hub_id_that_can_not_be_had(tmp_path):
    with pytest.raises(ValueError, match="'user/name' is not a folder, and config"):
        AttentionPredictor.from_pretrained("user/name", local_files_only=True, cache_dir=tmp_path)


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def change_weights(change):
    def apply(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def change_config(**changes):
    def apply(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return apply


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "bad_file"),
    [
        (truncate, "model.safetensors"),
        (write("model.safetensors", b""), "model.safetensors"),
        (write("model.safetensors", b"\x80\x04rubbish" * 20), "model.safetensors"),
        (change_weights(lambda w: w.pop("mlp_q.0.bias")), "model.safetensors"),
        (change_weights(lambda w: w.update(more=torch.zeros(1))), "model.safetensors"),
        (change_weights(lambda w: w.update({"mlp_q.0.bias": torch.zeros(7)})), "model.safetensors"),
        (change_config(hidden=7), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (write("config.json", b'{"size": 8'), "config.json"),
        (write("config.json", b"[1, 2]"), "config.json"),
        (write("config.json", b"\xff\xfe"), "config.json"),
        (change_config(depth=3), "config.json"),
        (change_config(hidden="6"), "config.json"),
        (change_config(encoding="fourier"), "config.json"),
        (change_config(encoding=["raw"]), "config.json"),
    ],
)
def test_bad_files_are_named(saved, damage, bad_file):
    damage(saved)
    with pytest.raises(ValueError) as caught:
        AttentionPredictor.from_pretrained(saved)
    assert str(saved / bad_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_loaded(saved):
    weights = load_file(saved / "model.safetensors")
    torch.save(weights, saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"There is no .*model\.safetensors"):
        AttentionPredictor.from_pretrained(saved)
