"""Build hooks of the documentation: files from outside ``docs/`` in its pages.

The pages link to files of the repository by their paths there, and the links also work where the
pages are read as plain files. The hooks add the linked files to the site. A line
``<!-- results/table2-small/table.md -->`` is replaced by the content of that file.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
_INCLUDE = re.compile(r"^<!-- (results/\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")
_TITLE = re.compile(r"\A# .*\n+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside ``docs/`` that pages link to, directly or through another file."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    found, pending = set(pages), pages
    while pending:
        path = pending.pop()
        text = _included((ROOT / path).read_text(encoding="utf-8"), path)
        for target in _targets(text, path) - found:
            found.add(target)
            if target.startswith("docs/") or not (ROOT / target).is_file():
                continue  # the build itself checks these links
            place = str(ROOT / target)
            hidden = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, target, abs_src_path=place, inclusion=hidden))
            if target.endswith(".md"):
                pending.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Includes result files, and makes links those of the site, where ``docs/`` is the root."""
    path = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def in_site(link: re.Match[str]) -> str:
        return posixpath.relpath(_target(link["path"], path).removeprefix("docs/"), here or ".")

    return _LINK.sub(in_site, _included(markdown, path))


def _included(text: str, path: str) -> str:
    """The text of a file with the result files that it includes, their links relative to it."""
    folder = posixpath.dirname(path) or "."

    def content(include: re.Match[str]) -> str:
        file = include[1]
        result = _TITLE.sub("", (ROOT / file).read_text(encoding="utf-8"))
        return _LINK.sub(lambda m: posixpath.relpath(_target(m["path"], file), folder), result)

    return _INCLUDE.sub(content, text)


def _targets(text: str, path: str) -> set[str]:
    return {_target(link["path"], path) for link in _LINK.finditer(text)}


def _target(link: str, path: str) -> str:
    """The path, from the root of the repository, of a link in the file at ``path``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
