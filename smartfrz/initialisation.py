"""Whether a model's weights are pretrained or as they were initialised."""

from collections.abc import Iterable
from statistics import median

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.sharding import full

_STEPS = 8
_SMALLEST = 4
_LARGEST_RATIO = 1.1


def is_pretrained(layers: Iterable[Layer]) -> bool:
    """Whether the weights of most layers have learned something.

    Training adds directions to a random matrix along which it is far larger than by chance. The
    median `spectral_ratio` over all layers but the heads is compared with a fixed bound above 1.

    Args:
        layers: the layers of a model; if it is sharded, all processes must call this function.
    """
    matrices = [
        max((p for p in layer.params if p.ndim >= 2), key=Tensor.numel, default=None)
        for layer in layers
        if not layer.is_head
    ]
    ratios = [spectral_ratio(full(each.detach())) for each in matrices if each is not None]
    known = [ratio for ratio in ratios if ratio is not None]
    return bool(known) and median(known) > _LARGEST_RATIO


@torch.no_grad()
def spectral_ratio(weight: Tensor) -> float | None:
    """Compares a matrix's largest singular value with that of random matrices of its size.

    A matrix of m x n independent entries with mean 0 and root mean square s has a largest singular
    value of about ``s (sqrt(m) + sqrt(n))``, whatever their distribution (the edge of the
    Marchenko-Pastur law). See Martin and Mahoney, "Implicit Self-Regularization in Deep Neural
    Networks", JMLR 2021. The largest singular value is found by a few power iterations from a fixed
    vector.

    Args:
        weight: (m, ...); dimensions from the second on are flattened.

    Returns:
        The quotient; None if a side of the matrix is below 4, or all weights are zero.
    """
    matrix = (torch.view_as_real(weight) if weight.is_complex() else weight).flatten(1).float()
    rms = matrix.square().mean().sqrt()
    if min(matrix.shape) < _SMALLEST or not rms > 0:
        return None
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[1], generator=generator).to(matrix.device)
    for _ in range(_STEPS):
        vector = matrix.T @ (matrix @ vector)
        vector /= vector.norm()
    edge = rms * (matrix.shape[0] ** 0.5 + matrix.shape[1] ** 0.5)
    return float((matrix @ vector).norm() / edge)
