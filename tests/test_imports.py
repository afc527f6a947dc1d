"""What may import what: the library stands on torch, safetensors and huggingface_hub alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from experiments.files import ROOT

ORDER = ["smartfrz", "baselines", "experiments", "scripts", "benchmarks"]

USE_THE_LIBRARY = """
import pkgutil, sys
from importlib import import_module
import smartfrz, torch
for module in pkgutil.iter_modules(smartfrz.__path__):
    import_module(f"smartfrz.{module.name}")

class First:
    def layers_to_freeze(self, active, step):
        return active[:1]

model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
freezer = smartfrz.Freezer(model, torch.optim.SGD(model.parameters(), lr=0.1), First())
model(torch.randn(8, 3)).sum().backward()
assert freezer.step()
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def imports_of(package: str) -> Iterator[tuple[str, str]]:
    """(file, top-level package) of every import in a package, wherever in a file it stands."""
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [package if node.level else str(node.module)]
            else:
                continue
            for name in names:
                yield str(file.relative_to(ROOT)), name.split(".")[0]


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way(package: str):
    above = ORDER[ORDER.index(package) + 1 :]
    imported = list(imports_of(package))
    assert imported
    assert [(file, name) for file, name in imported if name in above] == []


def test_the_library_itself_imports_four_packages():
    known = {"smartfrz", "torch", "numpy", "safetensors", "huggingface_hub"}
    allowed = known | sys.stdlib_module_names
    imported = set(imports_of("smartfrz"))
    assert [(file, name) for file, name in imported if name not in allowed] == []


def test_using_the_library_loads_nothing_heavy():
    run = subprocess.run(
        [sys.executable, "-c", USE_THE_LIBRARY], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "smartfrz" in loaded
    heavy = {"torchvision", "timm", "transformers", "datasets", "pandas", "wandb", "matplotlib"}
    assert loaded & {*heavy, "sklearn", "PIL", *ORDER[1:]} == set()
