"""Time saved per compute saved, in whole runs: ``python -m benchmarks.whole_runs``.

Full training and SmartFRZ run side by side, alternating single steps, as at SCALE=small.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from benchmarks.report import parser, present
from benchmarks.timing import seconds
from experiments.config import RunConfig
from experiments.data.batches import Batch
from experiments.options import SmartFRZOptions
from experiments.plan import plan
from experiments.runs.execute import execute
from experiments.runs.setup import Run, prepare
from experiments.runs.training_loop import Curves, test_scores, train_step
from experiments.spec import SPECS, load_spec
from experiments.tables.queue import missing_prerequisites

PAPER = SPECS / "paper.csv"
TABLES = {"resnet50": (2, "cifar10"), "vgg11": (2, "cifar10"), "bert_mini": (6, "mrpc")}
"""Table and data set of each network's runs."""

COLUMNS = {
    "model": "Model",
    "dataset": "Data",
    "time": "Time / full",
    "compute": "Compute / full",
    "time_over_compute": "Time saved / compute saved",
    "paper_time": "Paper: time / full",
    "paper": "Paper: time saved / compute saved",
    "freezes": "Freezes",
    "score": "Score (%)",
    "full_score": "Score of full (%)",
}


def main() -> None:
    """Reads the command line, measures and writes the table."""
    options = parser("whole_runs", __doc__, models=tuple(TABLES)).parse_args()
    present(
        "whole_runs",
        options,
        lambda: pd.concat([side_by_side(model, options.results) for model in options.models]),
        COLUMNS,
        "SmartFRZ relative to full training, seed 0: time of all steps, decisions included. "
        "Freezes: number of steps at which layers froze, each of which requires recompilation of "
        "compiled code.",
    )


def smartfrz_run(model: str) -> RunConfig:
    """Returns the SmartFRZ run of a network's table with seed 0."""
    table, dataset = TABLES[model]
    return next(
        config
        for config in plan(load_spec(f"table{table}"), "small")
        if (config.model, config.dataset) == (model, dataset)
        and isinstance(config.options, SmartFRZOptions)
    )


def side_by_side(model: str, results: Path) -> pd.DataFrame:
    """Executes SmartFRZ and full training in turns; returns a row."""
    config = smartfrz_run(model)
    return in_turns([config.full_training, config], results).assign(**in_the_paper(model))


def in_turns(configs: Sequence[RunConfig], results: Path) -> pd.DataFrame:
    """Executes runs in alternating single steps; returns a row for each but the first.

    Args:
        configs: the runs, full training first.
        results: folder of the results, for the runs that these require.
    """
    for each in missing_prerequisites(configs, results / "runs"):
        execute(each, results / "runs", "make bench", ignore, ignore, keep_weights=True)
    runs = [prepare(config) for config in configs]
    curves, times = [Curves() for _ in runs], [0.0 for _ in runs]
    batches = [batches_of(run) for run in runs]
    for _ in tqdm(range(runs[0].total_steps), desc=configs[0].cell):
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
                "model": run.config.model,
                "dataset": run.config.dataset,
                **{"time": time, "compute": compute},
                "time_over_compute": (1 - time) / (1 - compute),
                "freezes": len(set(run.freezer.frozen.values())),
                **{"score": scores[which], "full_score": scores[0]},
            }
        )
    return pd.DataFrame(rows)


def ignore(*_: object) -> None:
    """Does nothing after a step or an epoch."""


def in_the_paper(model: str) -> dict[str, str]:
    """Returns the paper's time ratio, and time saved per compute saved if it reports both."""
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
    """Yields the batches of all epochs."""
    for epoch in count():
        yield from run.batches.epoch(run.config.seed, epoch)


if __name__ == "__main__":
    main()
