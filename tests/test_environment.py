"""What is installed: environment.yml and pyproject.toml agree, and declare all that is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml

from experiments.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]


def test_conda_and_pip_users_get_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert packages["pip"][-1] == "--editable ."
    assert sorted(packages["pip"][:-1]) == sorted(set(REQUIREMENTS))


def test_every_requirement_has_a_lower_bound():
    assert len(REQUIREMENTS) > 20
    for requirement in REQUIREMENTS:
        assert ">=" in requirement


def _imported(folder: str) -> set[str]:
    """Top-level packages that the modules of a folder import, wherever in a file."""
    names = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize(
    "folder", ["smartfrz", "baselines", "experiments", "scripts", "benchmarks", "examples", "tests"]
)
def test_all_that_is_imported_is_declared(folder: str):
    ours = {"smartfrz", "baselines", "experiments", "scripts", "benchmarks", "tests", "docs"}
    # memsave_torch is compared with in a benchmark, where somebody has installed it.
    optional = {"memsave_torch"}
    declared = {_normalised(re.split(r"[>=\[]", requirement)[0]) for requirement in REQUIREMENTS}
    distributions = packages_distributions()
    for name in _imported(folder) - ours - optional - sys.stdlib_module_names:
        found = {_normalised(each) for each in distributions.get(name, [])}
        assert found & declared, f"{folder}/ imports {name}, which pyproject.toml does not declare"


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
