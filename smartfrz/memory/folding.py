"""Folding of frozen batch norms into frozen convolutions."""

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from smartfrz.distributed import unwrap
from smartfrz.graph import (
    Call,
    Inputs,
    Stock,
    add_rule,
    remove_rule,
    rules_of,
    storage_of,
    trace,
    trace_with_guessed_inputs,
)
from smartfrz.sharding import sharded_modules

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(model: nn.Module, example_inputs: Inputs | None = None) -> None:
    """Folds frozen batch norms into frozen convolutions.

    Outputs and the gradients that are passed on equal those of the two modules up to rounding.
    Parameters, buffers and names do not change. If parameters or buffers are modified, the folded
    weights are updated, except after changes through ``.data``, which cannot be detected: call this
    function again. Nothing is folded in compiled code, or where a hook could observe the output of
    the convolution. Layers that are frozen or thawed later need no further call. The folded weights
    are an additional copy in memory. Undone by `unfold_batch_norms`.

    Args:
        model: any model; DDP and ``torch.compile`` wrappers are unwrapped.
        example_inputs: inputs for the model, as in `find_layers`.

    Raises:
        ValueError: no example inputs were given and none could be guessed, or the model is sharded
            by ``fully_shard``.
    """
    model = unwrap(model)
    if sharded_modules(model):
        raise ValueError(
            "fold_batch_norms keeps a whole copy of the folded weights and does not support models "
            "sharded by fully_shard. Use save_memory alone."
        )
    unfold_batch_norms(model)
    device = next((param.device for param in model.parameters()), torch.device("cpu"))
    with torch.autocast(device.type, enabled=False):  # without casts between the two
        if example_inputs is None:
            calls = trace_with_guessed_inputs(model)
        else:
            calls = trace(model, example_inputs)
    for convolution, norm in _pairs(model, calls):
        pair = _Pair(convolution, norm)
        # Inside the rule of `save_memory`, which then restricts what both save.
        add_rule(convolution, pair.convolve, rank=2)
        # Before any other rule, which would normalise a second time.
        add_rule(norm, pair.pass_on, rank=0)


def unfold_batch_norms(model: nn.Module) -> None:
    """Undoes `fold_batch_norms`."""
    for module in unwrap(model).modules():
        for rule in rules_of(module):
            if isinstance(getattr(rule, "__self__", None), _Pair):
                remove_rule(module, rule)


class _Pair:
    """A convolution and the batch norm that is the only user of its output."""

    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        self.convolution: Any = convolution
        self.norm: Any = norm
        self._key: list[Any] = []
        self._storages: list[StorageWeakRef] = []
        self._folded: tuple[Tensor, Tensor] | None = None
        self._output: Any = None

    def convolve(self, module: nn.Module, x: Tensor, stock: Stock) -> Tensor | None:
        """Rule for the convolution: computes both modules at once if they are frozen."""
        if not self._is_frozen():
            return None
        output = self.convolution._conv_forward(x, *self._weights(x.device.type))
        self._output = weakref.ref(output)
        return output

    def pass_on(self, module: nn.Module, x: Tensor, stock: Stock) -> Tensor | None:
        """Rule for the norm: returns an input that the convolution has already normalised."""
        return x if self._output is not None and self._output() is x else None

    def _is_frozen(self) -> bool:
        # Changes of inference tensors cannot be detected.
        return not (
            self.norm.training
            or any(source.requires_grad or source.is_inference() for source in self._sources())
            or self._has_hooks()
        )

    def _has_hooks(self) -> bool:
        """Whether a hook could observe or replace the tensor between the two, or its gradient."""
        convolution, norm = self.convolution, self.norm
        return bool(
            convolution._forward_hooks
            or norm._forward_pre_hooks
            or any(each._backward_hooks or each._backward_pre_hooks for each in (convolution, norm))
            or nn.modules.module._has_any_global_hook()
        )

    def _sources(self) -> list[Tensor]:
        convolution, norm = self.convolution, self.norm
        sources = (
            *(convolution.weight, convolution.bias, norm.weight, norm.bias),
            *(norm.running_mean, norm.running_var),
        )
        return [source for source in sources if source is not None]

    @torch.inference_mode(False)  # inference tensors could not be used in training later
    def _weights(self, device: str) -> tuple[Tensor, Tensor]:
        """Returns the folded weight and bias, recomputed only if their sources have changed."""
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        sources = self._sources()
        key = [autocast, *((storage_of(s), s.data_ptr(), s._version) for s in sources)]
        if key != self._key:
            weight, bias = folded(self.convolution, self.norm)
            # Otherwise autocast would cast them at every step.
            self._folded = (weight.to(autocast), bias.to(autocast)) if autocast else (weight, bias)
            self._key = key
            # Another storage could reuse the key of one that no longer exists.
            self._storages = [StorageWeakRef(s.untyped_storage()) for s in sources]
        assert self._folded is not None
        return self._folded

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other storages.
        return vars(self) | {"_output": None, "_key": [], "_storages": [], "_folded": None}


@torch.no_grad()
def folded(convolution: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a convolution equal to both modules in eval mode."""
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
    """Yields the convolutions whose only user is a batch norm, with that batch norm."""
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
