"""Imports: their direction between and inside the packages, and what the library depends on."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from experiments.files import ROOT

ORDER = ["smartfrz", "baselines", "experiments", "scripts", "benchmarks"]

# From the ground up: what stands in one line imports from lines above it only.
LIBRARY = [
    {"version", "sharding", "compilation", "optimizers", "saved_state"},
    {"distributed"},
    {"graph"},
    {"grouping"},
    {"layers"},
    {"cka", "memory", "freezing", "accumulation", "initialisation"},
    {"predictor", "watches", "cost", "decisions"},
    {"inspect"},
    {"freezer"},
    {"policies", "feature_cache"},
    {"integrations", "estimation", "capture"},
]
TRAINERS = ("transformers", "lightning")
# Packages of the harness that must not know of others.
NEVER = {
    "data": {"models", "runs", "tables", "predictor", "evidence", "studies", "reporting"},
    "models": {"runs", "tables", "predictor", "evidence", "studies", "reporting"},
    "runs": {"tables", "predictor", "evidence", "studies", "reporting"},
    "reporting": {"tables", "predictor", "evidence", "studies"},
    "tables": {"evidence", "studies"},
    "predictor": {"evidence", "studies", "reporting"},
}

USE_THE_LIBRARY = """
import pkgutil, sys
from importlib import import_module
import smartfrz, torch
for module in pkgutil.walk_packages(smartfrz.__path__, "smartfrz."):
    if module.name not in ("smartfrz.integrations.transformers", "smartfrz.integrations.lightning"):
        import_module(module.name)

class First:
    def layers_to_freeze(self, active, step):
        return active[:1]

model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
freezer = smartfrz.Freezer(model, torch.optim.SGD(model.parameters(), lr=0.1), First())
model(torch.randn(8, 3)).sum().backward()
assert freezer.step()
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever they stand in it, but not for type hints alone."""
    tree = ast.parse(file.read_text())
    for_types = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way(package: str):
    above = ORDER[ORDER.index(package) + 1 :]
    imported = [(file.name, name) for file in files_of(package) for name in imports_of(file)]
    assert imported
    assert [(file, name) for file, name in imported if name.split(".")[0] in above] == []


def test_inside_the_library_imports_run_one_way():
    floor = {name: i for i, names in enumerate(LIBRARY) for name in names}
    found = {
        file.relative_to(ROOT / "smartfrz").parts[0].removesuffix(".py")
        for file in files_of("smartfrz")
    } - {"__init__"}
    assert found == floor.keys()
    for file in files_of("smartfrz"):
        here = file.relative_to(ROOT / "smartfrz").parts[0].removesuffix(".py")
        for name in imports_of(file):
            top, _, rest = name.partition(".")
            there = rest.partition(".")[0]
            if top == "smartfrz" and there in floor and here not in ("__init__", there):
                assert floor[there] < floor[here], f"{file} imports {name}"


@pytest.mark.parametrize("package", NEVER)
def test_inside_the_harness_packages_do_not_know_of_those_above(package: str):
    # The cache of trained predictors is below all that trains them.
    allowed = "experiments.predictor.cache"
    for file in files_of(f"experiments/{package}"):
        for name in imports_of(file):
            parts = name.split(".")
            if parts[0] == "experiments" and len(parts) > 1 and not name.startswith(allowed):
                assert parts[1] not in NEVER[package], f"{file} imports {name}"


@pytest.mark.parametrize("package", ORDER)
def test_no_modules_import_each_other_in_a_circle(package: str):
    known = {module_of(file) for file in files_of(package)}
    graph = {
        module_of(file): {n for n in imports_of(file) if n in known} - {module_of(file)}
        for file in files_of(package)
        if file.name != "__init__.py"
    }
    assert list(TopologicalSorter(graph).static_order())


def test_packages_of_the_library_are_imported_by_their_public_names():
    """From outside a package ``smartfrz.x.y`` is not imported, but what ``smartfrz.x`` exports."""
    modules = {module_of(file) for file in files_of("smartfrz")}
    inner = {name for name in modules if name.count(".") == 2}
    for package in ORDER:
        for file in files_of(package):
            own = module_of(file).rpartition(".")[0]
            for name in imports_of(file):
                assert name not in inner or name.rpartition(".")[0] in (own, module_of(file)), (
                    f"{file} imports {name}"
                )


def test_no_folder_has_more_than_fifteen_modules():
    files = [file for package in ORDER for file in files_of(package)]
    counts = Counter(file.parent for file in files if file.name != "__init__.py")
    assert max(counts.values()) <= 15, counts


def test_every_package_says_what_it_is_for():
    for package in ORDER:
        for file in files_of(package):
            assert ast.get_docstring(ast.parse(file.read_text())), f"{file} has no docstring"


def test_the_library_itself_imports_four_packages():
    known = {"smartfrz", "torch", "numpy", "safetensors", "huggingface_hub"}
    known |= {"matplotlib"}  # imported by Freezer.plot alone, if it is installed
    allowed = known | sys.stdlib_module_names
    files = [file for file in files_of("smartfrz") if integrated(file) not in TRAINERS]
    imported = [(file, name) for file in files for name in imports_of(file)]
    assert [(f, name) for f, name in imported if name.split(".")[0] not in allowed] == []


def integrated(file: Path) -> str:
    """The trainer that a module of ``smartfrz.integrations`` is for."""
    return file.stem if file.parent.name == "integrations" else ""


@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_integration_imports_its_own_trainer_alone(trainer: str):
    file = ROOT / f"smartfrz/integrations/{trainer}.py"
    imported = {name.partition(".")[0] for name in imports_of(file)}
    assert imported - sys.stdlib_module_names == {"smartfrz", "torch", trainer}
    for each in [file for package in ORDER for file in files_of(package)]:
        assert f"smartfrz.integrations.{trainer}" not in set(imports_of(each))


def test_using_the_library_loads_nothing_heavy():
    run = subprocess.run(
        [sys.executable, "-c", USE_THE_LIBRARY], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "smartfrz" in loaded
    heavy = {"torchvision", "timm", "transformers", "datasets", "pandas", "wandb", "matplotlib"}
    assert loaded & {*heavy, "sklearn", "PIL", *ORDER[1:]} == set()


def test_a_command_starts_without_the_slow_packages_of_its_runs():
    """Each takes a second or more, also for a mistake on the command line or a plan."""
    code = "import sys, scripts.table; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "experiments.tables.table" in loaded
    slow = {"torchvision", "timm", "transformers", "datasets", "wandb", "sklearn", "scipy"}
    assert loaded & slow == set()
