"""SVCCA freezing: layers freeze from the front once their outputs stand still.

Raghu et al., "SVCCA: Singular Vector Canonical Correlation Analysis for Deep Learning Dynamics and
Interpretability", 2017 (arXiv:1706.05806), compare a layer's outputs at two moments of training by
SVCCA, find that layers converge from the bottom up, and freeze them in this order, at fixed
moments. He et al., "PipeTransformer", 2021 (arXiv:2102.03161), to whom the SmartFRZ paper
attributes freezing by the SVCCA score, motivate freezing from the front by that finding, but decide
by gradient norms. The rule that decides by the score itself, and its tolerance, are therefore ours.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

from smartfrz import Layer
from smartfrz.graph import Inputs, visit_outputs
from smartfrz.policies import PeriodicComparison

# SVCCA needs several times as many examples as directions; more of them only take time.
_EXAMPLES = 4096


def svcca(x: Tensor, y: Tensor, variance: float = 0.99) -> Tensor:
    """Computes the SVCCA similarity of two sets of features of the same examples.

    Source: Raghu et al. (2017), Section 2.1.

    The centred features of each side are projected onto their first singular directions, as many
    as explain ``variance``. The result is the mean of the canonical correlations between the two
    subspaces, of which there are as many as the smaller subspace has dimensions. With few examples
    it is too high: it is 1 if the two subspaces together have more dimensions than there are
    examples. Complex features count as pairs of real ones.

    Args:
        x: (n, p) features of n examples.
        y: (n, q) features of the same examples.
        variance: fraction of the variance that the kept directions explain, above 0 and below 1.

    Returns:
        Scalar, float64, in [0, 1]. NaN if all columns of x or of y are constant, or a value is not
        finite.

    Raises:
        ValueError: the shapes do not match, or ``variance`` is out of range.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            "svcca needs features (n, p) and (n, q) of the same n examples, not "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    if not 0 < variance < 1:
        raise ValueError(f"variance={variance} must be above 0 and below 1.")
    return _mean_correlation(_directions(x, variance), _directions(y, variance))


def _directions(features: Tensor, variance: float) -> Tensor:
    """Returns the first left singular vectors of the centred features, (n, k) float64."""
    if features.is_complex():
        features = torch.view_as_real(features).flatten(1)
    if not features.isfinite().all():
        return features[:, :0].double()
    features = features.double()
    features = features - features[:1]  # a constant column becomes exactly zero
    features = features - features.mean(dim=0)
    # Several times faster than an SVD, and accurate enough for directions of much variance.
    is_wide = features.shape[0] < features.shape[1]
    product = features @ features.T if is_wide else features.T @ features
    squares, vectors = (ascending.flip(-1) for ascending in torch.linalg.eigh(product))
    explained = squares.cumsum(dim=0)
    kept = int((explained - squares < variance * explained[-1]).sum())
    vectors = vectors[:, :kept]
    return vectors if is_wide else features @ vectors / squares[:kept].sqrt()


def _mean_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Returns the mean canonical correlation of two subspaces, NaN if one has no dimension."""
    return torch.linalg.svdvals(x.double().T @ y.double()).mean().clamp(max=1)


def _examples(module: nn.Module, output: Tensor, most: int, seed: int) -> Tensor:
    """Returns a module's output at random positions, (at most ``most``, channels)."""
    is_convolution = isinstance(module, nn.modules.conv._ConvNd)
    channels_last = output.movedim(1, -1) if is_convolution else output
    rows = channels_last.reshape(-1, channels_last.shape[-1])
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
    return rows if len(rows) <= most else rows[chosen.to(rows.device)]


class SVCCA(PeriodicComparison[Tensor]):
    """Policy: freezes layers from the front once SVCCA finds that their outputs stand still.

    Once in an interval, the model is run on a fixed probe, which counts as compute spent. A layer
    freezes if the SVCCA similarity between its output and that of the previous look is at least
    ``1 - tolerance``, and if all preceding layers freeze or are frozen (Raghu et al., 2017, freeze
    in this order). Nothing is frozen if no layer's weights have moved since then, as when a
    `GradScaler` skips steps.

    A layer's output is that of its weight module. Each position of the output is an example, with
    as many features as there are channels, as Raghu et al. do to compare a convolution with itself
    at another time. Of these, the same random 4096 are used at each look, if there are more.
    SVCCA hardly sees a change that a linear map can undo: a first layer with more channels than
    inputs freezes at the second look.

    Args:
        model: the model to train.
        probe: batches of inputs on which the outputs are compared.
        interval: steps between two looks.
        batch_size: the number of examples of an optimizer step, in all processes together.
        tolerance: largest distance of the similarity from 1 at which a layer stands still. Neither
            source has one; the default is ours.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Iterable[Inputs],
        interval: int,
        batch_size: int,
        tolerance: float = 0.01,
    ) -> None:
        super().__init__(interval, probe, batch_size)
        self.model, self.tolerance = model, tolerance

    def stable(
        self, layers: Sequence[Layer], last: Mapping[str, Tensor], now: Mapping[str, Tensor]
    ) -> list[Layer]:
        """Returns the first layers, up to the first whose output still changes."""

        def stands_still(layer: Layer) -> bool:
            if layer.name not in last:
                return False
            directions = now[layer.name]
            # NaN compares false: the layer stays active.
            similarity = _mean_correlation(last[layer.name].to(directions.device), directions)
            return bool(similarity >= 1 - self.tolerance)

        return list(takewhile(stands_still, layers))

    @torch.no_grad()
    def measured(self, layers: Sequence[Layer]) -> dict[str, Tensor]:
        """Returns the directions of each layer's outputs, (examples, k)."""
        parts: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
        per_batch = math.ceil(_EXAMPLES / len(self.probe))
        for seed, batch in enumerate(self.probe):

            def add(name: str, module: nn.Module, output: Tensor, seed: int = seed) -> None:
                parts[name].append(_examples(module, output, per_batch, seed))

            visit_outputs(self.model, parts, batch, add)
        # Single precision halves the memory and changes similarities by less than a millionth.
        return {name: _directions(torch.cat(parts.pop(name)), 0.99).float() for name in [*parts]}
