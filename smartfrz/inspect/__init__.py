"""One look at a run, of a freezer or from a file: as a table and as a picture.

``python -m smartfrz.inspect CHECKPOINT`` prints the table.
"""

from smartfrz.inspect.checkpoints import load_run
from smartfrz.inspect.layer_table import table
from smartfrz.inspect.picture import plot
from smartfrz.inspect.run import Run, record_of, run_in, run_of

__all__ = ["Run", "load_run", "plot", "record_of", "run_in", "run_of", "table"]
