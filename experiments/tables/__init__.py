"""A table from its spec to its files: which runs are missing, what they need, doing and drawing.

Import `Table` and `make_table` from ``experiments.tables.table``, `draw` from
``experiments.tables.files``.
"""
