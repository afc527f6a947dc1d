"""Tests of copies and compiled forms of a model after each call that changes its forward pass."""

import copy
import inspect
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import SGD

from smartfrz import FeatureCache, Freezer, fold_batch_norms, save_memory
from smartfrz.memory.activations import activation_bytes
from tests.helpers.scripted import Scripted

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def frozen() -> tuple[nn.Module, Freezer]:
    """A model with most modules that `save_memory` changes, in the step of a freeze."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.ConvTranspose2d(4, 4, 1)),
        *(nn.ReLU(), nn.Dropout(0.0), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["0", "4"]}))
    model(X).sum().backward()
    freezer.step()
    return model, freezer


def cache_features(model: nn.Module, freezer: Freezer) -> None:
    cache = FeatureCache(freezer, dropout="eval")
    for _ in range(3):
        cache([0, 1], X)
    assert cache.cut


CHANGES: dict[str, Callable[[nn.Module, Freezer], None]] = {
    "Freezer": lambda model, freezer: None,
    "save_memory": lambda model, freezer: save_memory(model),
    "fold_batch_norms": lambda model, freezer: fold_batch_norms(model, X),
    "FeatureCache": cache_features,
    "all": lambda model, freezer: [change(model, freezer) for change in list(CHANGES.values())[:4]],
}


def through_torchscript(model: nn.Module, compiled: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.jit.save(compiled, file)
    file.seek(0)
    return torch.jit.load(file)


def through_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


FORMS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "jit.script": lambda model: through_torchscript(model, torch.jit.script(model)),
    "jit.trace": lambda model: through_torchscript(model, torch.jit.trace(model, X)),
    "export": lambda model: torch.export.export(model, (X,)).module(),
    "strict export": lambda model: torch.export.export(model, (X,), strict=True).module(),
    "fx.symbolic_trace": torch.fx.symbolic_trace,
    "make_fx": lambda model: make_fx(model)(X),
    "compile": lambda model: torch.compile(model, backend="aot_eager", fullgraph=True),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch_save,
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()


# Those with `torch.compile` are also in the tests of each call.
QUICK = [("all", form) for form in FORMS if form not in ("compile", "strict export")]


@pytest.mark.parametrize(
    ("change", "form"),
    [
        pytest.param(change, form, marks=() if (change, form) in QUICK else pytest.mark.slow)
        for change in CHANGES
        for form in FORMS
    ],
)
def test_any_form_of_a_model_computes_the_same(change: str, form: str):
    model, freezer = frozen()
    stock = copy.deepcopy(model)
    torch.manual_seed(1)
    CHANGES[change](model, freezer)
    other = FORMS[form](model)
    assert_same(other, stock)
    # The model itself goes on as before.
    size = activation_bytes(lambda: model(X), [*model.parameters(), *model.buffers()])
    stock_size = activation_bytes(lambda: stock(X), [*stock.parameters(), *stock.buffers()])
    assert (size < stock_size) == (change in ("save_memory", "all"))


def assert_same(other: Callable[[Tensor], Tensor], stock: nn.Module) -> None:
    x, y = (X.clone().requires_grad_() for _ in range(2))
    output, expected = other(x), stock(y)
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_module_with_rules_has_the_signature_of_its_class():
    conv = nn.Conv2d(3, 4, 1)
    expected = inspect.signature(conv.forward)
    save_memory(conv)
    assert inspect.signature(conv.forward) == expected
