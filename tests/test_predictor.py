"""The predictor against Eqs. 1-4 written as loops; masks, encodings, and its files."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from smartfrz import predictor as predictor_module
from smartfrz.encodings import ENCODINGS, displacement
from smartfrz.predictor import AttentionPredictor

SMALL = {"size": 8, "hidden": 6, "features": 4, "head_hidden": 5, "window": 5}


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
    return (steps * 0.3 ** torch.arange(records)[:, None]).cumsum(1)


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


def naive_attention_and_logits(predictor, records):
    """Eqs. 1-4 for one layer: ``records`` is a list of lists, oldest first."""
    keys = [naive_mlp(predictor.mlp_k, record) for record in records]
    values = [naive_mlp(predictor.mlp_v, record) for record in records]
    query = naive_mlp(predictor.mlp_q, records[-1])
    scores = [math.exp(sum(q * k for q, k in zip(query, key, strict=True))) for key in keys]
    alpha = [score / sum(scores) for score in scores]
    context = [sum(a * v[f] for a, v in zip(alpha, values, strict=True)) for f in range(len(query))]
    return alpha, naive_mlp(predictor.mlp_z, context)


def naive_displacement(records):
    newest = records[-1]
    rms = math.sqrt(sum(w * w for w in newest) / len(newest))

    def encoded(differences):
        return [
            (math.log10(min(max(d / rms, 1e-8), 1e8)) + 4) / 2
            for d in sorted(map(abs, differences))
        ]

    rows = []
    for before, record in zip([records[0], *records], records, strict=False):
        steps = encoded([a - b for a, b in zip(record, before, strict=True)])
        distances = encoded([a - b for a, b in zip(newest, record, strict=True)])
        rows.append(steps[::2] + distances[1::2])
    return rows


def test_the_paper_s_size():
    predictor = AttentionPredictor()
    assert sum(param.numel() for param in predictor.parameters()) == 1_037_122
    assert predictor.mlp_k[0].in_features == 1024


@pytest.mark.parametrize("encoding", ["raw", "displacement"])
@pytest.mark.parametrize("records", [1, 2, 5])
def test_equals_the_equations_written_as_loops(encoding, records):
    predictor = small(encoding)
    history = histories(records=records)
    encode = {"raw": list, "displacement": naive_displacement}[encoding]
    naive = [naive_attention_and_logits(predictor, encode(layer)) for layer in history.tolist()]
    alpha, logits = (torch.tensor(part, dtype=torch.float64) for part in zip(*naive, strict=True))
    torch.testing.assert_close(predictor.attention_weights(history), alpha)
    torch.testing.assert_close(predictor(history), logits)
    if records > 1:
        assert (alpha.max(dim=1).values - alpha.min(dim=1).values).min() > 1e-3
        probability = logits.softmax(dim=1)[:, 1]
        torch.testing.assert_close(predictor.freeze_probability(history), probability)


@pytest.mark.parametrize("encoding", ["raw", "displacement"])
@given(data=st.data(), padding=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_layer_s_result_depends_on_its_valid_records_alone(encoding, data, padding):
    """Padded in front with rubbish and batched with others, it is what it is alone."""
    predictor = small(encoding)
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    longest = max(lengths) + padding
    alone = [histories(1, n, seed=seed) for seed, n in enumerate(lengths)]
    rubbish = data.draw(st.sampled_from([1e3, math.inf, math.nan]))
    history = torch.full((len(alone), longest, 8), rubbish, dtype=torch.float64)
    valid = torch.zeros(len(alone), longest, dtype=torch.bool)
    for row, (layer, n) in enumerate(zip(alone, lengths, strict=True)):
        history[row, longest - n :] = layer
        valid[row, longest - n :] = True
    expected = torch.cat([predictor(layer) for layer in alone])
    torch.testing.assert_close(predictor(history, valid), expected)
    attention = predictor.attention_weights(history, valid)
    assert (attention[~valid] == 0).all()
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(len(alone), dtype=torch.float64))


def test_only_the_newest_records_of_the_window_count():
    predictor = small("displacement")
    history = histories(records=12)
    whole = predictor.freeze_probability(history)
    assert torch.equal(whole, predictor.freeze_probability(history[:, -5:]))
    assert not torch.equal(whole, predictor.freeze_probability(history[:, -4:]))


def test_the_order_of_records_matters_to_displacement():
    history = histories()
    predictor = small("displacement")
    assert not torch.allclose(predictor(history), predictor(history[:, [1, 0, 2, 3]]))


@given(
    st.integers(1, 6),
    st.sampled_from([7, 8, 16]),
    st.floats(-30, 30),
    st.sampled_from([1, -1]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_displacement_ignores_scale_and_the_order_of_weights(
    records, size, log_scale, sign, random
):
    history = histories(records=records, size=size).float()
    valid = torch.ones(history.shape[:2], dtype=torch.bool)
    order = random.sample(range(size), size)
    encoded = displacement(history, valid)
    changed = displacement(history[..., order] * sign * 10**log_scale, valid)
    assert encoded.shape == history.shape
    # Where a difference is all rounding error, its logarithm tells.
    torch.testing.assert_close(changed, encoded, atol=1e-3, rtol=0)


def test_displacement_is_finite_and_of_order_one_for_any_finite_weights():
    extremes = torch.tensor([0.0, 1e-45, -1e-38, 1e-8, 1.0, -1e8, 3e38, -3e38])
    history = extremes[torch.randint(8, (50, 6, 8), generator=torch.Generator().manual_seed(0))]
    history[:4, -1] = torch.tensor([0.0, 3e38, 1e-45, 1e-38])[:, None]
    encoded = displacement(history, torch.ones(50, 6, dtype=torch.bool))
    assert encoded.min() >= -2 and encoded.max() <= 6


def test_displacement_of_weights_that_do_not_move_is_the_floor():
    still = torch.randn(2, 1, 8).expand(2, 4, 8)
    assert (displacement(still, torch.ones(2, 4, dtype=torch.bool)) == -2).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_constant_weights_have_a_probability(encoding):
    still = torch.randn(1, 1, 8).expand(1, 4, 8)
    history = torch.cat([still, torch.zeros(1, 4, 8)])
    probability = small(encoding).float().freeze_probability(history)
    assert ((probability > 0) & (probability < 1)).all()


def eager(encoding):
    """A predictor that would freeze anything."""
    predictor = small(encoding)
    nn.init.constant_(predictor.mlp_z[-1].bias, 0.0)
    predictor.mlp_z[-1].bias.data[1] = 100.0
    return predictor


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("record", [0, 3])
def test_a_layer_that_is_not_finite_is_never_frozen(encoding, bad, record):
    history = histories()
    history[1, record, 2] = bad
    assert eager(encoding).freeze_probability(history).tolist() == [1, 0, 1]


def test_scores_that_overflow_freeze_nothing():
    history = torch.full((1, 3, 8), 3e38)
    assert eager("raw").float().freeze_probability(history).tolist() == [0]


def test_one_record_alone_says_nothing_about_displacement():
    history = histories(records=3)
    valid = torch.tensor([[False, False, True], [False, True, True], [True, True, True]])
    assert eager("displacement").freeze_probability(history[:, -1:]).tolist() == [0, 0, 0]
    assert eager("displacement").freeze_probability(history, valid).tolist() == [0, 1, 1]
    assert eager("raw").freeze_probability(history, valid).tolist() == [1, 1, 1]


def test_the_probability_carries_no_graph_and_the_logits_do():
    predictor = small()
    assert not predictor.freeze_probability(histories()).requires_grad
    predictor(histories()).sum().backward()
    assert all(param.grad is not None for param in predictor.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_histories_of_any_float_type(dtype):
    predictor = small().float()
    history = histories().to(dtype)
    expected = predictor.freeze_probability(history.float())
    torch.testing.assert_close(predictor.freeze_probability(history), expected)


@pytest.mark.parametrize("method", ["__call__", "freeze_probability", "attention_weights"])
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
    with pytest.raises(ValueError, match=r"'fourier'.*\['displacement', 'raw'\]"):
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
    assert json.loads((saved / "config.json").read_text()) == {**SMALL, "encoding": "raw"}
    assert not loaded.training
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    history = histories().float()
    assert torch.equal(loaded.freeze_probability(history), original.freeze_probability(history))
    loaded.save_pretrained(saved.parent / "again")
    for name in ("config.json", "model.safetensors"):
        assert (saved.parent / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_saving_keeps_a_model_card_that_is_there(saved):
    card = saved / "README.md"
    card.write_text("mine")
    AttentionPredictor.from_pretrained(str(saved)).save_pretrained(saved)
    assert card.read_text() == "mine"


def test_bundled_predictors_load_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(predictor_module, "_BUNDLED", tmp_path)
    small("raw").save_pretrained(tmp_path / "raw")
    small("displacement").save_pretrained(tmp_path / "displacement")
    assert AttentionPredictor.from_pretrained().encoding == "displacement"
    assert AttentionPredictor.from_pretrained(None).encoding == "displacement"
    assert AttentionPredictor.from_pretrained("raw").encoding == "raw"
    with pytest.raises(ValueError, match=r"bundled predictor, .* \['displacement', 'raw'\]"):
        AttentionPredictor.from_pretrained("rwa")


def test_hub_ids_are_fetched_with_the_options_given(saved, monkeypatch):
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        return str(saved / filename)

    monkeypatch.setattr(predictor_module, "hf_hub_download", download)
    AttentionPredictor.from_pretrained("user/name", revision="v1")
    assert asked == [
        ("user/name", "config.json", {"revision": "v1"}),
        ("user/name", "model.safetensors", {"revision": "v1"}),
    ]


def test_a_hub_id_that_can_not_be_had(tmp_path):
    with pytest.raises(ValueError, match="'user/name' is no folder, and config"):
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
