"""Tables, figures, claims and the report, made from run files only.

Import `report` from ``experiments.reporting.report``.
"""
