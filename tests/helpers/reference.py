"""Reference implementations of quantities that the library computes in other ways."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from smartfrz.cka import gram_vectors
from smartfrz.graph import Inputs
from smartfrz.layers import Layer
from smartfrz.predictor import AttentionPredictor, sample_positions


def layer_cka(
    model: nn.Module, reference: nn.Module, layers: Sequence[Layer], batches: Iterable[Inputs]
) -> Tensor:
    """Computes CKA of each layer's output in two models of the same architecture.

    Args:
        model: one model.
        reference: the other model, on the same device.
        layers: the layers to compare, found by name in both models.
        batches: inputs, as in `gram_vectors`.

    Returns:
        (L,) float64; NaN for a layer whose vector is NaN.
    """
    batches = list(batches)
    vectors = (gram_vectors(each, layers, batches) for each in (model, reference))
    return torch.linalg.vecdot(*vectors)


def attention_weights(
    predictor: AttentionPredictor, history: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Returns the attention that a predictor pays to each record (alpha of Eq. 2).

    It is the output of ``predictor.decide`` for one-hot values and without the classifier.

    Args:
        predictor: the predictor.
        history: (L, T, size), as in ``predictor.forward``.
        valid: (L, T) bool, as in ``predictor.forward``.

    Returns:
        (L, T); 0 before the window.
    """
    records, attended = predictor.encode(history, valid)
    recent = records[:, -predictor.window :]
    one_hot = torch.eye(recent.shape[1], dtype=recent.dtype).expand(len(recent), -1, -1)
    without_classifier = copy.deepcopy(predictor)
    without_classifier.mlp_z = nn.Sequential()
    alpha = without_classifier.decide(
        records[:, -1], predictor.mlp_k(recent), one_hot, attended[:, -predictor.window :]
    )
    before = alpha.new_zeros(len(alpha), records.shape[1] - recent.shape[1])
    return torch.cat([before, alpha], dim=1)


def tailored(layer: Layer, size: int = 1024) -> Tensor:
    """Returns a layer's sampled weights, (size,) float32, read by position."""
    weights = [param for param in layer.params if param.ndim >= 2] or list(layer.params)
    pairs = zip(weights, sample_positions(layer, size), strict=True)
    return torch.cat([weight.detach().take(positions) for weight, positions in pairs]).float()
