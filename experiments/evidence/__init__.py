"""Comparing convergence predictors on families of networks that they have not seen.

Import `compare` from ``experiments.evidence.comparing``.
"""
