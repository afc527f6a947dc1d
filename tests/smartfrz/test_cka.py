"""Tests of CKA: definitions, invariances, bias, and CKA of the layers of two models."""

import copy
import math
from itertools import permutations
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smartfrz.cka import gram_vectors, linear_cka
from smartfrz.layers import Layer, find_layers
from tests.helpers.reference import layer_cka


def products(f):
    """The uncentred Gram matrix of the features, (n, n)."""
    return [[sum(a * b for a, b in zip(u, v, strict=True)) for v in f.tolist()] for u in f.tolist()]


def naive_hsic(x, y):
    """tr(K H L H), with H the centring matrix."""
    n = len(x)

    def centred(k):
        rows = [sum(row) / n for row in k]
        total = sum(rows) / n
        return [[k[i][j] - rows[i] - rows[j] + total for j in range(n)] for i in range(n)]

    k, l_ = centred(products(x)), centred(products(y))
    return sum(k[i][j] * l_[i][j] for i in range(n) for j in range(n))


def naive_hsic_1(x, y):
    """HSIC_1 of Song et al. (2012), Eq. 5."""
    n = len(x)
    k, l_ = products(x), products(y)
    for i in range(n):
        k[i][i] = l_[i][i] = 0.0
    trace = sum(k[i][j] * l_[j][i] for i in range(n) for j in range(n))
    sums = sum(map(sum, k)) * sum(map(sum, l_))
    product = sum(k[i][j] * l_[j][q] for i in range(n) for j in range(n) for q in range(n))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * product / (n - 2)) / (n * (n - 3))


def u_statistic(x, y):
    """HSIC_1 by its definition: a mean over all ordered quadruples of distinct samples."""
    k, l_ = products(x), products(y)
    return mean(
        k[i][j] * (l_[i][j] + l_[q][r] - 2 * l_[i][q])
        for i, j, q, r in permutations(range(len(x)), 4)
    )


def naive_cka(x, y, hsic=naive_hsic):
    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


