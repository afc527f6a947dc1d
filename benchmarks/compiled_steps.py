"""Eager, compiled and CUDA-graph steps as layers freeze: ``python -m benchmarks.compiled_steps``.

Layers freeze from the front in four groups, as with any policy wrapped in ``Gathered``. At batch
size 32, small networks on a GPU are bound by kernel launches; compiled code reduces their number,
and a CUDA graph, whether of ``torch.compile`` or of `CapturedBackward`, reduces it to one.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import SGD
from tqdm import tqdm

from benchmarks.report import parser, present
from benchmarks.timing import Timed, median_ratio, seconds, take_turns
from benchmarks.workloads import Workload, as_in_table_2
from smartfrz import CapturedBackward, Freezer, Layer, fold_batch_norms

PARTS = 4
KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "eager": lambda model: model,
    "compiled": torch.compile,
}
CAPTURED = "captured"
if torch.cuda.is_available():
    KINDS["CUDA graph"] = partial(torch.compile, mode="reduce-overhead")
    KINDS[CAPTURED] = KINDS["eager"]
COLUMNS = {
    "model": "Model",
    "kind": "Step",
    "frozen": "Layers frozen",
    "ms": "Step (ms)",
    "over_full": "Time / eager, nothing frozen",
    "first_s": "First step (s)",
    "compilations": "Compilations so far",
}


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("compiled_steps", __doc__).parse_args()
    present(
        "compiled_steps",
        options,
        lambda: measure(options.models, options.repeats),
        COLUMNS,
        "Time of a step, optimizer included, after each of four freezes. The first step after a "
        "freeze includes compilation. On a GPU, CUDA graphs are measured, too: those of "
        "torch.compile and those of CapturedBackward.",
    )


def measure(models: Sequence[str], repeats: int) -> pd.DataFrame:
    """Measures each network, kind of step and number of freezes; a row for each."""
    rows = []
    for model in tqdm(models, desc="compiled steps"):
        torch.compiler.reset()
        workload = as_in_table_2(model)
        kinds = {kind: Trained(workload, kind) for kind in KINDS}
        full = Trained(workload, "eager")
        for part in range(PARTS + 1):
            firsts = {kind: trained.freeze(part) for kind, trained in kinds.items()}
            steps: dict[str, Timed] = {kind: trained.step for kind, trained in kinds.items()}
            taken = take_turns({**steps, "full": full.step}, repeats)
            for kind, first in firsts.items():
                row: dict[str, Any] = {"model": model, "kind": kind}
                row["frozen"] = len(kinds[kind].freezer.frozen)
                row["ms"] = 1e3 * median(taken[kind])
                row["over_full"] = median_ratio(taken[kind], taken["full"])
                rows.append(row | {"first_s": first, "compilations": kinds[kind].compilations})
    return pd.DataFrame(rows)


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
        self._body = self.workload.body
        self._next: Sequence[Layer] = []
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
        self._next = self._body[: math.ceil(len(self._body) * part / PARTS)]
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
