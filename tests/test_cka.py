"""CKA against double loops, its invariances, and layer-wise CKA of two models."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smartfrz.cka import layer_cka, linear_cka
from smartfrz.layers import Layer


def naive_hsic(x, y):
    """tr(K H L H), sample by sample, with H the centring matrix."""
    n = len(x)

    def centred_gram(f):
        k = [
            [sum(a * b for a, b in zip(f[i], f[j], strict=True)) for j in range(n)]
            for i in range(n)
        ]
        rows = [sum(row) / n for row in k]
        total = sum(rows) / n
        return [[k[i][j] - rows[i] - rows[j] + total for j in range(n)] for i in range(n)]

    k, l_ = centred_gram(x.tolist()), centred_gram(y.tolist())
    return sum(k[i][j] * l_[i][j] for i in range(n) for j in range(n))


def naive_cka(x, y):
    return naive_hsic(x, y) / math.sqrt(naive_hsic(x, x) * naive_hsic(y, y))


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


shapes = st.tuples(st.integers(2, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_equals_the_naive_double_loop(shape):
    n, p, q, seed = shape
    x, y = randn(n, p, seed=seed) + 3, randn(n, q, seed=seed + 1)
    assert linear_cka(x, y).item() == pytest.approx(naive_cka(x, y), rel=1e-9)


@given(shapes, st.floats(1e-3, 1e3), st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_invariances(shape, scale, offset):
    n, p, q, seed = shape
    x, y = randn(n, p, seed=seed), randn(n, q, seed=seed + 1)
    rotation = torch.linalg.qr(randn(p, p, seed=seed + 2)).Q
    value = linear_cka(x, y)
    assert -1e-12 <= value <= 1 + 1e-12
    torch.testing.assert_close(linear_cka(scale * x @ rotation + offset, y), value)
    torch.testing.assert_close(linear_cka(y, x), value)
    torch.testing.assert_close(linear_cka(x, -scale * x), torch.ones_like(value))


def test_is_not_invariant_to_a_general_linear_map():
    x, y = randn(20, 4), randn(20, 4, seed=1)
    stretch = torch.diag(torch.tensor([1.0, 10, 1, 1], dtype=torch.float64))
    assert abs(linear_cka(x @ stretch, y) - linear_cka(x, y)) > 1e-3


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_feature_form_and_gram_form_agree_despite_a_large_mean(offset):
    """Zero columns change nothing but which form is cheaper. In float32 the offset eats digits."""
    x = (randn(50, 6) + offset).float()
    y = (randn(50, 5, seed=1) + x[:, :5] * 0.3).float()
    wide = torch.cat([x, torch.zeros(50, 200)], dim=1)
    assert abs(linear_cka(x, y) - linear_cka(wide, y)) < 1e-10
    assert linear_cka(x, y).item() == pytest.approx(naive_cka(x.double(), y.double()), rel=1e-6)
    assert linear_cka(x, y).dtype == torch.float64


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


@pytest.mark.parametrize("columns", [2, 50])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1e-9, 1e9 / 3])
def test_constant_features_are_undefined(columns, value):
    """Although the mean of seven times 0.1 is not 0.1."""
    constant = torch.full((7, columns), value, dtype=torch.float64)
    assert linear_cka(constant, randn(7, 3)).isnan()
    assert linear_cka(randn(7, 3), constant).isnan()


@pytest.mark.parametrize(
    ("x", "y"), [((4, 2), (5, 2)), ((4, 2, 2), (4, 2)), ((4,), (4,)), ((1, 2), (1, 2))]
)
def test_wrong_shapes(x, y):
    with pytest.raises(ValueError, match="same n >= 2 samples"):
        linear_cka(torch.randn(x), torch.randn(y))


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
    """Each layer's flattened outputs, calls side by side, by hand."""
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


def test_one_batch_is_linear_cka_of_the_outputs(nets):
    model, reference = nets
    x = torch.randn(8, 1, 4, 4)
    expected = [
        linear_cka(a, b)
        for a, b in zip(features_of(model, x), features_of(reference, x), strict=True)
    ]
    similarity = layer_cka(model, reference, layers_of(model), [x])
    assert similarity.dtype == torch.float64
    torch.testing.assert_close(similarity, torch.stack(expected))
    assert similarity.max() < 0.999


def test_several_batches_average_the_terms_before_dividing(nets):
    model, reference = nets
    batches = [torch.randn(6, 1, 4, 4), 3 * torch.randn(6, 1, 4, 4)]
    terms = torch.zeros(len(NAMES), 3, dtype=torch.float64)
    for x in batches:
        pairs = zip(features_of(model, x), features_of(reference, x), strict=True)
        for row, (a, b) in zip(terms, pairs, strict=True):
            a, b = a.double(), b.double()
            row += torch.tensor([naive_hsic(a, b), naive_hsic(a, a), naive_hsic(b, b)])
    expected = terms[:, 0] / (terms[:, 1] * terms[:, 2]).sqrt()
    similarity = layer_cka(model, reference, layers_of(model), iter(batches))
    torch.testing.assert_close(similarity, expected, rtol=1e-6, atol=0)


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
    model.norm.train = lambda mode=True: pytest.fail("layer_cka called train()")
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    flags = [[module.training for module in net.modules()] for net in nets]
    layer_cka(model, reference, layers_of(model), [torch.randn(8, 1, 4, 4)])
    assert [[module.training for module in net.modules()] for net in nets] == flags
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
        assert not any(module._forward_hooks for module in net.modules())
        assert all(param.grad is None for param in net.parameters())


def test_restores_the_models_when_the_forward_pass_fails(nets):
    model, reference = nets
    with pytest.raises(RuntimeError):
        layer_cka(model, reference, layers_of(model), [torch.randn(8, 2, 4, 4)])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


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


def test_users_mistakes(nets):
    model, reference = nets
    x = torch.randn(8, 1, 4, 4)
    with pytest.raises(ValueError, match="at least one batch"):
        layer_cka(model, reference, layers_of(model), [])
    with pytest.raises(ValueError, match="did not call its layer 'unused'"):
        layer_cka(model, reference, layers_of(model, ["unused"]), [x])
    with pytest.raises(ValueError, match="Sequential has no layer 'conv'"):
        layer_cka(model, nn.Sequential(nn.Flatten()), layers_of(model), [x])
