"""Tables: planning their missing runs, checking requirements, executing the runs, drawing.

Import `Table` and `make_table` from ``experiments.tables.table``, `draw` from
``experiments.tables.files``.
"""
