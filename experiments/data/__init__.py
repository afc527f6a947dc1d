"""Data sets and their batches.

Import `DATASETS`, `dataset`, `load` and `make_batches` from ``experiments.data.registry``.
"""
