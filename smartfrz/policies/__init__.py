"""Freezing policies: the protocol and the library's implementations.

A policy decides which layers to freeze and when; the `Freezer` carries it out. Pacing finds
schedules that spend a given compute. Import the names in
``__all__``; everything else is internal.
"""

from smartfrz.policies.gathered import Gathered
from smartfrz.policies.pacing import meet_compute, schedule_compute
from smartfrz.policies.protocol import Policy
from smartfrz.policies.similarity_guided import SimilarityGuided
from smartfrz.policies.smartfrz import SmartFRZ

__all__ = [
    "Gathered",
    "Policy",
    "SimilarityGuided",
    "SmartFRZ",
    "meet_compute",
    "schedule_compute",
]
