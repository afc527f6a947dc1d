"""Centred kernel alignment (CKA), the similarity of two layers' features (Eq. 5)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from smartfrz.graph import Inputs, visit_outputs
from smartfrz.layers import Layer

_COLUMNS_AT_ONCE = 2**14


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = False) -> Tensor:
    """Computes linear CKA of two sets of features of the same samples.

    Source: Eq. 5; Kornblith et al. (2019).

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` in Frobenius norms, with centred columns. With few samples of many
    features this value is too high, however different x and y are. The unbiased form replaces the
    three squared norms, which are HSIC up to a constant, by unbiased estimates of HSIC (Song et
    al., 2012). Sums are in float64, over products of features or Gram matrices of samples,
    whichever is cheaper. The unbiased form always uses Gram matrices. Complex features count as
    pairs of real ones.

    Args:
        x: (n, p) features of n >= 2 samples. Flatten features with more dimensions first.
        y: (n, q) features of the same samples.
        unbiased: whether to estimate HSIC without bias; requires n >= 4.

    Returns:
        Scalar, float64, at most 1, and at least 0 unless ``unbiased``. NaN if all columns of x or
        of y are constant, where CKA is undefined.

    Raises:
        ValueError: the shapes do not match, or there are too few samples.
    """
    least = 4 if unbiased else 2
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < least:
        raise ValueError(
            f"linear_cka needs features (n, p) and (n, q) of the same n >= {least} samples, "
            f"not {tuple(x.shape)} and {tuple(y.shape)}."
        )
    x, y = _real(x), _real(y)
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
    """Computes a vector per layer whose dot product with that of another model is the layer's CKA.

    A layer's output is the output of its weight module, flattened to one row per sample. Of several
    outputs, such as those of ``nn.MultiheadAttention``, the first is used; its first dimension must
    index the samples. The outputs of a module that is called several times in one forward pass are
    concatenated. The vector contains the U-centred Gram matrices of all batches and is scaled to
    length 1. The dot product is unbiased minibatch CKA (Nguyen et al., 2021, Eqs. 2-3): unbiased
    estimates of HSIC, as in `linear_cka`, are averaged over the batches before the division, with
    weight n (n - 3) for a batch of n samples. Apart from noise, it therefore does not depend on the
    size and number of the batches.

    The model runs in eval mode, and its state is not changed.

    Args:
        model: the model; DDP and ``torch.compile`` wrappers are unwrapped.
        layers: the layers to compare, found by name.
        batches: inputs of the model, without labels, on the model's device. Each is a tensor, a
            tuple of arguments or a mapping of keyword arguments; its first tensor has n >= 4 rows.

    Returns:
        (L, sum of the batches' n * n) float64, on the model's device. NaN for a layer whose output
        is the same for every sample, or has a single row for all samples, such as position
        embeddings.

    Raises:
        ValueError: there are no batches, a batch is too small, the model lacks a layer or does not
            call it, or a layer's output has neither n rows nor one.
    """
    grams = [_grams(model, layers, batch).flatten(1) for batch in batches]
    if not grams:
        raise ValueError("CKA needs at least one batch of inputs.")
    vectors = torch.cat(grams, dim=1)
    return vectors / vectors.norm(dim=1, keepdim=True)


def _centred(features: Tensor) -> Tensor:
    """Subtracts the mean of each column; a constant column becomes exactly zero."""
    features = features.double()
    features = features - features[:1]
    return features - features.mean(dim=0)


def _real(features: Tensor) -> Tensor:
    """Returns (n, p) complex features as (n, 2p) real ones; real features as they are."""
    return torch.view_as_real(features).flatten(1) if features.is_complex() else features


def _gram(features: Tensor) -> Tensor:
    """Computes XX' of the centred features, (n, n) float64, in slices of columns to save memory."""
    n = len(features)
    gram = torch.zeros(n, n, dtype=torch.float64, device=features.device)
    for columns in features.split(_COLUMNS_AT_ONCE, dim=1):
        centred = _centred(columns)
        gram.addmm_(centred, centred.T)
    return gram


def _u_centred(gram: Tensor) -> Tensor:
    """U-centres a Gram matrix: <A, B> of two such matrices is n (n - 3) times the unbiased HSIC.

    Source: Szekely & Rizzo (2014), Definition 2; equal to HSIC_1 of Song et al. (2012), Eq. 5.
    """
    n = len(gram)
    gram = gram - torch.diag(gram.diagonal())
    rows = gram.sum(dim=0) / (n - 2)
    gram = gram - rows - rows[:, None] + gram.sum() / ((n - 1) * (n - 2))
    return gram.fill_diagonal_(0)


def _grams(model: nn.Module, layers: Sequence[Layer], batch: Inputs) -> Tensor:
    """Computes the U-centred Gram matrices of the layers' outputs on one batch, (L, n, n)."""
    n = samples_in(batch)
    if n < 4:
        raise ValueError(f"CKA of layers needs batches of at least 4 samples, not {n}.")
    grams: dict[str, Tensor] = {}
    visit_outputs(model, [layer.name for layer in layers], batch, partial(_add_gram, grams, n))
    return torch.stack([_u_centred(grams[layer.name]) for layer in layers])


def samples_in(batch: Inputs) -> int:
    """Returns the number of samples in a batch: the rows of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    arguments = batch.values() if isinstance(batch, Mapping) else batch
    return next(len(each) for each in arguments if isinstance(each, Tensor))


def _add_gram(
    grams: dict[str, Tensor], n: int, name: str, module: nn.Module, features: Tensor
) -> None:
    """Adds a Gram matrix: that of concatenated outputs is the sum of their Gram matrices."""
    rows = len(features)
    if rows not in (1, n):
        raise ValueError(
            f"The output of layer {name!r} has {rows} rows for {n} samples; CKA needs one row per "
            "sample."
        )
    gram = _gram(_real(features.reshape(rows, -1)).expand(n, -1))
    grams[name] = grams[name] + gram if name in grams else gram
