"""Reading the repository's Markdown: code blocks, commands, links, anchors."""

import re
from collections.abc import Iterator
from pathlib import Path

from experiments.files import ROOT

PAGES = sorted(
    file.relative_to(ROOT).as_posix()
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
)
"""README.md, CONTRIBUTING.md, CHANGELOG.md and all pages of the documentation."""


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """A page without its code blocks and its filled slots."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!-- results/\S+ -->\n.*?<!-- end -->", "", text, flags=re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks."""
    return [line for block in blocks(page, "bash") for line in block.splitlines() if line]


def links(page: str) -> Iterator[tuple[Path, str]]:
    """The relative links of a page, pictures included: the file and the anchor, or an empty one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            yield file.resolve(), anchor


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", each) for each in words}
