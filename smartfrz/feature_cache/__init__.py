"""A cache for the features of a network's frozen prefix.

The network is cut behind its frozen prefix, and the features of each sample are stored. Import
`FeatureCache`; everything else is internal.
"""

from smartfrz.feature_cache.cache import FeatureCache

__all__ = ["FeatureCache"]
