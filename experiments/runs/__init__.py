"""Runs: set-up, training loop, checkpoints, run files, progress and tracking.

Import `execute` from ``experiments.runs.execute``, `load_runs` from ``experiments.runs.run_frame``.
"""
