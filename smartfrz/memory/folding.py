"""A frozen convolution and its frozen batch norm are one convolution."""

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.distributed import unwrap
from smartfrz.graph import (
    Call,
    Inputs,
    Stock,
    add_rule,
    remove_rule,
    rules_of,
    trace,
    trace_with_guessed_inputs,
)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(model: nn.Module, example_inputs: Inputs | None = None) -> None:
    """Folds frozen batch norms into frozen convolutions.

    The outputs, and the gradients that pass, are those of the two modules but for rounding.
    Parameters, buffers and names stay as they are, and if they change, so does what is folded; but
    not if they are changed through ``.data``, which nobody can notice: fold again then. Where a
    hook may want to see what is between the two, and in compiled code, nothing is folded. What is
    frozen or thawed later needs no further call. The folded weights are kept beside the others,
    which costs the memory of a copy of them. Undone by `unfold_batch_norms`.

    Args:
        model: any model; a DDP or ``torch.compile`` wrapper is looked through.
        example_inputs: what to call the model with, as for `find_layers`.

    Raises:
        ValueError: no example inputs were given and none could be guessed.
    """
    model = unwrap(model)
    unfold_batch_norms(model)
    device = next((param.device for param in model.parameters()), torch.device("cpu"))
    with torch.autocast(device.type, enabled=False):  # whose casts would come in between
        if example_inputs is None:
            calls = trace_with_guessed_inputs(model)
        else:
            calls = trace(model, example_inputs)
    for convolution, norm in _pairs(model, calls):
        pair = _Pair(convolution, norm)
        # Within what decides what is kept of the two for the backward pass.
        add_rule(convolution, pair.convolve, rank=2)
        # Before anything else may normalise once more.
        add_rule(norm, pair.pass_on, rank=0)


def unfold_batch_norms(model: nn.Module) -> None:
    """Undoes `fold_batch_norms`."""
    for module in unwrap(model).modules():
        for rule in rules_of(module):
            if isinstance(getattr(rule, "__self__", None), _Pair):
                remove_rule(module, rule)


class _Pair:
    """A convolution and the batch norm that its output goes to, and to nothing else."""

    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        self.convolution: Any = convolution
        self.norm: Any = norm
        self._key: list[Any] = []
        self._folded: tuple[Tensor, Tensor]
        self._output: Any = None

    def convolve(self, module: nn.Module, x: Tensor, stock: Stock) -> Tensor | None:
        """Both in one."""
        if not self._is_frozen():
            return None
        output = self.convolution._conv_forward(x, *self._weights(x.device.type))
        self._output = weakref.ref(output)
        return output

    def pass_on(self, module: nn.Module, x: Tensor, stock: Stock) -> Tensor | None:
        """What the convolution has normalised already."""
        return x if self._output is not None and self._output() is x else None

    def _is_frozen(self) -> bool:
        params = [self.convolution.weight, self.convolution.bias, self.norm.weight, self.norm.bias]
        return not (
            self.norm.training
            or any(param is not None and param.requires_grad for param in params)
            or self._has_hooks()
        )

    def _has_hooks(self) -> bool:
        """Whether anybody may see, or replace, what is between the two, or its gradient."""
        convolution, norm = self.convolution, self.norm
        return bool(
            convolution._forward_hooks
            or norm._forward_pre_hooks
            or any(each._backward_hooks or each._backward_pre_hooks for each in (convolution, norm))
            or nn.modules.module._has_any_global_hook()
        )

    def _weights(self, device: str) -> tuple[Tensor, Tensor]:
        """Weight and bias, folded anew only if what they are made of has changed."""
        norm, convolution = self.norm, self.convolution
        sources = (
            *(convolution.weight, convolution.bias, norm.weight, norm.bias),
            *(norm.running_mean, norm.running_var),
        )
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        key = [autocast, *((s.data_ptr(), s._version) for s in sources if s is not None)]
        if key != self._key:
            weight, bias = folded(convolution, norm)
            # Autocast would cast them again at every step.
            self._folded = (weight.to(autocast), bias.to(autocast)) if autocast else (weight, bias)
            self._key = key
        return self._folded

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_output": None}


@torch.no_grad()
def folded(convolution: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what these two do, by running statistics."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    weight = convolution.weight
    scaled = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight.dtype), shift.to(weight.dtype)


def _pairs(model: nn.Module, calls: list[Call]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The convolutions of a model whose output goes to a batch norm and nowhere else."""
    convolutions = {m.weight: m for m in model.modules() if type(m) in _CONVOLUTIONS}
    norms = {
        m.running_mean: m
        for m in model.modules()
        if type(m) in _BATCH_NORMS and m.running_mean is not None
    }
    users: dict[Any, list[int]] = {}
    for index, call in enumerate(calls):
        for source in call.inputs:
            users.setdefault(source, []).append(index)
    for weight, convolution in convolutions.items():
        found = users.get(weight, [])
        after = users.get(found[0], []) if len(found) == 1 else []
        if len(after) == 1:
            used = [source for source in calls[after[0]].inputs if isinstance(source, Tensor)]
            for norm in (norms[source] for source in used if source in norms):
                if len(users[norm.running_mean]) == 1:
                    yield convolution, norm
