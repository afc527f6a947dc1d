"""Provenance of results: machine, versions, hash of the code, command and date."""

import ast
import hashlib
import platform
import re
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
    *("smartfrz", "baselines"),
    *("experiments/config.py", "experiments/options.py"),
    *("experiments/methods.py", "experiments/policies.py"),
    *("experiments/data", "experiments/models", "experiments/runs"),
)
"""The files and folders that a run's numbers depend on."""

_REPOSITORY = (*("smartfrz", "baselines", "experiments", "scripts", "benchmarks"), "pyproject.toml")


def provenance(command: str, code: tuple[str, ...] = RUN_CODE) -> dict[str, Any]:
    """Returns machine, torch version, hash of the code, git commit, command and date.

    Args:
        command: the user's command.
        code: files and folders that determine the result, relative to the root of the checkout.
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
    """Returns the processor, torch's number of threads, the GPU, and the number of processes."""
    return {
        "cpu": _cpu_name(),
        "cores": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": world_size(),
    }


def _cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, with its family and model: virtual machines have the same name."""
    lines = info.read_text().splitlines() if info.exists() else []
    facts = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    name = facts.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= facts.keys():
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def code_hash(code: tuple[str, ...] = RUN_CODE, root: Path = ROOT) -> str:
    """Computes a hash of Python code: 12 hexadecimal digits.

    It does not depend on comments, docstrings and layout. It is computed once per process, because
    later changes of the files do not affect the modules that the process has loaded.

    Args:
        code: files and folders, relative to ``root``.
        root: the root of the checkout.
    """
    return _code_hash(code, root)


@lru_cache
def _code_hash(code: tuple[str, ...], root: Path) -> str:
    digest = hashlib.sha256()
    for place in code:
        files = [root / place] if place.endswith(".py") else sorted((root / place).rglob("*.py"))
        for file in files:
            if "integrations" in file.parts:  # no run depends on other packages' trainers
                continue
            digest.update(file.relative_to(root).as_posix().encode())
            for word in _words(ast.parse(file.read_text(encoding="utf-8"))):
                digest.update(f"{word}\n".encode())
    return digest.hexdigest()[:12]


def _words(node: Any) -> Iterator[str]:
    """Yields the content of a syntax tree, in a form that is equal for all versions of Python."""
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
    """Whether a node is a docstring, or another statement that is a string only."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Returns the commit of this checkout, with "+" if code differs from it; or "unknown"."""
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
