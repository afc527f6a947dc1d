"""Baselines and controls: freezing policies for ``smartfrz.Freezer``."""

from baselines.autofreeze import AutoFreeze
from baselines.displacement import DisplacementRule
from baselines.freezeout import FreezeOut
from baselines.random_order import RandomOrder

__all__ = ["AutoFreeze", "DisplacementRule", "FreezeOut", "RandomOrder"]
