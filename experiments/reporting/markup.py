"""Tables of strings as Markdown, LaTeX and plain text."""

import re
from collections.abc import Sequence

BLANK = "\N{EN DASH}"
NOT_RUN = "not run"


def markdown(
    header: list[str], groups: Sequence[Sequence[list[str]]], caption: str, labels: int
) -> str:
    """Returns groups of rows as a GitHub Markdown table under a caption.

    Args:
        header: column titles, escaped.
        groups: groups of rows, with as many escaped cells as there are column titles.
        caption: the caption, not escaped.
        labels: number of leading text columns; the others are numbers.
    """
    rule = [":--"] * labels + ["--:"] * (len(header) - labels)
    rows = [header, rule, *(row for group in groups for row in group)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([escape_markdown(caption), "", *lines, ""])


def latex(
    header: list[str], groups: Sequence[Sequence[list[str]]], caption: str, labels: int
) -> str:
    """Returns groups of rows, separated by rules, as a LaTeX float; arguments as `markdown`."""
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


def text(header: list[str], groups: Sequence[Sequence[list[str]]], labels: int) -> str:
    """Returns groups of rows, separated by lines, as plain text; arguments as `markdown`."""
    rows = [header, *(row for group in groups for row in group)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "  ".join("-" * width for width in widths)
    blocks = [
        "\n".join(_aligned(row, widths, labels) for row in group) for group in ([header], *groups)
    ]
    return f"\n{line}\n".join(blocks) + "\n"


def joined(rows: Sequence[list[str]], labels: int) -> list[list[str]]:
    """Joins those rows of a group that have not been run and differ in their last label alone.

    Args:
        rows: the group, not escaped. A cell that has not been run begins with `NOT_RUN`.
        labels: number of leading text columns.

    Returns:
        The other rows, and after them one for each kind of row that has not been run, which names
        all of its kind.
    """
    unrun: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if _is_unrun(row[labels:]):
            unrun.setdefault(tuple(row[labels:]), []).append(row[labels - 1])
    others = [row for row in rows if not _is_unrun(row[labels:])]
    first = rows[0][: labels - 1]
    return [*others, *([*first, ", ".join(names), *cells] for cells, names in unrun.items())]


def _is_unrun(cells: Sequence[str]) -> bool:
    """Whether cells say that there was no run, and nothing else."""
    told = [cell for cell in cells if cell != BLANK]
    return bool(told) and all(cell.startswith(NOT_RUN) for cell in told)


def escape_markdown(text: str) -> str:
    """Escapes the special characters of Markdown."""
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
    """Escapes the special characters of LaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _aligned(row: list[str], widths: list[int], labels: int) -> str:
    pairs = list(zip(row, widths, strict=True))
    words = [word.ljust(width) for word, width in pairs[:labels]]
    return "  ".join([*words, *(word.rjust(width) for word, width in pairs[labels:])]).rstrip()
