"""One look at a run, of a freezer or from a file: as a table and as a picture.

``python -m smartfrz.inspect CHECKPOINT`` prints the table.
"""

from smartfrz.inspect.checkpoints import load_run
from smartfrz.inspect.layer_table import table
from smartfrz.inspect.picture import plot
from smartfrz.inspect.remarks import trained_front, wasted_compute
from smartfrz.inspect.run import Run, record_of, run_in, run_of
from smartfrz.inspect.step_times import StepTimes

__all__ = [
    "Run",
    "StepTimes",
    "load_run",
    "plot",
    "record_of",
    "run_in",
    "run_of",
    "table",
    "trained_front",
    "wasted_compute",
]
