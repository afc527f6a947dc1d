"""Centred kernel alignment (CKA): how similar the features of two layers are (Eq. 5)."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.distributed import unwrap
from smartfrz.layers import Layer
from smartfrz.tracing import Inputs, call, evaluating

_COLUMNS_AT_ONCE = 2**14


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear CKA of two sets of features of the same samples (Eq. 5; Kornblith et al., 2019).

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` in Frobenius norms, with centred columns. All sums are in float64.
    It is computed from the features' products or from the samples', whichever is cheaper.

    Args:
        x: (n, p) features of n >= 2 samples. Flatten features of more dimensions first.
        y: (n, q) features of the same samples.

    Returns:
        Scalar, float64, in [0, 1]; NaN, as it is undefined, if all columns of x or of y are
        constant.

    Raises:
        ValueError: the shapes do not fit.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(
            "linear_cka needs features (n, p) and (n, q) of the same n >= 2 samples, "
            f"not {tuple(x.shape)} and {tuple(y.shape)}."
        )
    n, p, q = len(x), x.shape[1], y.shape[1]
    if p * p + q * q + p * q < n * (p + q):
        x, y = _centred(x), _centred(y)
        return _ratio(_square(x.T @ y), _square(x.T @ x), _square(y.T @ y))
    return _ratio(*_hsic_terms(_gram(x), _gram(y)))


@torch.no_grad()
def layer_cka(
    model: nn.Module, reference: nn.Module, layers: Sequence[Layer], batches: Iterable[Inputs]
) -> Tensor:
    """CKA of each layer's output in two models of the same architecture, on the same inputs.

    A layer's output is that of its weight module, flattened to one row a sample. (Of several
    outputs, as of ``nn.MultiheadAttention``, the first counts; the first dimension must be the
    samples'. The outputs of a module that is called several times in one forward pass are
    concatenated.) Over several batches the three terms of Eq. 5 are averaged before the division,
    as in minibatch CKA (Nguyen et al., 2021); with one batch it is Eq. 5 itself.

    Both models run in eval mode and are left as they were. No features are kept: per layer and
    model only a float64 matrix of samples x samples, until its batch is done.

    Args:
        model: the one that trains; DDP and ``torch.compile`` wrappers are looked through.
        reference: the one to compare it with, on the same device.
        layers: the layers to compare, found by name in both models.
        batches: the inputs of the models, without labels: each a tensor, a tuple of arguments or a
            mapping of keyword arguments; on the models' device.

    Returns:
        (L,) float64; NaN for a layer whose output is the same for every sample.

    Raises:
        ValueError: there are no batches, or a model lacks a layer or does not call it.
    """
    terms = []
    for batch in batches:
        pairs = zip(_grams(model, layers, batch), _grams(reference, layers, batch), strict=True)
        terms.append(torch.stack([_hsic_terms(gram, other) for gram, other in pairs]))
    if not terms:
        raise ValueError("layer_cka needs at least one batch.")
    return _ratio(*torch.stack(terms).mean(dim=0).unbind(dim=1))


def _centred(features: Tensor) -> Tensor:
    """Subtracts the mean of each column; a constant column becomes exactly zero."""
    features = features.double()
    features = features - features[:1]
    return features - features.mean(dim=0)


def _gram(features: Tensor) -> Tensor:
    """XX' of the centred features, (n, n) float64; a slice of columns at a time to save memory."""
    n = len(features)
    gram = torch.zeros(n, n, dtype=torch.float64, device=features.device)
    for columns in features.split(_COLUMNS_AT_ONCE, dim=1):
        centred = _centred(columns)
        gram.addmm_(centred, centred.T)
    return gram


def _hsic_terms(gram: Tensor, other: Tensor) -> Tensor:
    """HSIC(K, L), HSIC(K, K), HSIC(L, L) of centred Gram matrices, up to one constant: (3,)."""
    return torch.stack([(gram * other).sum(), _square(gram), _square(other)])


def _square(matrix: Tensor) -> Tensor:
    return matrix.square().sum()


def _ratio(xy: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    return xy / (xx.sqrt() * yy.sqrt())


def _grams(model: nn.Module, layers: Sequence[Layer], batch: Inputs) -> list[Tensor]:
    """The Gram matrix of each layer's output on one batch."""
    model = unwrap(model)
    modules = dict(model.named_modules())
    grams: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for layer in layers:
            if layer.name not in modules:
                raise ValueError(f"{type(model).__name__} has no layer {layer.name!r}.")
            hook = modules[layer.name].register_forward_hook(partial(_add_gram, grams, layer.name))
            stack.callback(hook.remove)
        call(model, batch)
    for layer in layers:
        if layer.name not in grams:
            raise ValueError(f"{type(model).__name__} did not call its layer {layer.name!r}.")
    return [grams[layer.name] for layer in layers]


def _add_gram(
    grams: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Any
) -> None:
    """Forward hook. The Gram matrix of concatenated features is the sum of theirs."""
    features = output[0] if isinstance(output, tuple) else output
    gram = _gram(features.reshape(len(features), -1))
    grams[name] = grams[name] + gram if name in grams else gram
