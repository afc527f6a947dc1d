"""Utilities for models that are compiled by ``torch.compile``."""

import sys
from typing import Any

from torch import nn


def is_compiled(model: nn.Module) -> bool:
    """Whether ``torch.compile`` was applied to the model or any of its modules."""
    return bool(_compiled_modules(model))


def expect_recompilation(model: nn.Module) -> None:
    """Permits more compilations of the same code; has no effect if nothing is compiled.

    Beyond ``torch._dynamo.config.recompile_limit`` compilations of the same code (8 by default),
    ``torch.compile`` silently runs it without compiling (pytorch#139476). Compilations that
    freezing causes are intended and must not count. Blocks that are compiled one by one share their
    code, so that one freeze can cause a compilation for each of them. Nothing that is compiled is
    discarded, because ``torch.compile`` does not tell which model a piece of code belongs to.

    Args:
        model: the model of which layers have been frozen or thawed.
    """
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.convert_frame.input_codes.seen:
        # At least one: a compiled function may call a model that is not compiled itself.
        more = max(1, len(_compiled_modules(model)))
        dynamo.config.recompile_limit += more
        dynamo.config.accumulated_recompile_limit += more


def _compiled_modules(model: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "_orig_mod", None), nn.Module)
        or module._compiled_call_impl is not None
    ]
