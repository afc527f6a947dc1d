"""Plain English: phrases that readers stumbled over do not come back."""

import re
import subprocess
from pathlib import Path

from experiments.files import ROOT

# "Training" is no count noun: it is a run. Layers converge, they are not done. And so on.
PHRASES = re.compile(
    r"\b(trainings|(?:a|one|each) training|(?:is|are) done|(?:can.t|cannot) be told|sceptic\w*"
    r"|who (?:decides|tells)|frozen front)\b",
    re.IGNORECASE,
)
PROSE = (".py", ".md", ".toml", ".tex", ".yml", ".cff", "Makefile")


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_has_one_of_the_phrases():
    files = [file for file in tracked_files() if file.name.endswith(PROSE) and file.exists()]
    assert len(files) > 200
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match[0]}"
        for file in files
        if file != Path(__file__)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if (match := PHRASES.search(line))
    ]
    assert found == []
