"""Time and compute of steps that are CUDA graphs: ``python -m benchmarks.captured_steps``.

In small batches a GPU waits for the launches of kernels; `CapturedBackward` launches those of the
forward and the backward pass at once.
"""

import torch

from benchmarks.compiled_steps import BATCH_SIZES, CAPTURED, COLUMNS, TITLE, measure
from benchmarks.figures import time_by_kind
from benchmarks.report import parser, present


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("captured_steps", __doc__).parse_args()
    if not torch.cuda.is_available():
        print("CUDA graphs can be measured on a GPU only: this benchmark needs a GPU.")
        return
    columns = {name: title for name, title in COLUMNS.items() if name != "compilations"}
    present(
        "captured_steps",
        options,
        lambda: measure(options.models, options.repeats, ("eager", CAPTURED), BATCH_SIZES),
        columns,
        f"{TITLE} The first step after a freeze runs without a graph.",
        time_by_kind,
        nan="\u2013",
    )


if __name__ == "__main__":
    main()
