"""Tables, figures, claims and the report, made from run files and nothing else.

Import `report` from ``experiments.reporting.report``.
"""
