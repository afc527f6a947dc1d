"""Baselines and controls: freezing policies for ``smartfrz.Freezer``."""

from baselines.autofreeze import AutoFreeze
from baselines.displacement import DisplacementRule
from baselines.freezeout import FreezeOut
from baselines.frozen_group import FrozenGroup
from baselines.gentle import AnnealedBody, AveragedBody
from baselines.head_first import HeadFirst
from baselines.measured_contribution import MeasuredContribution
from baselines.paced import Paced
from baselines.random_order import RandomOrder
from baselines.static_prefix import StaticPrefix
from baselines.svcca import SVCCA
from baselines.unfreezing import Unfreezing

__all__ = [
    "SVCCA",
    "AnnealedBody",
    "AutoFreeze",
    "AveragedBody",
    "DisplacementRule",
    "FreezeOut",
    "FrozenGroup",
    "HeadFirst",
    "MeasuredContribution",
    "Paced",
    "RandomOrder",
    "StaticPrefix",
    "Unfreezing",
]
