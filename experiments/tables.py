"""Tables of runs next to the paper's numbers: pure functions of the frame of runs."""

import re
from collections.abc import Callable, Sequence

import pandas as pd

NAMES = {
    "full": "Full training",
    "shorter": "Shorter training",
    "linear": "Linear freezing",
    "autofreeze": "AutoFreeze",
    "smartfrz": "SmartFRZ",
    "similarity": "Similarity-guided",
    "displacement": "Displacement rule",
    "random": "Random order",
    "simfreeze": "CKA to the start",
    "resnet50": "ResNet50",
    "vgg11": "VGG11",
    "mobilenet_v2": "MobileNetV2",
    "deit_tiny": "DeiT-T",
    "bert_base": "BERT-base",
    "bert_mini": "BERT-mini",
    "bert_tiny": "BERT-tiny",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "mrpc": "MRPC",
    "cola": "CoLA",
    "sst2": "SST-2",
    "sentences": "sentences",
}
COLUMNS = (
    *("model", "dataset", "method", "accuracy_mean", "accuracy_std"),
    *("n", "planned", "diverged", "edited"),
    *("difference_mean", "difference_std", "time_ratio", "compute_ratio", "epochs"),
    *("paper_accuracy", "paper_accuracy_std", "paper_time_ratio", "paper_compute_ratio"),
)
BLANK = "\N{EN DASH}"
_CELL = ["model", "dataset", "method"]
_COUNTS = ("n", "planned", "diverged", "edited")
_LABELS = 3  # the first columns of a rendered table are words, the others numbers


def display_name(name: str) -> str:
    """A method, model or dataset as readers know it; ``linear t0=0.3`` keeps its setting."""
    base, space, setting = name.partition(" ")
    return NAMES.get(base, base) + space + setting


def with_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each finished run beside full training of the same seed.

    Returns:
        The frame and three more columns. ``difference``: accuracy, in points, beside full training
        that started from the same weights, which pretraining does not give on every machine.
        ``time_ratio``: training time over that of the full training measured on the same machine.
        ``compute_ratio``: the same for FLOPs, whatever the machine. NaN where there is no such full
        training, and for diverged runs, which stop early.

    Raises:
        ValueError: A model, dataset, method and seed occurs twice.
    """
    frame = frame.reset_index(drop=True)
    _check_unique(frame, [*_CELL, "seed"], "keep the runs of one scale and machine")
    finished = frame[frame["status"] == "finished"]
    benchmark = ["model", "dataset", "seed"]
    of_full = _of_full(finished, "final_accuracy", paired_by(frame))
    return frame.assign(
        difference=100 * (finished["final_accuracy"] - of_full),
        time_ratio=_relative_to_full(finished, "train_seconds", [*benchmark, "machine"]),
        compute_ratio=_relative_to_full(finished, "tflops", benchmark),
    )


def paired_by(frame: pd.DataFrame) -> list[str]:
    """The columns in which runs whose accuracies are compared agree: seed and first weights too."""
    return ["model", "dataset", "seed", *(name for name in frame if name.startswith("pretrained_"))]


def comparison_table(
    frame: pd.DataFrame,
    planned: Sequence[tuple[str, str, str, int]],
    paper: pd.DataFrame,
) -> pd.DataFrame:
    """Compare methods as the paper's Table 2 does.

    Args:
        frame: Runs; those that are not planned are left out.
        planned: The (model, dataset, method, seed) cells of the table, run or not.
        paper: Rows of ``results/paper.csv``, each model, dataset and method once: one table's.

    Returns:
        One row per (model, dataset, method), in planned order, with `COLUMNS`. Accuracies are in
        percent, mean and sample standard deviation over the seeds that did not diverge; ``n``
        counts all runs, diverged ones included. Beside full training of the same seed, see
        `with_ratios`: of the differences mean and sample standard deviation, of the times the
        median, of the compute the mean.

    Raises:
        ValueError: The frame or the paper's rows hold a cell twice.
    """
    _check_unique(paper, _CELL, "keep the rows of one of the paper's tables")
    runs = with_ratios(frame)
    published = _published(paper)
    seeds: dict[tuple[str, str, str], list[int]] = {}
    for model, dataset, method, seed in planned:
        seeds.setdefault((model, dataset, method), []).append(seed)
    rows = []
    for cell, cell_seeds in seeds.items():
        of_cell = (runs[_CELL] == list(cell)).all(axis=1) & runs["seed"].isin(cell_seeds)
        numbers = _summary(runs[of_cell]) | published.get(cell, {})
        rows.append(dict(zip(_CELL, cell, strict=True), planned=len(cell_seeds), **numbers))
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def caption(frame: pd.DataFrame, title: str) -> str:
    """Say where the numbers come from: scale, machines, versions, commits, seeds, commands.

    Args:
        frame: The runs of the table or figure.
        title: What it shows, as a sentence.
    """
    if frame.empty:
        return f"{title} Nothing has been run yet."
    scales = frame["command"].str.extract(r"\bSCALE=(\w+)", expand=False)
    facts = {
        "scale": distinct(scales),
        "machine": distinct(frame["machine"]),
        "torch": distinct(frame["torch"]),
        "commit": distinct(frame["git"]),
        "seeds": [", ".join(distinct(frame["seed"]))],
        "command": distinct(frame["command"]),
    }
    provenance = "; ".join(
        f"{name} {' and '.join(values)}" for name, values in facts.items() if values
    )
    return (
        f"{title} Mean ± sample standard deviation; difference in points, time (median) and "
        f"compute (mean) beside full training of the same seed, time on the same machine."
        f"{_other_metrics(frame)} Measured: {provenance}.{_mixed(facts['commit'])}"
        f"{_other_weights(frame)}"
    )


def _mixed(commits: Sequence[str]) -> str:
    return f" Its runs are of {len(commits)} versions of the code." if len(commits) > 1 else ""


def _other_weights(frame: pd.DataFrame) -> str:
    """Says so where runs have no difference, since full training started from other weights."""
    if (frame["status"] != "finished").all():
        return ""
    runs = with_ratios(frame)
    apart = runs["compute_ratio"].notna() & runs["difference"].isna()
    if not apart.any():
        return ""
    return f" {apart.sum()} of its runs started from other weights than their full training."


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """A comparison table as GitHub Markdown, under its caption."""
    return markdown(*_rendered(table, escape_markdown), caption, _LABELS)


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A comparison table as a LaTeX float; needs the package booktabs."""
    return latex(*_rendered(table, escape_latex), caption, _LABELS)


