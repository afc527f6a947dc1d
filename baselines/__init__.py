"""Other ways to choose the layers to freeze: policies for ``smartfrz.Freezer``."""

from baselines.autofreeze import AutoFreeze
from baselines.displacement import DisplacementRule
from baselines.freezeout import FreezeOut

__all__ = ["AutoFreeze", "DisplacementRule", "FreezeOut"]
