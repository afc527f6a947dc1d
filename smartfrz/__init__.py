"""Attention-based layer freezing (SmartFRZ, ICLR 2023)."""

from smartfrz.budget import ComputeBudget
from smartfrz.cka import linear_cka
from smartfrz.feature_cache import FeatureCache
from smartfrz.folding import fold_batch_norms, unfold_batch_norms
from smartfrz.freezer import Freezer, Policy
from smartfrz.gathering import Gathered
from smartfrz.layers import Layer, find_layers
from smartfrz.memory import restore_memory, save_memory
from smartfrz.policies import SimilarityGuided, SmartFRZ
from smartfrz.predictor import AttentionPredictor

__all__ = [
    "AttentionPredictor",
    "ComputeBudget",
    "FeatureCache",
    "Freezer",
    "Gathered",
    "Layer",
    "Policy",
    "SimilarityGuided",
    "SmartFRZ",
    "find_layers",
    "fold_batch_norms",
    "linear_cka",
    "restore_memory",
    "save_memory",
    "unfold_batch_norms",
]
