"""Example inputs for a model, guessed from its modules and attributes."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from smartfrz.graph.tracing import Call, Inputs, trace

_IMAGE_SIZES = (64, 224, 32, 299)


def trace_with_guessed_inputs(model: nn.Module) -> list[Call]:
    """Traces one forward pass with the first guessed inputs that the model accepts.

    Raises:
        ValueError: the model accepts none of the guessed inputs.
    """
    failures: list[tuple[Inputs, Exception]] = []
    for inputs in _guesses(model):
        try:
            return trace(model, inputs)
        except Exception as error:  # a model may raise anything on inputs that do not fit it
            failures.append((inputs, error))
    _raise_unknown_inputs(type(model).__name__, failures)


def _raise_unknown_inputs(model: str, failures: list[tuple[Inputs, Exception]]) -> NoReturn:
    how = "Pass example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments"
    if not failures:
        raise ValueError(f"{model} has no module to guess inputs from. {how}.")
    inputs, error = failures[0]
    reason = " ".join(str(error).split())
    tried = ", ".join(dict.fromkeys(_described(each) for each, _ in failures))
    example = "{'input_ids': ids}" if isinstance(inputs, dict) else _as_code(inputs)
    raise ValueError(
        f"Cannot guess inputs that {model} accepts. Tried: {tried}. The first failed with "
        f"{type(error).__name__}: {reason}. {how}, for example example_inputs={example} of another "
        "shape."
    ) from error


def _described(inputs: Inputs) -> str:
    """Describes guessed inputs by dtype and shape."""
    if isinstance(inputs, dict):
        return " and ".join(f"{name} {_described(value)}" for name, value in inputs.items())
    assert isinstance(inputs, Tensor)
    return f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)}"


def _as_code(inputs: Inputs) -> str:
    assert isinstance(inputs, Tensor)
    if inputs.is_floating_point():
        return f"torch.zeros{tuple(inputs.shape)}"
    return f"torch.ones({tuple(inputs.shape)}, dtype=torch.long)"


def _guesses(model: nn.Module) -> Iterator[Inputs]:
    param = next(model.parameters(), torch.empty(0))
    zeros = partial(torch.zeros, device=param.device, dtype=param.dtype)
    ids = torch.ones(1, 8, dtype=torch.long, device=param.device)
    if getattr(model, "main_input_name", None) == "input_ids":
        yield {"input_ids": ids}
        yield {"input_ids": ids, "decoder_input_ids": ids}
    timm_size = getattr(model, "default_cfg", {}).get("input_size")
    if timm_size:
        yield zeros(1, *timm_size)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            for size in _image_sizes(model):
                yield zeros(1, module.in_channels, *size)
        elif isinstance(module, nn.Conv1d | nn.Conv3d):
            sides = (32,) * len(module.kernel_size)
            yield zeros(1, module.in_channels, *sides)
        elif isinstance(module, nn.Embedding):
            yield ids
        elif isinstance(module, nn.Linear):
            yield zeros(1, module.in_features)
            yield zeros(1, 8, module.in_features)
        elif isinstance(module, nn.RNNBase):
            yield zeros(1, 8, module.input_size)


def _image_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Returns the image sizes to try, those that the model declares first."""
    named: list[Any] = [getattr(getattr(model, "config", None), "image_size", None)]
    for module in model.modules():
        named += [getattr(module, "img_size", None), getattr(module, "image_size", None)]
    sizes = [size for size in (*named, *_IMAGE_SIZES) if size]
    pairs = [tuple(size) if isinstance(size, tuple | list) else (size, size) for size in sizes]
    return list(dict.fromkeys(pairs))
