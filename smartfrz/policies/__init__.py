"""Freezing policies: the protocol and the library's implementations.

A policy decides which layers to freeze and when; the `Freezer` carries it out. Import the names in
``__all__``; everything else is internal.
"""

from smartfrz.policies.gathered import Gathered
from smartfrz.policies.protocol import Policy
from smartfrz.policies.similarity_guided import SimilarityGuided
from smartfrz.policies.smartfrz import SmartFRZ

__all__ = ["Gathered", "Policy", "SimilarityGuided", "SmartFRZ"]
