"""Networks, their pretraining, and loaders of their weights.

Import `NETWORKS` and `build_model` from ``experiments.models.registry``, `load_pretrained` from
``experiments.models.pretraining``.
"""
