"""Attention-based layer freezing (SmartFRZ, ICLR 2023)."""

from smartfrz.capture import CapturedBackward
from smartfrz.cka import linear_cka
from smartfrz.cost import ComputeBudget
from smartfrz.estimation import Estimate, estimate
from smartfrz.feature_cache import FeatureCache
from smartfrz.freezer import Freezer
from smartfrz.layers import Layer, find_layers
from smartfrz.memory import (
    detach_tied_embeddings,
    fold_batch_norms,
    restore_memory,
    save_memory,
    unfold_batch_norms,
)
from smartfrz.policies import (
    BudgetPlan,
    Gathered,
    Policy,
    PrefixThenBody,
    SimilarityGuided,
    SmartFRZ,
)
from smartfrz.predictor import AttentionPredictor
from smartfrz.version import __version__

__all__ = [
    "AttentionPredictor",
    "BudgetPlan",
    "CapturedBackward",
    "ComputeBudget",
    "Estimate",
    "FeatureCache",
    "Freezer",
    "Gathered",
    "Layer",
    "Policy",
    "PrefixThenBody",
    "SimilarityGuided",
    "SmartFRZ",
    "__version__",
    "detach_tied_embeddings",
    "estimate",
    "find_layers",
    "fold_batch_norms",
    "linear_cka",
    "restore_memory",
    "save_memory",
    "unfold_batch_norms",
]