def markdown(
    header: list[str], groups: Sequence[Sequence[list[str]]], caption: str, labels: int
) -> str:
    """Groups of rows as GitHub Markdown, under a caption.

    Args:
        header: escaped, as are the rows.
        groups: of rows of as many words.
        caption: not escaped.
        labels: how many of the first columns are words, the others numbers.
    """
    rule = [":--"] * labels + ["--:"] * (len(header) - labels)
    rows = [header, rule, *(row for group in groups for row in group)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([escape_markdown(caption), "", *lines, ""])


def latex(
    header: list[str], groups: Sequence[Sequence[list[str]]], caption: str, labels: int
) -> str:
    """Groups of rows as a LaTeX float, with a rule between them; arguments as :func:`markdown`."""
    blocks = ["\n".join(f"{' & '.join(row)} \\\\" for row in group) for group in groups]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(header) - labels)}}}",
            r"\toprule",
            f"{' & '.join(header)} \\\\",
            r"\midrule",
            "\n\\midrule\n".join(blocks),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_text(table: pd.DataFrame) -> str:
    """A comparison table for the terminal."""
    header, groups = _rendered(table, str)
    rows = [header, *(row for group in groups for row in group)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join("-" * width for width in widths)
    blocks = ["\n".join(_aligned(row, widths) for row in group) for group in ([header], *groups)]
    return f"\n{line}\n".join(blocks) + "\n"


def _check_unique(frame: pd.DataFrame, keys: list[str], advice: str) -> None:
    repeated = frame[frame.duplicated(keys)]
    if not repeated.empty:
        cell = ", ".join(f"{key} {repeated.iloc[0][key]}" for key in keys)
        raise ValueError(f"{cell} occurs more than once: {advice}")


def _relative_to_full(rows: pd.DataFrame, cost: str, keys: list[str]) -> pd.Series:
    return rows[cost] / _of_full(rows, cost, keys)


def _of_full(rows: pd.DataFrame, value: str, keys: list[str]) -> pd.Series:
    """For each row a value of the full training with the same keys."""
    full = rows.loc[rows["method"] == "full", [*keys, value]]
    return rows[keys].merge(full, on=keys, how="left")[value].set_axis(rows.index)


def _published(paper: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, float]]:
    benchmark = ["model", "dataset"]
    columns = {
        "paper_accuracy": paper["accuracy"],
        "paper_accuracy_std": paper["accuracy_std"],
        "paper_time_ratio": _relative_to_full(paper, "seconds", benchmark),
        "paper_compute_ratio": _relative_to_full(paper, "tflops", benchmark),
    }
    cells = paper[_CELL].itertuples(index=False, name=None)
    return dict(zip(cells, pd.DataFrame(columns).to_dict("records"), strict=True))


