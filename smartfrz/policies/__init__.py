"""Freezing policies: the protocol and the library's implementations.

A policy decides which layers to freeze and when; the `Freezer` carries it out. Pacing finds
schedules that spend a given compute. Import the names in ``__all__``; everything else is internal.
"""

from smartfrz.policies.budget_plan import BudgetPlan
from smartfrz.policies.comparison import PeriodicComparison
from smartfrz.policies.gathered import Gathered
from smartfrz.policies.intervals import checked_interval
from smartfrz.policies.pacing import check_compute, even_pace, meet_compute, schedule_compute
from smartfrz.policies.prefix_then_body import PrefixThenBody
from smartfrz.policies.protocol import Policy
from smartfrz.policies.scheduled import Scheduled
from smartfrz.policies.similarity_guided import SimilarityGuided
from smartfrz.policies.smartfrz import SmartFRZ

__all__ = [
    "BudgetPlan",
    "Gathered",
    "PeriodicComparison",
    "Policy",
    "PrefixThenBody",
    "Scheduled",
    "SimilarityGuided",
    "SmartFRZ",
    "check_compute",
    "checked_interval",
    "even_pace",
    "meet_compute",
    "schedule_compute",
]
