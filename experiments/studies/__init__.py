"""Studies of single runs: gradients, stabilisation, attention, overhead, memory.

Import `FIGURES` from ``experiments.studies.figure_plans`` and `make_figure` from
``experiments.studies.making``.
"""
