"""Sums over the steps between two records: of steps, gradients and their products."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smartfrz.layers import Layer
from smartfrz.optimizers import learning_rates
from smartfrz.predictor.recorded import SUMS
from smartfrz.sharding import full


class StepSums:
    """Sums of each layer since the previous record, see `History`.

    Of every layer it keeps five flat copies: the weights and the gradient of the previous call, the
    weights and the probe's gradient of the previous record, and the sum of the gradients since
    then.
    """

    def __init__(self) -> None:
        self._layers: dict[str, dict[str, Tensor]] = {}

    def add(self, layers: Sequence[Layer], optimizer: Any) -> None:
        """Adds a step; called after its backward pass, and before the optimizer takes it.

        Args:
            layers: the layers.
            optimizer: the optimizer of their parameters, or several, see `optimizers_in`.
        """
        rates = learning_rates(optimizer, (layer.params[0] for layer in layers))
        for layer, rate in zip(layers, rates, strict=True):
            lr = torch.tensor(rate, dtype=torch.float64)
            self._layers[layer.name] = _after(self._layers.get(layer.name), layer, lr)

    def take(self, layers: Sequence[Layer], probe: Mapping[Tensor, Tensor]) -> dict[str, Tensor]:
        """Returns the sums of all layers, (L,) float32 on the CPU, and starts anew.

        Args:
            layers: the layers.
            probe: the gradients of the loss on held-out examples, by parameter.

        Returns:
            The values of a record by name: `SUMS`, ``gradient``, ``displacement`` and
            ``probe_contribution``.
        """
        rows = []
        for layer in layers:
            now = self._layers[layer.name]
            move = now["weights"] - now["start"]
            gradient = _flat([probe[param] for param in layer.params])
            before = now.get("probe", gradient).to(gradient.device)
            rows.append(
                [
                    *now["sums"].cpu(),
                    now["summed"].abs().sum().cpu(),
                    (move @ move).cpu(),
                    -((gradient + before) @ move).cpu() / 2,
                ]
            )
            self._layers[layer.name] = {
                **now,
                "start": now["weights"],
                "probe": gradient,
                "summed": torch.zeros_like(now["summed"]),
                "sums": torch.zeros_like(now["sums"]),
            }
        names = (*SUMS, "gradient", "displacement", "probe_contribution")
        return {
            name: torch.stack(list(values)).float()
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums so far, and what the next step is compared with."""
        return {name: dict(values) for name, values in self._layers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._layers = {name: dict(values) for name, values in state.items()}


def _after(before: dict[str, Tensor] | None, layer: Layer, lr: Tensor) -> dict[str, Tensor]:
    """Returns a layer's values after another step; values are replaced, not changed in place."""
    weights = _flat([param.detach() for param in layer.params])
    gradient = _flat([_gradient(param) for param in layer.params])
    if before is None:
        nothing = torch.zeros_like(weights)
        before = {"weights": weights, "gradient": nothing, "start": weights, "summed": nothing}
        before["sums"] = weights.new_zeros(len(SUMS), dtype=torch.float64)
        before["lr"] = torch.zeros_like(lr)
    # A state from a checkpoint may be on another device.
    before = {name: value.to(weights.device) for name, value in before.items()}
    step = weights - before["weights"]
    last = before["gradient"]
    added = [-gradient @ step, -last @ step, step @ step, gradient @ gradient, gradient @ last]
    return {
        **before,
        "weights": weights,
        "gradient": gradient,
        "summed": before["summed"] + gradient,
        "sums": before["sums"] + torch.stack([*(each.double() for each in added), before["lr"]]),
        "lr": lr,
    }


def _gradient(param: Tensor) -> Tensor:
    return torch.zeros_like(param) if param.grad is None else param.grad


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """Returns a copy of all elements as a float32 vector, complex numbers as pairs of real ones."""
    wholes = (full(tensor) for tensor in tensors)
    reals = (torch.view_as_real(each) if each.is_complex() else each for each in wholes)
    return torch.cat([each.flatten().float() for each in reals])
