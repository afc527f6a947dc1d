"""A single page with all results, made from the files under ``results/`` only."""

import base64
import html
import re
from pathlib import Path

from markdown_it import MarkdownIt

from experiments.reporting.claims.paper import paper_claims
from experiments.reporting.claims.tables import overall_claims
from experiments.reporting.contents import Section, sections
from experiments.reporting.equal_compute.headline import headline
from experiments.reporting.full_training import full_training
from experiments.reporting.overview import overview
from experiments.reporting.summary import summary

# Scales figures of 200 dots per inch to the font size of the surrounding text.
_PIXELS_PER_DOT = 0.7
_PICTURE = re.compile(r'<img src="([^"]+)"')


_TEXTS = (
    *("table.md", "differences.md", "table_contribution.md", "claims.md", "verdict.md"),
    "pooled.md",
    *("pooled_contribution.md", "ablations.md", "paces.md", "paces_contribution.md"),
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 78rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 3rem; border-top: 1px solid #ddd;
  padding-top: 1rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
td[style*="left"] { white-space: normal; min-width: 7rem; max-width: 28rem; }
th { border-bottom: 1.5px solid #888; text-align: left; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
nav ul { columns: 2 16rem; padding-left: 1.2rem; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd; }
  img { background: #fff; padding: .3rem; border-radius: 4px; box-sizing: border-box; }
  th, td { border-color: #333; } h2 { border-color: #333; } a { color: #8ab4f8; } }
"""


def report(results: Path, scale: str) -> str:
    """Returns all results of a scale in Markdown, with image paths relative to ``results``."""
    lines = [
        "# SmartFRZ: results",
        "",
        f"All results at scale {scale}, with the paper's numbers where it reports them. Captions "
        "state the machine, the versions and the command of each measurement.",
        "",
        *_first_page(results, scale),
        "## The paper's claims",
        "",
        paper_claims(results, scale),
        "## Overview",
        "",
        overview(results, scale),
        "## Claims of all tables together",
        "",
        overall_claims(results, scale),
        "## The paper's comparisons",
        "",
        summary(results, scale),
        "## What full training reaches",
        "",
        full_training(results, scale),
    ]
    for section in sections(results):
        if parts := _parts(section, results, scale, shown="\n".join(lines)):
            lines += [f"## {section.heading}", "", *parts]
    return "\n".join(lines)


def main_table(results: Path, scale: str) -> str:
    """Returns the main comparison in Markdown.

    It is that of SmartFRZ with the strongest control at equal compute; before that was run, that of
    SmartFRZ with its rivals, each at the compute that it spends.

    Args:
        results: the folder of all results.
        scale: scale of the tables.
    """
    folder = results / f"compute-{scale}"
    if (folder / "differences.csv").exists():
        return headline(folder)
    return summary(results, scale, ["table2"])


def _first_page(results: Path, scale: str) -> list[str]:
    """Returns the figure and the table of the main comparison."""
    figures = (f"{name}-{scale}/accuracy_against_compute.png" for name in ("compute", "table2"))
    figure = next((each for each in figures if (results / each).exists()), None)
    shown = [f"![Accuracy against compute]({figure})", ""] if figure else []
    return [*shown, main_table(results, scale)]


def page(text: str, results: Path) -> str:
    """Renders a report as a self-contained HTML file with embedded images."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = _PICTURE.sub(lambda found: _inlined(results / html.unescape(found[1])), body)
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")
    headings = re.findall(r"<h2>(.*?)</h2>", body)
    for number, heading in enumerate(headings):
        body = body.replace(f"<h2>{heading}</h2>", f'<h2 id="s{number}">{heading}</h2>', 1)
    links = "".join(f'<li><a href="#s{i}">{each}</a></li>' for i, each in enumerate(headings))
    body = body.replace("<h2", f"<nav><ul>{links}</ul></nav>\n<h2", 1)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>SmartFRZ: results</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}</body></html>\n"
    )


def _parts(section: Section, results: Path, scale: str, shown: str) -> list[str]:
    """Returns the texts of a section, followed by the images that are not shown yet."""
    folder = results / section.folder(scale)
    if not folder.is_dir():
        return []
    texts = [folder / name for name in (*_TEXTS, f"{section.name}.md")]
    parts = [_relative(file, results) for file in texts if file.exists()]
    shown += "\n".join(parts)
    for picture in sorted(folder.glob("*.png")):
        name = picture.relative_to(results).as_posix()
        if name not in shown:
            parts.append(f"![{_alternative(picture)}]({name})")
    return [line for part in parts for line in (part, "")]


def _relative(file: Path, results: Path) -> str:
    """Reads a text, lowers its headings, and makes image paths relative to ``results``."""
    text = file.read_text(encoding="utf-8").strip()
    text = re.sub(r"^(#+) ", r"##\1 ", text, flags=re.MULTILINE)
    folder = file.parent.relative_to(results).as_posix()
    return re.sub(r"!\[(.*?)\]\((?!https?:)(.*?)\)", rf"![\1]({folder}/\2)", text)


def _alternative(picture: Path) -> str:
    return picture.stem.replace("_", " ")


def _inlined(picture: Path) -> str:
    """Returns the start of an ``img`` tag with an embedded image, scaled to print size."""
    data = picture.read_bytes()
    width = int.from_bytes(data[16:20], "big")  # from the PNG header
    encoded = base64.b64encode(data).decode()
    return f'<img width="{round(width * _PIXELS_PER_DOT)}" src="data:image/png;base64,{encoded}"'
