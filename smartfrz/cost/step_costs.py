"""The cost of an optimizer step for any set of frozen layers."""

from collections.abc import Collection, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from smartfrz.cost.flops import forward_macs, training_flops
from smartfrz.distributed import unwrap
from smartfrz.graph import Call, Inputs, Source, trace, trace_with_guessed_inputs
from smartfrz.layers import Layer


class StepCosts:
    """The compute of an optimizer step with frozen layers, as a fraction of a step with none.

    One forward pass is traced at construction, and every set of layers is counted once, see
    `training_flops`:

        costs = StepCosts(model, find_layers(model))
        costs([])  # 1.0
        costs(["conv1", "layer1.0.conv1"])

    Parameters that belong to none of the layers always train. Neither the model nor its weights are
    referred to after construction.

    Args:
        model: the model. If it is sharded by ``fully_shard``, all processes must make the object.
        layers: its layers, the heads included.
        example_inputs: inputs for the model, as in `find_layers`; guessed by default.

    Raises:
        ValueError: no example inputs were given and none could be guessed.
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[Layer], example_inputs: Inputs | None = None
    ) -> None:
        model = unwrap(model)
        if example_inputs is None:
            calls = trace_with_guessed_inputs(model)
        else:
            calls = trace(model, example_inputs)
        layers = list(layers)
        in_layers = {param for layer in layers for param in layer.params}
        rest = [p for p in model.parameters() if p.requires_grad and p not in in_layers]
        # Weights stay in memory if they are referred to after ``fully_shard`` has replaced them.
        empty = {p: nn.Parameter(torch.empty(0, device="meta")) for p in (*in_layers, *rest)}
        self._calls = [_with_sources(call, empty) for call in calls]
        self._rest = [empty[param] for param in rest]
        self._params = {layer.name: [empty[param] for param in layer.params] for layer in layers}
        self._known: dict[tuple[frozenset[str], bool], float] = {}

    def __call__(self, frozen: Collection[str], input_gradients: bool = False) -> float:
        """Returns the cost of a step, in steps with no layer frozen.

        Args:
            frozen: names of the frozen layers.
            input_gradients: whether the model's inputs require a gradient.

        Raises:
            ValueError: there is no layer of that name.
        """
        key = frozenset(frozen), input_gradients
        if key not in self._known:
            unknown = sorted(key[0] - self._params.keys())
            if unknown:
                raise ValueError(f"The model has no layers {unknown}: it has {[*self._params]}.")
            self._known[key] = self._flops(*key) / self._flops(frozenset(), input_gradients)
        return self._known[key]

    def share(self, name: str) -> float:
        """Returns the share of the forward pass that a layer's own products take.

        Args:
            name: the name of a layer.
        """
        own = {id(param) for param in self._params[name]}
        macs = sum(
            product.macs
            for call in self._calls
            for product in call.products
            if not product.is_norm
            and any(id(source) in own for operand in product.operands for source in operand)
        )
        return macs / max(1, forward_macs(self._calls))

    @property
    def forward(self) -> float:
        """The cost of the forward pass of a step, in steps with no layer frozen."""
        return training_flops(self._calls, []) / self._flops(frozenset(), input_gradients=False)

    def _flops(self, frozen: frozenset[str], input_gradients: bool) -> int:
        active = (params for name, params in self._params.items() if name not in frozen)
        trains = [*self._rest, *(param for params in active for param in params)]
        return training_flops(self._calls, trains, input_gradients=input_gradients)


def _with_sources(call: Call, others: dict[nn.Parameter, nn.Parameter]) -> Call:
    """Returns a call in which other parameters take the place of its own."""

    def replaced(sources: Iterable[Source]) -> tuple[Source, ...]:
        return tuple(map(other, sources))

    def other(source: Source) -> Source:
        if isinstance(source, nn.Parameter):
            return others.get(source, _FIXED)
        return _FIXED if isinstance(source, Tensor) else source

    products = tuple(
        replace(each, operands=(replaced(each.operands[0]), replaced(each.operands[1])))
        for each in call.products
    )
    return replace(
        call,
        inputs=replaced(call.inputs),
        products=products,
        differentiable=replaced(call.differentiable),
    )


_FIXED = torch.empty(0, device="meta")
"""Stands for buffers and for parameters that do not train."""
