"""The outputs of chosen modules in a forward pass."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smartfrz.distributed import unwrap
from smartfrz.graph.tracing import Inputs, call, evaluating


@torch.no_grad()
def visit_outputs(
    model: nn.Module,
    names: Iterable[str],
    inputs: Inputs,
    visit: Callable[[str, nn.Module, Tensor], None],
) -> None:
    """Runs a model in eval mode and passes on the outputs of some of its modules.

    The model's state is not changed. Outputs are not kept, so that their memory can be reused.

    Args:
        model: any model; DDP and ``torch.compile`` wrappers are unwrapped.
        names: dotted names of the modules.
        inputs: inputs of the model: a tensor, a tuple of positional arguments or a mapping of
            keyword arguments.
        visit: called with a module's name, the module, and its output, once for each call of the
            module, in execution order. Of several outputs, such as those of
            ``nn.MultiheadAttention``, it is given the first.

    Raises:
        ValueError: the model lacks a module or does not call it.
    """
    model = unwrap(model)
    modules = dict(model.named_modules())
    not_called = dict.fromkeys(names)  # an ordered set

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        not_called.pop(name, None)
        visit(name, module, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name in not_called:
            if name not in modules:
                raise ValueError(f"{type(model).__name__} has no layer {name!r}.")
            handle = modules[name].register_forward_hook(partial(hook, name))
            stack.callback(handle.remove)
        call(model, inputs)
    for name in not_called:
        raise ValueError(f"{type(model).__name__} did not call its layer {name!r}.")
