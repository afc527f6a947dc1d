"""Attention-based layer freezing (SmartFRZ, ICLR 2023)."""

from smartfrz.freezer import Freezer
from smartfrz.layers import Layer, find_layers

__all__ = ["Freezer", "Layer", "find_layers"]
