"""Sums over the steps between two records: of steps, gradients and their products."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from smartfrz.layers import Layer
from smartfrz.sharding import full

SUMS = ("contribution", "path", "gradient_square", "gradient_product", "lr")


class StepSums:
    """Sums of each layer since the previous record, see `History`.

    Of every layer it keeps four flat copies: the weights and the gradient of the previous call, the
    weights of the previous record, and the sum of the gradients since then.
    """

    def __init__(self) -> None:
        self._layers: dict[str, dict[str, Tensor]] = {}

    def add(self, layers: Sequence[Layer], optimizers: Iterable[Optimizer]) -> None:
        """Adds a step; called after its backward pass, and before the optimizer takes it.

        Args:
            layers: the layers.
            optimizers: the optimizers of their parameters.
        """
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = {param: float(group["lr"]) for group in groups for param in group["params"]}
        for layer in layers:
            lr = torch.tensor(rates.get(layer.params[0], 0.0), dtype=torch.float64)
            self._layers[layer.name] = _after(self._layers.get(layer.name), layer, lr)

    def take(self, layers: Sequence[Layer]) -> dict[str, Tensor]:
        """Returns the sums of all layers, (L,) float32 on the CPU, and starts anew.

        Returns:
            The values of a record by name: `SUMS`, ``gradient`` and ``displacement``.
        """
        now = [self._layers[layer.name] for layer in layers]
        sums = torch.stack([each["sums"].cpu() for each in now], dim=1).float()
        gradient = [each["summed"].abs().sum().cpu() for each in now]
        displacement = [(each["weights"] - each["start"]).square().sum().cpu() for each in now]
        for layer, each in zip(layers, now, strict=True):
            self._layers[layer.name] = {
                **each,
                "start": each["weights"],
                "summed": torch.zeros_like(each["summed"]),
                "sums": torch.zeros_like(each["sums"]),
            }
        return {
            **dict(zip(SUMS, sums, strict=True)),
            "gradient": torch.stack(gradient).float(),
            "displacement": torch.stack(displacement).float(),
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
    added = [-gradient @ step, step @ step, gradient @ gradient, gradient @ before["gradient"]]
    return {
        "weights": weights,
        "gradient": gradient,
        "start": before["start"],
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
