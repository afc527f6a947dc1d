"""Attention that keeps queries, keys and values, and computes all else in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from smartfrz.graph import Stock
from smartfrz.memory.recomputed import Recipe, attach_recipe, autocast_as, autocast_of, recipe_of

_SHAPES = (Tensor.transpose, Tensor.reshape, Tensor.contiguous, Tensor.view, Tensor.flatten)
"""Operations between attention and the linear layer that follows it."""


def keeping_attention_inputs(module: nn.Module, x: Tensor, stock: Stock) -> Any:
    """Computes a module that calls PyTorch's attention, which then keeps its inputs alone."""
    modes = _get_current_function_mode_stack()
    # Attention modules contain each other.
    with nullcontext() if any(isinstance(mode, _KeepingInputs) for mode in modes) else _MODE:
        return stock()


class _KeepingInputs(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        output = func(*args, **kwargs)
        if func in _SHAPES and (recipe := recipe_of(args[0])) is not None:
            shape = args[1:]  # alone, because the recipe must not refer to the tensor
            attach_recipe(output, Recipe(lambda x: func(x, *shape, **kwargs), recipe))
        return output


_MODE = _KeepingInputs()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    options = {"dropout_p": dropout_p, "is_causal": is_causal, **kwargs}
    attend = partial(F.scaled_dot_product_attention, **options)
    inputs = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    if not (any(each.requires_grad for each in inputs) and _pays(inputs, options)):
        return attend(*inputs)
    again = _Again(attend, inputs, has_dropout=dropout_p > 0)
    with saved_tensors_hooks(again.pack, again.unpacked):
        output = attend(*inputs)
    attach_recipe(output, Recipe(lambda _: again.output(), query, inputs[1:]))
    return output


def _pays(inputs: tuple[Tensor, ...], options: dict[str, Any]) -> bool:
    """Whether attention keeps much in comparison with the time that it takes."""
    query, key, *_ = inputs
    if query.device.type not in ("cpu", "cuda"):  # others do not tell which kernel they choose
        return False
    choice: Any = torch._fused_sdp_choice
    if choice(*inputs, **options) == SDPBackend.MATH.value:
        # While a CUDA graph is captured, the state of the random number generator cannot be read.
        is_captured = query.is_cuda and torch.cuda.is_current_stream_capturing()
        return options["dropout_p"] == 0 or not is_captured
    # Fused kernels keep little more than their output. Its FLOPs are those of a linear layer with
    # the same output for half as many keys as outputs.
    return options["dropout_p"] == 0 and 2 * key.shape[-2] <= query.shape[-3] * query.shape[-1]


class _Again:
    """Attention that is computed a second time when the backward pass reads what it has saved.

    Args:
        attend: computes attention from the inputs.
        inputs: queries, keys, values and, optionally, a mask; these are kept.
        has_dropout: whether the result depends on random numbers.
    """

    def __init__(
        self, attend: Callable[..., Tensor], inputs: tuple[Tensor, ...], has_dropout: bool
    ) -> None:
        self.attend = attend
        # Detached, because a tensor in the graph would form a cycle.
        self.inputs = [each.detach().requires_grad_(each.requires_grad) for each in inputs]
        self.versions = [each._version for each in inputs]
        self.memory = {each.untyped_storage()._cdata for each in inputs}
        self.random = _generator(inputs[0].device).get_state() if has_dropout else None
        self.autocast = autocast_of(inputs[0].device.type)
        self.number, self.saved = 0, dict[int, Tensor]()

    def pack(self, tensor: Tensor) -> Tensor | int:
        """Returns an input, or the number of another tensor."""
        if tensor.untyped_storage()._cdata in self.memory:
            return tensor
        self.number += 1
        return self.number

    def unpacked(self, kept: Tensor | int) -> Tensor:
        """Returns the tensor for what `pack` has returned, each once."""
        if isinstance(kept, Tensor):
            return kept
        if kept not in self.saved:
            self.output()
        return self.saved.pop(kept)

    def output(self) -> Tensor:
        """Computes attention again, and keeps what the backward pass reads next."""
        if [each._version for each in self.inputs] != self.versions:
            raise RuntimeError(
                "An input of attention, which is needed for its gradient, has been modified by an "
                "inplace operation. Use an operation that is not in place."
            )
        self.number, self.saved = 0, {}
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(autocast_as(self.autocast))
            stack.enter_context(saved_tensors_hooks(self._save, lambda kept: kept))
            if self.random is not None:
                stack.enter_context(_random_numbers(self.inputs[0].device, self.random))
            return self.attend(*self.inputs).detach()

    def _save(self, tensor: Tensor) -> Tensor:
        number = self.pack(tensor)
        if isinstance(number, int):
            self.saved[number] = tensor.detach()
        return tensor


@contextmanager
def _random_numbers(device: torch.device, state: Tensor) -> Iterator[None]:
    """Draws random numbers from a state, and goes on as before at the end."""
    generator = _generator(device)
    before = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(before)


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    generators: Any = torch.get_device_module(device).default_generators
    return generators[device.index]
