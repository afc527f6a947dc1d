"""Time saved over compute saved, of whole runs: ``python -m benchmarks.whole_runs``.

Full training and a method train side by side, a step of each in turn, as in Table 2 at SCALE=small.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from benchmarks.report import parser, present
from benchmarks.timing import seconds
from experiments.batches import Batch
from experiments.config import RunConfig, SmartFreezing
from experiments.plan import load_spec, plan
from experiments.setup import Run, prepare
from experiments.train import Curves, train_step

PAPER = Path(__file__).parent.parent / "results" / "paper.csv"
MODELS = ("resnet50", "vgg11")
COLUMNS = {
    "model": "Model",
    "time": "Time / full",
    "compute": "Compute / full",
    "time_over_compute": "Time saved / compute saved",
    "paper": "In the paper",
}


def main() -> None:
    """Reads the command line and measures."""
    options = parser("whole_runs", __doc__, models=MODELS).parse_args()
    present(
        "whole_runs",
        options,
        lambda: pd.DataFrame([side_by_side(model) for model in options.models]),
        COLUMNS,
        "SmartFRZ beside full training: seconds of all training steps, decisions included.",
    )


def smartfrz_run(model: str) -> RunConfig:
    """Seed 0 of Table 2 on CIFAR-10."""
    return next(
        config
        for config in plan(load_spec("table2"), "small")
        if config.model == model
        and config.dataset == "cifar10"
        and isinstance(config.options, SmartFreezing)
    )


def side_by_side(model: str) -> dict[str, object]:
    """Trains both to the end."""
    config = smartfrz_run(model)
    runs = [prepare(replace(config, method="full", options=None)), prepare(config)]
    curves, times = [Curves(), Curves()], [0.0, 0.0]
    batches = [batches_of(run) for run in runs]
    for _ in tqdm(range(runs[0].total_steps), desc=model):
        for which, run in enumerate(runs):
            run.model.train()
            batch = next(batches[which])
            times[which] += seconds(partial(train_step, run, curves[which], batch))
    time, compute = times[1] / times[0], curves[1].flops / curves[0].flops
    return {
        **{"model": model, "time": time, "compute": compute},
        **{"time_over_compute": (1 - time) / (1 - compute), "paper": in_the_paper(model)},
    }


def in_the_paper(model: str) -> float:
    """The same from the paper's Table 2, CIFAR-10, by its seconds and TFLOPs."""
    paper = pd.read_csv(PAPER)
    rows = paper[(paper["table"] == 2) & (paper["dataset"] == "cifar10")]
    rows = rows[rows["model"] == model].set_index("method")
    numbers = rows[["seconds", "tflops"]].astype(float)
    ratios = numbers.loc["smartfrz"] / numbers.loc["full"]
    return float((1 - ratios["seconds"]) / (1 - ratios["tflops"]))


def batches_of(run: Run) -> Iterator[Batch]:
    """The batches of all epochs."""
    for epoch in count():
        yield from run.batches.epoch(run.config.seed, epoch)


if __name__ == "__main__":
    main()
