"""Comparison of convergence predictors on network families unseen in training.

Import `compare` from ``experiments.evidence.comparing``.
"""
