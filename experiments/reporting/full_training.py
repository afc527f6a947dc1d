"""What full training reaches in each workload, beside a goal and the published accuracy."""

import json
import math
from pathlib import Path

import pandas as pd

from experiments.reporting.labels import display_name
from experiments.reporting.markup import BLANK, escape_markdown, markdown
from experiments.reporting.provenance import measured_on
from experiments.reporting.summary import TABLES
from experiments.reporting.tables import accuracy, with_remarks
from experiments.runs.run_frame import read_csv
from experiments.spec import SPECS

_HEADER = ["Workload", "Runs", "Full training (%)", "Goal (%)", "Published (%)"]
_WORKLOAD = ["model", "dataset"]
_PRETRAINED_ON = {"sentences": "masked words of the tasks' sentences"}
_CAPTION = (
    "Mean ± sample standard deviation over seeds (CoLA: Matthews correlation). The published "
    "accuracies are of runs with all examples, images of 224 pixels and, in fine-tuning, weights "
    "from ImageNet or from much text."
)


def full_training(results: Path, scale: str) -> str:
    """Returns a Markdown table with a row for each workload of the paper's comparisons.

    The goals are those of ``experiments/specs/full_training.csv``, for the scale ``small``.
    Published accuracies are the paper's, or those of that file.

    Args:
        results: the folder of all results.
        scale: scale of the tables.
    """
    drawn = {name: results / f"{name}-{scale}" for name in TABLES}
    drawn = {name: folder for name, folder in drawn.items() if (folder / "table.csv").exists()}
    if not drawn:
        return "Nothing has been run yet.\n"
    aims = _aims() if scale == "small" else _aims().assign(goal=math.nan)
    runs = {name: _of_full(folder / "runs.csv") for name, folder in drawn.items()}
    rows = [
        _row(cell, runs[name], aims.loc[int(name.removeprefix("table"))])
        for name, folder in drawn.items()
        for _, cell in _of_full(folder / "table.csv").iterrows()
        if cell["n"]
    ]
    caption = f"{_CAPTION} {measured_on(pd.concat(runs.values()))}"
    return markdown(_HEADER, [rows], caption, labels=2)


def _aims() -> pd.DataFrame:
    """Returns goal, published accuracy and its source by table, model and data set."""
    index = ["table", *_WORKLOAD]
    paper = read_csv(SPECS / "paper.csv").query("method == 'full'").set_index(index)
    in_paper = pd.DataFrame({"published": paper["accuracy"], "source": "the paper"})
    own = read_csv(SPECS / "full_training.csv").set_index(index)
    return own.combine_first(in_paper)


def _of_full(file: Path) -> pd.DataFrame:
    """Reads those rows of a table or of its runs that are of full training."""
    rows = read_csv(file)
    return rows[rows["method"] == "full"]


def _row(cell: pd.Series, runs: pd.DataFrame, aims: pd.DataFrame) -> list[str]:
    workload = (cell["model"], cell["dataset"])
    aim = aims.reindex([workload]).iloc[0]
    of_workload = runs[(runs[_WORKLOAD] == list(workload)).all(axis=1)]
    words = [
        f"{display_name(workload[0])} on {display_name(workload[1])}",
        _conditions(of_workload.iloc[0]),
        with_remarks(accuracy(cell["accuracy_mean"], cell["accuracy_std"]), cell),
        _goal(aim["goal"], cell["accuracy_mean"]),
        _published(aim),
    ]
    return [escape_markdown(word) for word in words]


def _goal(goal: float, mean: float) -> str:
    return BLANK if pd.isna(goal) else f"{goal:g}, {'reached' if mean >= goal else 'missed'}"


def _published(aim: pd.Series) -> str:
    return BLANK if pd.isna(aim["published"]) else f"{aim['published']:g} ({aim['source']})"


def _conditions(run: pd.Series) -> str:
    """Returns what a run trains on, for how long and from which weights."""
    has_words = run["max_length"] > 0
    examples = "examples" if has_words else f"images of {run['image_size']:g} pixels"
    count = f"{run['train_images']:,.0f}" if run["train_images"] else "all"
    return f"{count} {examples}, {run['epochs']:g} epochs, {_start(run['pretraining'])}"


def _start(pretraining: str | float) -> str:
    if not isinstance(pretraining, str):
        return "from scratch"
    found = json.loads(pretraining)
    if not found["epochs"]:
        return "published weights"
    where = _PRETRAINED_ON.get(found["dataset"], display_name(found["dataset"]))
    return f"after {found['epochs']:g} epochs on {where}"
