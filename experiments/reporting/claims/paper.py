"""The paper's claims, one by one, and what the results say about each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.reporting.claims import judges
from experiments.reporting.claims.judges import Found
from experiments.reporting.claims.tables import (
    LOSS,
    NO_LOSS,
    comparisons_of_workloads,
    more_accurate,
)
from experiments.reporting.markup import escape_markdown, markdown
from experiments.reporting.statistics import (
    LEVEL,
    Comparison,
    PValues,
    corrected_p_values,
)
from experiments.runs.run_frame import read_csv

_VERDICTS = {True: "holds", False: "does not hold", None: "inconclusive"}


@dataclass(frozen=True)
class _OfRuns:
    """A claim on accuracies, which is tested.

    Attributes:
        claim: the claim, as a sentence.
        place: where the paper makes it.
        tables: the tables whose workloads are averaged.
        tested: the claim of these tables, see `comparisons_of_workloads`.
    """

    claim: str
    place: str
    tables: tuple[str, ...]
    tested: str


@dataclass(frozen=True)
class _OfNumbers:
    """A claim that follows from the numbers in some files, without a test.

    Attributes:
        claim: the claim, as a sentence.
        place: where the paper makes it.
        files: CSV files under ``results/``; ``{scale}`` stands for the scale.
        judge: what the rows of these files say; None if they say nothing yet.
    """

    claim: str
    place: str
    files: tuple[str, ...]
    judge: Callable[[pd.DataFrame], Found | None]


_OF_RUNS = (
    _OfRuns(
        "In fine-tuning, SmartFRZ does not lose accuracy",
        "Sections 4.2 and A.1",
        ("table2", "table6"),
        NO_LOSS,
    ),
    _OfRuns(
        "It is more accurate than linear freezing at the same compute",
        "Sections 4.2 and A.1",
        ("table2", "table6"),
        more_accurate("smartfrz", "linear"),
    ),
    _OfRuns(
        "It is more accurate than AutoFreeze",
        "Sections 4.2 and A.1",
        ("table2", "table6"),
        more_accurate("smartfrz", "autofreeze"),
    ),
    _OfRuns(
        "From scratch, SmartFRZ does not lose accuracy",
        "Sections 4.2 and A.2",
        ("table3", "table7"),
        NO_LOSS,
    ),
    _OfRuns(
        "From scratch, it is more accurate than linear freezing at the same compute",
        "Sections 4.2 and A.2",
        ("table3", "table7"),
        more_accurate("smartfrz", "linear"),
    ),
    _OfRuns(
        "From scratch, it is more accurate than AutoFreeze",
        "Sections 4.2 and A.2",
        ("table3", "table7"),
        more_accurate("smartfrz", "autofreeze"),
    ),
)


def paper_claims(results: Path, scale: str) -> str:
    """Returns the paper's claims with what was found, as a Markdown table.

    Claims on accuracies are tested by the mean over workloads, each of which counts once, with
    Holm's correction for the number of tests on this page. The others follow from one number.

    Args:
        results: the folder of all results.
        scale: scale of the tables.
    """
    tables = dict.fromkeys(table for each in _OF_RUNS for table in each.tables)
    compared = {table: _compared(results / f"{table}-{scale}") for table in tables}
    averages = [_average(each, compared) for each in _OF_RUNS]
    corrected = corrected_p_values(each for each in averages if each is not None)
    found = [*(_tested(each, corrected) for each in averages)]
    found += [_judged(each, results, scale) for each in _OF_NUMBERS]
    asked: list[_OfRuns | _OfNumbers] = [*_OF_RUNS, *_OF_NUMBERS]
    rows = [[a.claim, a.place, *_words(of)] for a, of in zip(asked, found, strict=True)]
    escaped = [[escape_markdown(cell) for cell in row] for row in rows]
    return markdown(["Claim", "Paper", "Found here", "Verdict"], [escaped], _CAPTION, labels=4)


_CAPTION = (
    "Claims on accuracies: mean difference in points over workloads, ± its 95% interval, and the "
    f"p-value of a t test at the {LEVEL:.0%} level with Holm's correction for the tests on this "
    f"page. To lose no accuracy is to lose at most {LOSS:g} points. The tables and figures say how "
    "each number was measured."
)


def _words(found: Found | None) -> tuple[str, str]:
    return ("", "not run") if found is None else (found[0], _VERDICTS[found[1]])


def _compared(folder: Path) -> list[Comparison]:
    """Returns the comparisons of a table's workloads; none if the table has no runs."""
    return [
        each
        for frame in _read([folder / "runs.csv"])
        for each in comparisons_of_workloads(frame)
        if each.differences
    ]


def _average(asked: _OfRuns, compared: Mapping[str, list[Comparison]]) -> Comparison | None:
    """Returns the comparison averaged over the workloads of some tables; None without runs."""
    single = [
        each for table in asked.tables for each in compared[table] if each.claim == asked.tested
    ]
    if len(single) < 2:
        return single[0] if single else None
    means = tuple(each.mean for each in single)
    name = f"{len(single)} workloads"
    return Comparison(asked.tested, name, means, single[0].bound, is_average=True)


def _tested(average: Comparison | None, corrected: PValues) -> Found | None:
    if average is None:
        return None
    if average not in corrected:
        return average.untested(), None
    p_value = corrected[average]
    return average.described(p_value), average.verdict(p_value)


def _judged(asked: _OfNumbers, results: Path, scale: str) -> Found | None:
    frames = _read(results / file.format(scale=scale) for file in asked.files)
    return asked.judge(pd.concat(frames)) if frames else None


def _read(files: Iterable[Path]) -> list[pd.DataFrame]:
    return [read_csv(file) for file in files if file.exists()]


_OF_NUMBERS = (
    _OfNumbers(
        "In fine-tuning, it spends at most 60% of the compute",
        "Tables 2 and 6",
        ("table2-{scale}/table.csv", "table6-{scale}/table.csv"),
        judges.compute,
    ),
    _OfNumbers(
        "Freezing by similarity to a well-trained model loses no accuracy",
        "Table 1",
        ("table1-{scale}/table.csv",),
        judges.oracle,
    ),
    _OfNumbers(
        "The length of the predictor's window hardly matters",
        "Table 4",
        ("table4-{scale}/table.csv",),
        judges.settings,
    ),
    _OfNumbers(
        "Nor does the number of weights sampled from a layer",
        "Table 5",
        ("table5-{scale}/table.csv",),
        judges.settings,
    ),
    _OfNumbers(
        "The gradients of 1,024 sampled weights are distributed like those of all",
        "Figure 3",
        ("fig3-{scale}/layers.csv",),
        judges.sampled,
    ),
    _OfNumbers(
        "Layers at the front converge first, but not always",
        "Figure 4",
        ("fig4-{scale}/order.csv",),
        judges.front_first,
    ),
    _OfNumbers(
        "The predictor carries over to networks and data that it has not seen",
        "Section 3.1",
        ("evidence-{scale}/table.csv",),
        judges.unseen,
    ),
    _OfNumbers(
        "Memory falls as layers freeze",
        "Figure 5a",
        ("fig5-{scale}/memory.csv",),
        judges.memory,
    ),
    _OfNumbers(
        "SmartFRZ's own cost is negligible",
        "Section C",
        ("overhead-{scale}/quantities.csv",),
        judges.overhead,
    ),
    _OfNumbers(
        "Time falls almost as compute does",
        "Section 2",
        ("bench-whole_runs/whole_runs.csv",),
        judges.time,
    ),
)
