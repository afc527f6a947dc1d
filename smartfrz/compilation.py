"""Utilities for models that are compiled by ``torch.compile``."""

import sys
from typing import Any

from torch import nn


def is_compiled(model: nn.Module) -> bool:
    """Whether ``torch.compile`` was applied to the model or any of its modules."""
    return any(
        isinstance(getattr(module, "_orig_mod", None), nn.Module)
        or module._compiled_call_impl is not None
        for module in model.modules()
    )


def expect_recompilation() -> None:
    """Permits one more compilation of the same code; has no effect if nothing is compiled.

    Beyond ``torch._dynamo.config.recompile_limit`` compilations of the same code (8 by default),
    ``torch.compile`` silently runs it without compiling (pytorch#139476). A compilation that
    freezing causes is intended and must not count. Nothing that is compiled is discarded, because
    ``torch.compile`` does not tell which model a piece of code belongs to.
    """
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.convert_frame.input_codes.seen:
        dynamo.config.recompile_limit += 1
        dynamo.config.accumulated_recompile_limit += 1
