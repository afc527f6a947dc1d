"""A freezer's state as text, for checkpoints that are JSON files."""

import base64
import io
from typing import Any

import torch


def to_text(state: Any) -> str:
    """Returns tensors, numbers, strings and collections of them as text."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def from_text(text: str) -> Any:
    """Returns what `to_text` was given, with all tensors on the CPU."""
    buffer = io.BytesIO(base64.b64decode(text))
    return torch.load(buffer, weights_only=True, map_location="cpu")
