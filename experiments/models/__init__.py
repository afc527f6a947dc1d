"""Networks, their pretraining, and where their weights come from.

Import `NETWORKS` and `build_model` from ``experiments.models.registry``, `load_pretrained` from
``experiments.models.pretraining``.
"""