def _summary(runs: pd.DataFrame) -> dict[str, float]:
    accuracy = 100 * runs["final_accuracy"]
    return {
        "accuracy_mean": accuracy.mean(),
        "accuracy_std": accuracy.std(ddof=1),
        "difference_mean": runs["difference"].mean(),
        "difference_std": runs["difference"].std(ddof=1),
        "n": len(runs),
        "diverged": int((runs["status"] == "diverged").sum()),
        "edited": int((~runs["is_intact"].astype(bool)).sum()),
        "time_ratio": runs["time_ratio"].median(),
        "compute_ratio": runs["compute_ratio"].mean(),
        "epochs": (runs["steps"] / runs["steps_per_epoch"]).mean(),
    }


def _rendered(
    table: pd.DataFrame, escape: Callable[[str], str]
) -> tuple[list[str], list[list[list[str]]]]:
    """Header and rows as words, the rows grouped by model and dataset, named in the first only."""
    groups = []
    for _, group in table.groupby(["model", "dataset"], sort=False):
        rows = [_words(row) for _, row in group.iterrows()]
        groups.append([rows[0], *(["", "", *row[2:]] for row in rows[1:])])
    header = ["Model", "Dataset", "Method", "Accuracy (%)", "Difference", "Time", "Compute"]
    header += ["Epochs", "Paper: accuracy (%)", "Paper: time", "Paper: compute"]
    if table["paper_accuracy"].isna().all():
        header, groups = header[:-3], [[row[:-3] for row in group] for group in groups]
    escaped = [[[escape(word) for word in row] for row in group] for group in groups]
    return [escape(word) for word in header], escaped


def _words(row: pd.Series) -> list[str]:
    return [
        *(display_name(row[key]) for key in _CELL),
        _measured_accuracy(row),
        _difference(row),
        _number(row["time_ratio"], ".2f"),
        _number(row["compute_ratio"], ".2f"),
        _number(row["epochs"], ".4g"),
        _accuracy(row["paper_accuracy"], row["paper_accuracy_std"]),
        _number(row["paper_time_ratio"], ".2f"),
        _number(row["paper_compute_ratio"], ".2f"),
    ]


def _measured_accuracy(row: pd.Series) -> str:
    n, planned, diverged, edited = (int(row[key]) for key in _COUNTS)
    if n == 0:
        return f"not run (0/{planned})"
    partly = f"{n}/{planned}" if n < planned else ""
    failed = f"diverged {diverged}/{n}" if diverged else ""
    changed = f"edited by hand {edited}/{n}" if edited else ""
    accuracy = _accuracy(row["accuracy_mean"], row["accuracy_std"])
    value, remarks = (failed, [partly]) if diverged == n else (accuracy, [partly, failed])
    remarks.append(changed)
    notes = ", ".join(filter(None, remarks))
    return f"{value} ({notes})" if notes else value


def _difference(row: pd.Series) -> str:
    if row["method"] == "full" or pd.isna(row["difference_mean"]):
        return BLANK
    spread = "" if pd.isna(row["difference_std"]) else f" ± {row['difference_std']:.2f}"
    return f"{row['difference_mean']:+.2f}{spread}".replace("-", "\N{MINUS SIGN}")


def _accuracy(mean: float, std: float) -> str:
    spread = "" if pd.isna(std) else f" ± {std:.2f}"
    return _number(mean, ".2f") + spread


def _number(value: float, how: str) -> str:
    return BLANK if pd.isna(value) else format(value, how)


def _aligned(row: list[str], widths: list[int]) -> str:
    pairs = list(zip(row, widths, strict=True))
    words = [word.ljust(width) for word, width in pairs[:_LABELS]]
    return "  ".join([*words, *(word.rjust(width) for word, width in pairs[_LABELS:])]).rstrip()


def distinct(values: pd.Series) -> list[str]:
    """What there is among the values, sorted, as words."""
    return [str(value) for value in sorted(values.dropna().unique())]


def _other_metrics(frame: pd.DataFrame) -> str:
    others = frame.loc[frame["metric"] != "accuracy", ["dataset", "metric"]].drop_duplicates()
    pairs = others.itertuples(index=False, name=None)
    return "".join(f" {display_name(dataset)}: {metric}." for dataset, metric in pairs)


def escape_markdown(text: str) -> str:
    """The text so that Markdown shows it as it is."""
    return re.sub(r"([\\|*_`<>])", r"\\\1", text)


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    BLANK: "--",
}


def escape_latex(text: str) -> str:
    """The text so that LaTeX shows it as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in text)
