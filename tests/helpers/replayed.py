"""A CUDA graph played by the CPU: nothing runs when it is recorded, and tensors are reused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smartfrz.capture import graphs


class Replayed:
    """Stands for `CudaGraph`.

    Recording leaves weights, buffers and random numbers as they are, and NaN in what was computed;
    a replay writes its results to the tensors of the recording.
    """

    made = 0

    def __init__(self, model: nn.Module, function: Callable[[], Tensor]) -> None:
        type(self).made += 1
        self.model, self.function = model, function
        before, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        self.output = function()
        self.gradients = {name: p.grad for name, p in model.named_parameters()}
        model.load_state_dict(before)
        torch.set_rng_state(numbers)
        for tensor in (self.output, *self.gradients.values()):
            if tensor is not None:
                tensor.fill_(torch.nan)

    def replay(self) -> None:
        params = dict(self.model.named_parameters())
        present = {name: param.grad for name, param in params.items()}
        for param in params.values():
            param.grad = None
        self.output.copy_(self.function())
        for name, param in params.items():
            static, param_grad = self.gradients[name], param.grad
            assert (static is None) == (param_grad is None), name
            if static is not None and param_grad is not None:
                static.copy_(param_grad)
            param.grad = present[name]


def use_replayed_graphs(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> type[Replayed]:
    """Lets `CapturedBackward` of a model on the CPU work as on a GPU."""

    def record(function: Callable[[], Any], stream: Any, pool: Any) -> Replayed:
        return Replayed(model, function)

    monkeypatch.setattr(Replayed, "made", 0)
    monkeypatch.setattr(graphs, "CudaGraph", record)
    monkeypatch.setattr(graphs, "are_possible", lambda model: True)
    monkeypatch.setattr(graphs, "stream_and_pool", lambda: (None, None))
    return Replayed