shapes = st.tuples(st.integers(2, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
four_or_more = shapes.map(lambda shape: (max(4, shape[0]), *shape[1:]))


@given(shapes)
@settings(max_examples=40)
def test_equals_the_naive_double_loop(shape):
    n, p, q, seed = shape
    x, y = randn(n, p, seed=seed) + 3, randn(n, q, seed=seed + 1)
    assert linear_cka(x, y).item() == pytest.approx(naive_cka(x, y), rel=1e-9)


@pytest.mark.parametrize("hsic", [naive_hsic_1, u_statistic])
@given(shape=four_or_more)
@settings(max_examples=25)
def test_unbiased_is_made_of_hsic_1(hsic, shape):
    n, p, q, seed = shape
    n = min(n, 6) if hsic is u_statistic else n
    x, y = randn(n, p, seed=seed) + 1, randn(n, q, seed=seed + 1)
    expected = naive_cka(x, y, hsic)
    assert linear_cka(x, y, unbiased=True).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
@given(shape=four_or_more, scale=st.floats(1e-3, 1e3), offset=st.floats(-50, 50))
@settings(max_examples=40)
def test_invariances(unbiased, shape, scale, offset):
    n, p, q, seed = shape
    x, y = randn(n, p, seed=seed), randn(n, q, seed=seed + 1)
    value = linear_cka(x, y, unbiased)
    assert (-1 if unbiased else 0) - 1e-12 <= value <= 1 + 1e-12
    other_x, other_y = (
        scale * f @ torch.linalg.qr(randn(f.shape[1], f.shape[1], seed=seed + 2)).Q + offset
        for f in (x, y)
    )
    for same in [(other_x, y), (x, other_y), (y, x)]:
        torch.testing.assert_close(linear_cka(*same, unbiased), value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(linear_cka(x, -scale * x, unbiased), torch.ones_like(value))


def test_few_samples_of_many_features_look_alike_unless_the_bias_is_taken_out():
    """HSIC of independent features is 0, but the biased CKA of 16 samples is near 1."""
    pairs = [(randn(16, 2000, seed=2 * i), randn(16, 2000, seed=2 * i + 1)) for i in range(50)]
    assert min(linear_cka(x, y) for x, y in pairs) > 0.98
    assert abs(mean(linear_cka(x, y, unbiased=True).item() for x, y in pairs)) < 0.05


def test_is_not_invariant_to_a_general_linear_map():
    x, y = randn(20, 4), randn(20, 4, seed=1)
    stretch = torch.diag(torch.tensor([1.0, 10, 1, 1], dtype=torch.float64))
    assert abs(linear_cka(x @ stretch, y) - linear_cka(x, y)) > 1e-3


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_feature_form_and_gram_form_agree_despite_a_large_mean(offset):
    """Zero columns only change which form is cheaper. In float32 the offset costs precision."""
    x = (randn(50, 6) + offset).float()
    y = (randn(50, 5, seed=1) + x[:, :5] * 0.3).float()
    wide = torch.cat([x, torch.zeros(50, 200)], dim=1)
    assert abs(linear_cka(x, y) - linear_cka(wide, y)) < 1e-10
    assert linear_cka(x, y).item() == pytest.approx(naive_cka(x.double(), y.double()), rel=1e-6)
    centred = x.double() - x.double().mean(dim=0)
    assert abs(linear_cka(x, y, unbiased=True) - linear_cka(centred, y, unbiased=True)) < 1e-10
    assert linear_cka(x, y).dtype == linear_cka(x, y, unbiased=True).dtype == torch.float64


def test_gram_form_of_very_wide_features():
    x, y = randn(6, 40_000), randn(6, 3, seed=1)
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    k, m = centred_x @ centred_x.T, centred_y @ centred_y.T
    torch.testing.assert_close(linear_cka(x, y), (k * m).sum() / (k.norm() * m.norm()))


def test_many_samples_take_no_matrix_of_samples_by_samples():
    x, y = randn(100_000, 3), randn(100_000, 2, seed=1)
    x[:, 0] += y[:, 0]
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    torch.testing.assert_close(linear_cka(x, y), expected)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("columns", [2, 50])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1e-9, 1e9 / 3])
def test_constant_features_are_undefined(unbiased, columns, value):
    """Even where rounding makes the mean of equal values differ from them, as for 0.1."""
    constant = torch.full((7, columns), value, dtype=torch.float64)
    assert linear_cka(constant, randn(7, 3), unbiased).isnan()
    assert linear_cka(randn(7, 3), constant, unbiased).isnan()


@pytest.mark.parametrize(
    ("x", "y"), [((4, 2), (5, 2)), ((4, 2, 2), (4, 2)), ((4,), (4,)), ((1, 2), (1, 2))]
)
def test_wrong_shapes(x, y):
    with pytest.raises(ValueError, match="same n >= 2 samples"):
        linear_cka(torch.randn(x), torch.randn(y))


def test_unbiased_needs_four_samples():
    with pytest.raises(ValueError, match=r"same n >= 4 samples, not \(3, 2\) and \(3, 5\)"):
        linear_cka(torch.randn(3, 2), torch.randn(3, 5), unbiased=True)


class Net(nn.Module):
    """A convolution, attention, a layer that is called twice, and a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.twice = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, image, shift=0.0):
        x = self.dropout(self.norm(self.conv(image + shift)).relu())
        x = x.flatten(2).mT
        x = self.attention(x, x, x)[0]
        x = self.twice(self.twice(x).tanh())
        return self.head(x.mean(1))


NAMES = ["conv", "attention", "twice", "head"]


@pytest.fixture
def nets():
    torch.manual_seed(0)
    return Net(), Net()


def layers_of(net, names=NAMES):
    modules = dict(net.named_modules())
    return [Layer(name, (modules[name],), tuple(modules[name].parameters())) for name in names]


def features_of(net, *inputs):
    """Each layer's flattened outputs from hooks, those of several calls concatenated."""
    net = copy.deepcopy(net).eval()
    outputs = {name: [] for name in NAMES}
    for name in NAMES:
        getattr(net, name).register_forward_hook(
            lambda module, args, out, name=name: outputs[name].append(
                (out[0] if isinstance(out, tuple) else out).flatten(1)
            )
        )
    with torch.no_grad():
        net(*inputs)
    assert len(outputs["twice"]) == 2
    return [torch.cat(outputs[name], dim=1) for name in NAMES]


def test_a_model_equals_itself(nets):
    net = nets[0]
    same = layer_cka(net, net, layers_of(net), [torch.randn(8, 1, 4, 4)])
    torch.testing.assert_close(same, torch.ones(4, dtype=torch.float64))


def test_one_batch_is_unbiased_linear_cka_of_the_outputs(nets):
    model, reference = nets
    x = torch.randn(8, 1, 4, 4)
    expected = [
        linear_cka(a, b, unbiased=True)
        for a, b in zip(features_of(model, x), features_of(reference, x), strict=True)
    ]
    similarity = layer_cka(model, reference, layers_of(model), [x])
    assert similarity.dtype == torch.float64 and not similarity.requires_grad
    torch.testing.assert_close(similarity, torch.stack(expected))
    assert similarity.max() < 0.999


def test_several_batches_average_the_terms_before_dividing(nets):
    model, reference = nets
    batches = [torch.randn(6, 1, 4, 4), 3 * torch.randn(9, 1, 4, 4)]
    terms = torch.zeros(len(NAMES), 3, dtype=torch.float64)
    for x, weight in zip(batches, (6 * 3, 9 * 6), strict=True):
        pairs = zip(features_of(model, x), features_of(reference, x), strict=True)
        for row, (a, b) in zip(terms, pairs, strict=True):
            a, b = a.double(), b.double()
            hsic = [naive_hsic_1(a, b), naive_hsic_1(a, a), naive_hsic_1(b, b)]
            row += weight * torch.tensor(hsic)
    expected = terms[:, 0] / (terms[:, 1] * terms[:, 2]).sqrt()
    similarity = layer_cka(model, reference, layers_of(model), iter(batches))
    torch.testing.assert_close(similarity, expected, rtol=1e-6, atol=1e-6)


def test_the_size_of_the_batches_hardly_matters():
    """Biased CKA depends on it: for 512 features it is 0.78 with 256 samples and 0.98 with 8."""
    reference = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
    model = copy.deepcopy(reference)
    with torch.no_grad():
        for param in model.parameters():
            param += 2 * param.std() * torch.randn_like(param)
        probe = torch.randn(256, 64)
        x, y = model(probe), reference(probe)
    deep, sizes = find_layers(model)[1:], (8, 16, 32, 256)
    unbiased = [layer_cka(model, reference, deep, probe.split(size)).item() for size in sizes]
    assert 0.6 < unbiased[-1] < 0.8
    assert max(unbiased) - min(unbiased) < 0.05
    biased = [linear_cka(x[:size], y[:size]).item() for size in sizes]
    assert biased == sorted(biased, reverse=True) and biased[0] - biased[-1] > 0.15


def test_vectors_have_length_one_and_their_product_is_cka(nets):
    layers, batches = layers_of(nets[0]), [torch.randn(n, 1, 4, 4) for n in (8, 5)]
    x, y = (gram_vectors(net, layers, iter(batches)) for net in nets)
    assert x.shape == (len(NAMES), 8 * 8 + 5 * 5)
    assert x.dtype == torch.float64 and not x.requires_grad
    torch.testing.assert_close(x.norm(dim=1), torch.ones_like(x[:, 0]))
    torch.testing.assert_close((x * y).sum(dim=1), layer_cka(*nets, layers, batches))


def test_some_of_the_layers_in_any_order(nets):
    net, batches = nets[0], [torch.randn(8, 1, 4, 4)]
    everything = gram_vectors(net, layers_of(net), batches)
    for order in ([3, 0], [1]):
        some = gram_vectors(net, layers_of(net, [NAMES[i] for i in order]), batches)
        torch.testing.assert_close(some, everything[order])


def test_inputs_may_be_arguments_or_keywords(nets):
    model, reference = nets
    x = torch.randn(8, 1, 4, 4)
    layers = layers_of(model)
    shifted = layer_cka(model, reference, layers, [x + 1.5])
    for batch in ((x, 1.5), [x, 1.5], {"image": x, "shift": 1.5}):
        torch.testing.assert_close(layer_cka(model, reference, layers, [batch]), shifted)


def test_leaves_both_models_as_they_were(nets):
    model, reference = nets
    model.norm.eval()  # as a freezer leaves a frozen norm, whose train() it also overrides
    model.norm.train = lambda mode=True: pytest.fail("CKA called train()")
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    flags = [[module.training for module in net.modules()] for net in nets]
    layer_cka(model, reference, layers_of(model), [torch.randn(8, 1, 4, 4)])
    assert [[module.training for module in net.modules()] for net in nets] == flags
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
        assert not any(module._forward_hooks for module in net.modules())
        assert all(param.grad is None for param in net.parameters())


@pytest.mark.parametrize("failing", [0, 1])
def test_restores_the_models_when_a_forward_pass_fails(nets, failing):
    nets[failing].dropout.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        layer_cka(*nets, layers_of(nets[0]), [torch.randn(8, 1, 4, 4)])
    for module in [*nets[0].modules(), *nets[1].modules()]:
        assert module.training and not module._forward_hooks
    assert torch.is_grad_enabled()


def test_looks_through_ddp(nets, tmp_path):
    model, reference = nets
    x = torch.randn(8, 1, 4, 4)
    plain = layer_cka(model, reference, layers_of(model), [x])
    init = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=init, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        assert torch.equal(layer_cka(wrapped, reference, layers_of(model), [x]), plain)
    finally:
        torch.distributed.destroy_process_group()


def test_an_output_that_does_not_depend_on_the_sample_is_undefined(nets):
    model, reference = nets
    nn.init.zeros_(model.head.weight)
    similarity = layer_cka(model, reference, layers_of(model), [torch.randn(8, 1, 4, 4)])
    assert similarity.isnan().tolist() == [False, False, False, True]


class Tokens(nn.Module):
    """Position embeddings as in BERT, with one row for all samples."""

    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(9, 4), nn.Embedding(5, 4)

    def forward(self, tokens):
        return self.token(tokens) + self.position(torch.arange(5)[None])


def test_a_single_row_for_all_samples_is_undefined():
    """Alone and among other layers, in a vector of the full length."""
    model, reference = Tokens(), Tokens()
    layers, batches = layers_of(model, ["token", "position"]), torch.randint(9, (2, 8, 5)).unbind()
    assert layer_cka(model, reference, layers, batches).isnan().tolist() == [False, True]
    alone = gram_vectors(model, layers[1:], [{"tokens": batch} for batch in batches])
    assert alone.shape == (1, 2 * 8 * 8) and alone.isnan().all()


def test_users_mistakes(nets):
    model, reference = nets
    layers, x = layers_of(model), torch.randn(8, 1, 4, 4)
    other = nn.Sequential(nn.Flatten())
    with pytest.raises(ValueError, match="at least one batch"):
        layer_cka(model, reference, layers, [])
    with pytest.raises(ValueError, match="batches of at least 4 samples, not 3"):
        layer_cka(model, reference, layers, [x, x[:3]])
    with pytest.raises(ValueError, match="did not call its layer 'unused'"):
        layer_cka(model, reference, layers_of(model, ["unused"]), [x])
    for pair in [(model, other), (other, model)]:
        with pytest.raises(ValueError, match="Sequential has no layer 'conv'"):
            layer_cka(*pair, layers, [x])
    by_pixel = nn.Sequential(nn.Flatten(0, 2), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="output of layer '1' has 32 rows for 8 samples"):
        gram_vectors(by_pixel, layers_of(by_pixel, ["1"]), [x])


def test_complex_features_count_as_pairs_of_real_ones():
    x, y = torch.randn(6, 3, dtype=torch.cfloat), torch.randn(6, 40)
    pairs = torch.cat([x.real, x.imag], dim=1)
    for unbiased in (False, True):
        torch.testing.assert_close(linear_cka(x, y, unbiased), linear_cka(pairs, y, unbiased))
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.cfloat), nn.Linear(4, 2, dtype=torch.cfloat))
    layers = find_layers(model, x)
    vectors = gram_vectors(model, layers, [x])
    outputs = model[0](x).detach()
    expected = linear_cka(outputs, model(x).detach(), unbiased=True)
    torch.testing.assert_close(vectors[0] @ vectors[1], expected)
