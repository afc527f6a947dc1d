"""Time and compute of compiled steps as layers freeze: ``python -m benchmarks.compiled_steps``.

Layers freeze from the front in four groups, as with any policy wrapped in ``Gathered``. On a GPU,
CUDA graphs of ``torch.compile`` are measured, too, in small batches alone: compilation takes
minutes. See `benchmarks.captured_steps` for graphs without compilation.
"""

import argparse
import copy
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import SGD
from tqdm import tqdm

from benchmarks.figures import time_by_kind
from benchmarks.report import parser, present
from benchmarks.timing import Timed, median_ratio, seconds, take_turns
from benchmarks.workloads import Workload, as_in_table_2
from smartfrz import CapturedBackward, Freezer, Layer, fold_batch_norms

PARTS = 4
BATCH_SIZES = (32, 256)
"""The paper's, and one that fills a large GPU."""

CAPTURED = "captured"
TITLE = (
    "Time of a step, optimizer included, after each of four freezes, relative to the same kind of "
    "step with nothing frozen. Compute does not include the optimizer."
)
COLUMNS = {
    "model": "Model",
    "batch_size": "Batch",
    "kind": "Step",
    "frozen": "Layers frozen",
    "compute": "Compute / full",
    "ms": "Step (ms)",
    "over_eager": "Time / eager, nothing frozen",
    "over_full": "Time / nothing frozen",
    "saved_over_saved": "Time saved / compute saved",
    "first_s": "First step (s)",
    "compilations": "Compilations so far",
}


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the outermost modules with parts of which the model has several of one class."""
    counts = Counter(type(module) for module in model.modules())
    for child in model.children():
        is_own = not type(child).__module__.startswith("torch.nn.")
        if is_own and counts[type(child)] > 1 and any(child.children()):
            yield child
        else:
            yield from blocks(child)


def compile_blocks(model: nn.Module) -> nn.Module:
    """Compiles repeated blocks one by one; the code of one serves all that are alike."""
    for block in blocks(model):
        block.compile(dynamic=False)
    return model


KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "eager": lambda model: model,
    "compiled": torch.compile,
    "compiled blocks": compile_blocks,
}
if torch.cuda.is_available():
    KINDS["CUDA graph"] = partial(torch.compile, mode="reduce-overhead")


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("compiled_steps", __doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Code that an earlier run has compiled would make compilations look fast.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        _present(options)


def _present(options: argparse.Namespace) -> None:
    # On a GPU, compiling the larger batch as well would take most of the time.
    batch_sizes = BATCH_SIZES[: 1 if torch.cuda.is_available() else None]
    present(
        "compiled_steps",
        options,
        lambda: measure(options.models, options.repeats, tuple(KINDS), batch_sizes),
        COLUMNS,
        f"{TITLE} The first step after a freeze includes compilation. On a GPU, CUDA graphs are "
        "measured, too.",
        time_by_kind,
        nan="\u2013",  # with nothing frozen, nothing is saved
    )


def measure(
    models: Sequence[str], repeats: int, kinds: Sequence[str], batch_sizes: Sequence[int]
) -> pd.DataFrame:
    """Measures each network, batch size, kind of step and number of freezes; a row for each."""
    cases = [(model, batch_size) for model in models for batch_size in batch_sizes]
    rows = []
    for model, batch_size in tqdm(cases, desc=f"{kinds[-1]} steps"):
        workload = as_in_table_2(model, batch_size)
        for row in steps_of(workload, repeats, kinds):
            rows.append({"model": model, "batch_size": batch_size, **row})
    return pd.DataFrame(rows)


def steps_of(workload: Workload, repeats: int, kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Measures each kind of step after each freeze, side by side with nothing frozen."""
    torch.compiler.reset()
    kinds = [kind for kind in kinds if kind != "compiled blocks" or any(blocks(workload.model))]
    trained = {kind: Trained(workload, kind) for kind in kinds}
    full = {kind: Trained(workload, kind) for kind in kinds}
    for part in range(PARTS + 1):
        firsts = {kind: each.freeze(part) for kind, each in trained.items()}
        steps: dict[str, Timed] = {kind: each.step for kind, each in trained.items()}
        steps |= {f"full {kind}": each.step for kind, each in full.items()}
        taken = take_turns(steps, repeats)
        frozen = workload.front(part / PARTS)
        compute = workload.flops(frozen) / workload.flops([])
        for kind in kinds:
            over_full = median_ratio(taken[kind], taken[f"full {kind}"])
            yield {
                "kind": kind,
                "frozen": len(frozen),
                "compute": compute,
                "ms": 1e3 * median(taken[kind]),
                "over_eager": median_ratio(taken[kind], taken["full eager"]),
                "over_full": over_full,
                "saved_over_saved": (1 - over_full) / (1 - compute) if frozen else math.nan,
                "first_s": firsts[kind],
                "compilations": trained[kind].compilations,
            }


class Trained:
    """A copy of a workload that trains with one kind of step.

    Attributes:
        freezer: freezes the next group of layers when `freeze` is called.
        compilations: number of compilations of the forward pass.
    """

    def __init__(self, workload: Workload, kind: str) -> None:
        self.workload = copy.deepcopy(workload)
        if kind in ("eager", CAPTURED):
            fold_batch_norms(self.workload.model, self.workload.inputs)
        self._next: Sequence[Layer] = []
        if kind != CAPTURED:
            self.workload.model = KINDS[kind](self.workload.model)
        self.optimizer = SGD(self.workload.model.parameters(), lr=1e-3, momentum=0.9)
        self.freezer = Freezer(
            self.workload.model, self.optimizer, policy=self, layers=self.workload.layers
        )
        loss = self.workload.loss
        self._backward: Callable[[], object] = lambda: loss().backward()
        if kind == CAPTURED:
            self._backward = CapturedBackward(self.freezer, loss)
        self.compilations = 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> Sequence[Layer]:
        """Returns the layers requested by `freeze`."""
        return self._next

    def freeze(self, part: int) -> float:
        """Freezes the first ``part`` groups of layers; returns the seconds of the next step."""
        self._next = self.workload.front(part / PARTS)
        if part:
            self.step()
        before = _graphs()
        taken = self.step()
        self.compilations += _graphs() - before
        return taken

    def step(self) -> float:
        """Returns the time of a step in seconds."""
        return seconds(self._train)

    def _train(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        self._backward()
        self.freezer.step()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


if __name__ == "__main__":
    main()
