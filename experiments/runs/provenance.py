"""Where a result comes from: machine, versions, the code that computed it, the command."""

import ast
import hashlib
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from experiments.files import ROOT
from smartfrz.distributed import world_size

RUN_CODE = (
    *("smartfrz", "baselines", "experiments/config.py", "experiments/methods.py"),
    *("experiments/data", "experiments/models", "experiments/runs"),
)
"""The files and folders that a run's numbers depend on."""

_REPOSITORY = (*("smartfrz", "baselines", "experiments", "scripts", "benchmarks"), "pyproject.toml")


def provenance(command: str, code: tuple[str, ...] = RUN_CODE) -> dict[str, Any]:
    """Machine, torch version, hash of the code, git commit, the command given and the time.

    Args:
        command: what the user gave.
        code: files and folders that the result depends on, from the root of the checkout.
    """
    return {
        "machine": machine(),
        "torch": torch.__version__,
        "code": code_hash(code),
        "git": git_commit(),
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, Any]:
    """Processor, threads that torch uses, GPU, and how many processes there are of that kind."""
    return {
        "cpu": _cpu_name(),
        "cores": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": world_size(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@lru_cache
def code_hash(code: tuple[str, ...] = RUN_CODE, root: Path = ROOT) -> str:
    """A hash of Python code: 12 hexadecimal digits.

    Comments, docstrings and layout make no difference to it. It is computed once in a process,
    which goes on with the modules that it has loaded, whatever becomes of their files.

    Args:
        code: files and folders, from the root.
        root: of the checkout.
    """
    digest = hashlib.sha256()
    for place in code:
        files = [root / place] if place.endswith(".py") else sorted((root / place).rglob("*.py"))
        for file in files:
            digest.update(file.relative_to(root).as_posix().encode())
            for word in _words(ast.parse(file.read_text(encoding="utf-8"))):
                digest.update(f"{word}\n".encode())
    return digest.hexdigest()[:12]


def _words(node: Any) -> Iterator[str]:
    """What a syntax tree holds, whichever version of Python has parsed it."""
    if isinstance(node, list):
        for child in node:
            yield from _words(child)
    elif isinstance(node, ast.AST):
        if _is_docstring(node):
            return
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if value is not None and value != [] and name not in ("ctx", "kind", "type_comment"):
                yield name
                yield from _words(value)
    else:
        yield repr(node)


def _is_docstring(node: ast.AST) -> bool:
    """Also the string below a constant that documents it: such a statement does nothing."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@lru_cache(maxsize=1)
def git_commit() -> str:
    """The commit of this checkout, with a plus if code differs from it; or unknown."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    return commit + ("+" if _git("status", "--porcelain", "--", *_REPOSITORY) else "")


def _git(*arguments: str) -> str | None:
    try:
        said = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()
