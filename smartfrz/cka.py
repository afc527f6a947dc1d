"""Centred kernel alignment (CKA): how similar the features of two layers are (Eq. 5)."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.distributed import unwrap
from smartfrz.graph import Inputs, call, evaluating
from smartfrz.layers import Layer

_COLUMNS_AT_ONCE = 2**14


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = False) -> Tensor:
    """Linear CKA of two sets of features of the same samples (Eq. 5; Kornblith et al., 2019).

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` in Frobenius norms, with centred columns. With few samples of many
    features that is too high, however different x and y are; the unbiased form replaces the three
    squared norms, which are HSIC up to a constant, by unbiased estimates of HSIC (Song et al.,
    2012). All sums are in float64, of the features' products or of the samples', whichever is
    cheaper; the unbiased form's are always of the samples'.

    Args:
        x: (n, p) features of n >= 2 samples. Flatten features of more dimensions first.
        y: (n, q) features of the same samples.
        unbiased: estimate HSIC without bias; needs n >= 4.

    Returns:
        Scalar, float64, at most 1, and at least 0 unless ``unbiased``; NaN, as it is undefined, if
        all columns of x or of y are constant.

    Raises:
        ValueError: the shapes do not fit.
    """
    least = 4 if unbiased else 2
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < least:
        raise ValueError(
            f"linear_cka needs features (n, p) and (n, q) of the same n >= {least} samples, "
            f"not {tuple(x.shape)} and {tuple(y.shape)}."
        )
    n, p, q = len(x), x.shape[1], y.shape[1]
    if not unbiased and p * p + q * q + p * q < n * (p + q):
        x, y = _centred(x), _centred(y)
        return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    x_gram, y_gram = _gram(x), _gram(y)
    if unbiased:
        x_gram, y_gram = _u_centred(x_gram), _u_centred(y_gram)
    return (x_gram * y_gram).sum() / (x_gram.norm() * y_gram.norm())


@torch.no_grad()
def gram_vectors(model: nn.Module, layers: Sequence[Layer], batches: Iterable[Inputs]) -> Tensor:
    """What CKA compares: the dot product of a layer's vectors in two models is its CKA.

    A layer's output is that of its weight module, flattened to one row a sample. (Of several
    outputs, as of ``nn.MultiheadAttention``, the first counts; the first dimension must be the
    samples'. The outputs of a module that is called several times in one forward pass are
    concatenated.) Its vector holds the U-centred Gram matrix of each batch, scaled to length 1 as
    a whole. The dot product is unbiased minibatch CKA (Nguyen et al., 2021, Eqs. 2-3): estimates
    of HSIC, unbiased as in `linear_cka`, are averaged over the batches before the division
    (those from n samples with weight n (n - 3)). So, but for noise, it does not depend on the size
    and number of the batches.

    The model runs in eval mode and is left as it was.

    Args:
        model: the model; DDP and ``torch.compile`` wrappers are looked through.
        layers: which of its layers, found by name.
        batches: its inputs, without labels: each a tensor, a tuple of arguments or a mapping of
            keyword arguments, the first tensor of which has n >= 4 rows; on the model's device.

    Returns:
        (L, sum of the batches' n * n) float64, on the model's device; NaN for a layer whose output
        is the same for every sample, or a single row for all of them, as that of position
        embeddings.

    Raises:
        ValueError: there are no batches or one is too small; or the model lacks a layer, does not
            call it, or its output has neither n rows nor one.
    """
    grams = [_grams(model, layers, batch).flatten(1) for batch in batches]
    if not grams:
        raise ValueError("CKA needs at least one batch.")
    vectors = torch.cat(grams, dim=1)
    return vectors / vectors.norm(dim=1, keepdim=True)


def layer_cka(
    model: nn.Module, reference: nn.Module, layers: Sequence[Layer], batches: Iterable[Inputs]
) -> Tensor:
    """CKA of each layer's output in two models of the same architecture, on the same inputs.

    Args:
        model: the one model.
        reference: the other, on the same device.
        layers: the layers to compare, found by name in both models.
        batches: as in `gram_vectors`, the vectors of which are compared.

    Returns:
        (L,) float64; NaN where a vector is.
    """
    batches = list(batches)
    vectors = (gram_vectors(each, layers, batches) for each in (model, reference))
    return torch.linalg.vecdot(*vectors)


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


def _u_centred(gram: Tensor) -> Tensor:
    """U-centring: <A, B> of two such matrices is n (n - 3) times the unbiased HSIC.

    Source: Szekely & Rizzo (2014), Definition 2; equal to HSIC_1 of Song et al. (2012), Eq. 5.
    """
    n = len(gram)
    gram = gram - torch.diag(gram.diagonal())
    rows = gram.sum(dim=0) / (n - 2)
    gram = gram - rows - rows[:, None] + gram.sum() / ((n - 1) * (n - 2))
    return gram.fill_diagonal_(0)


def _grams(model: nn.Module, layers: Sequence[Layer], batch: Inputs) -> Tensor:
    """The U-centred Gram matrices of the layers' outputs on one batch, (L, n, n)."""
    n = _samples(batch)
    if n < 4:
        raise ValueError(f"CKA of layers needs batches of at least 4 samples, not {n}.")
    model = unwrap(model)
    modules = dict(model.named_modules())
    grams: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for layer in layers:
            if layer.name not in modules:
                raise ValueError(f"{type(model).__name__} has no layer {layer.name!r}.")
            hook = partial(_add_gram, grams, layer.name, n)
            stack.callback(modules[layer.name].register_forward_hook(hook).remove)
        call(model, batch)
    for layer in layers:
        if layer.name not in grams:
            raise ValueError(f"{type(model).__name__} did not call its layer {layer.name!r}.")
    return torch.stack([_u_centred(grams[layer.name]) for layer in layers])


def _samples(batch: Inputs) -> int:
    if isinstance(batch, Tensor):
        return len(batch)
    arguments = batch.values() if isinstance(batch, Mapping) else batch
    return next(len(each) for each in arguments if isinstance(each, Tensor))


def _add_gram(
    grams: dict[str, Tensor], name: str, n: int, module: nn.Module, inputs: Any, output: Any
) -> None:
    """Forward hook. The Gram matrix of concatenated features is the sum of theirs."""
    features = output[0] if isinstance(output, tuple) else output
    rows = len(features)
    if rows not in (1, n):
        raise ValueError(f"The output of layer {name!r} has {rows} rows for {n} samples.")
    gram = _gram(features.reshape(rows, -1).expand(n, -1))
    grams[name] = grams[name] + gram if name in grams else gram
