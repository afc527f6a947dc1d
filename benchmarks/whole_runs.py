"""Time saved over compute saved, of whole runs: ``python -m benchmarks.whole_runs``.

Full training and SmartFRZ train side by side, a step of each in turn, as at SCALE=small; BERT also
with a cache of what its frozen front says of each sentence.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from benchmarks.report import parser, present
from benchmarks.timing import seconds
from experiments.config import RunConfig
from experiments.data.batches import Batch
from experiments.methods import SmartFRZOptions
from experiments.plan import plan
from experiments.runs.execute import execute
from experiments.runs.setup import Run, prepare
from experiments.runs.training_loop import Curves, test_scores, train_step
from experiments.spec import load_spec
from experiments.tables.queue import missing_prerequisites

PAPER = Path(__file__).parent.parent / "results" / "paper.csv"
TABLES = {"resnet50": (2, "cifar10"), "vgg11": (2, "cifar10"), "bert_mini": (6, "mrpc")}
"""The table that a network's runs are of, and the data set."""

COLUMNS = {
    "model": "Model",
    "dataset": "Data",
    "features": "Features of the front",
    "time": "Time / full",
    "compute": "Compute / full",
    "time_over_compute": "Time saved / compute saved",
    "paper_time": "Time / full, in the paper",
    "paper": "Time saved / compute saved, in the paper",
    "freezes": "Freezes",
    "score": "Score (%)",
    "full_score": "Full training's (%)",
}


def main() -> None:
    """Reads the command line and measures."""
    options = parser("whole_runs", __doc__, models=tuple(TABLES)).parse_args()
    present(
        "whole_runs",
        options,
        lambda: pd.concat([side_by_side(model, options.results) for model in options.models]),
        COLUMNS,
        "SmartFRZ beside full training, seed 0: seconds of all training steps, decisions included. "
        "What cached features save of the forward pass is not in its compute. Freezes: how often "
        "layers froze, and compiled code would be compiled again.",
    )


def smartfrz_run(model: str) -> RunConfig:
    """Seed 0 of the network's table."""
    table, dataset = TABLES[model]
    return next(
        config
        for config in plan(load_spec(f"table{table}"), "small")
        if (config.model, config.dataset) == (model, dataset)
        and isinstance(config.options, SmartFRZOptions)
    )


def side_by_side(model: str, results: Path) -> pd.DataFrame:
    """Trains all to the end: a row for SmartFRZ, and for BERT one with the cache."""
    config = smartfrz_run(model)
    for each in missing_prerequisites([config], results / "runs"):
        execute(each, results / "runs", "make bench", ignore, ignore, keep_weights=True)
    runs = [prepare(config.full_training), prepare(config)]
    if config.max_length:
        runs.append(prepare(replace(config, feature_cache=True)))
    curves, times = [Curves() for _ in runs], [0.0 for _ in runs]
    batches = [batches_of(run) for run in runs]
    for _ in tqdm(range(runs[0].total_steps), desc=model):
        for which, run in enumerate(runs):
            run.model.train()
            batch = next(batches[which])
            times[which] += seconds(partial(train_step, run, curves[which], batch))
    scores = [100 * next(iter(test_scores(run, 0).values())) for run in runs]
    rows = []
    for which, run in enumerate(runs[1:], 1):
        time, compute = times[which] / times[0], curves[which].flops / curves[0].flops
        rows.append(
            {
                **{"model": model, "dataset": config.dataset},
                "features": "cached" if run.config.feature_cache else "computed",
                **{"time": time, "compute": compute},
                "time_over_compute": (1 - time) / (1 - compute),
                **in_the_paper(model),
                "freezes": len(set(run.freezer.frozen.values())),
                **{"score": scores[which], "full_score": scores[0]},
            }
        )
    return pd.DataFrame(rows)


def ignore(*_: object) -> None:
    """What to call after a step or an epoch."""


def in_the_paper(model: str) -> dict[str, str]:
    """Time over full training's, and time saved over compute saved where the paper gives it."""
    table, dataset = TABLES[model]
    paper = pd.read_csv(PAPER)
    rows = paper[(paper["table"] == table) & (paper["dataset"] == dataset)]
    rows = rows[rows["model"].str.startswith(model.partition("_")[0])].set_index("method")
    numbers = rows[["seconds", "tflops"]].astype(float)
    time, compute = numbers.loc["smartfrz"] / numbers.loc["full"]
    ratio = (1 - time) / (1 - compute)
    return {
        "paper_time": f"{time:.2f}",
        "paper": "not given" if math.isnan(ratio) else f"{ratio:.2f}",
    }


def batches_of(run: Run) -> Iterator[Batch]:
    """The batches of all epochs."""
    for epoch in count():
        yield from run.batches.epoch(run.config.seed, epoch)


if __name__ == "__main__":
    main()
