"""The wheel: what it contains, and that the library works from it alone."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from experiments.files import ROOT

# Nothing of these may be needed: the import of each fails.
ABSENT = [
    *("baselines", "experiments", "scripts", "benchmarks", "tests"),
    *("torchvision", "timm", "transformers", "datasets", "pandas", "matplotlib", "wandb"),
    *("scipy", "sklearn", "PIL"),
]

USE = """
import sys
sys.modules |= dict.fromkeys({absent!r})
import torch
from torch import nn
model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
loader = [(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))] * 3
loss_fn = nn.CrossEntropyLoss()
{readme}
import smartfrz
assert freezer.state_dict()["step"] == 3
print(smartfrz.__file__, smartfrz.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built by the backend that is installed, from the files of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    code = (
        "from setuptools import build_meta; "
        f"build_meta.build_wheel({str(folder)!r}, {{'--build-option': []}})"
    )
    source = folder / "source"
    source.mkdir()
    for name in ("smartfrz", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_it_holds_the_library_alone(wheel):
    names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"smartfrz"}
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "smartfrz").rglob("*.py")}
    pretrained = [
        f"smartfrz/predictor/pretrained/{name}/{file}"
        for name in ("drift", "outputs", "raw")
        for file in ("config.json", "model.safetensors", "README.md")
    ]
    assert set(names) >= {*files, *pretrained, "smartfrz/py.typed"}
    assert any(name.endswith("/LICENSE") for name in names)


def test_its_metadata_says_what_it_needs(wheel):
    metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))).decode()
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(needed) == ["huggingface_hub", "numpy", "safetensors", "torch"]
    assert re.search(r"^Project-URL: Paper, ", metadata, re.MULTILINE)
    assert re.search(r"^License-Expression: Apache-2.0$", metadata, re.MULTILINE)


def test_the_readme_s_lines_run_with_the_wheel_alone(wheel, tmp_path):
    wheel.extractall(tmp_path)
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    code = USE.format(absent=ABSENT, readme=readme)
    # -P and another folder: nothing of the checkout is on the path.
    run = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    file, version = run.stdout.split()[-2:]
    assert Path(file).is_relative_to(tmp_path)
    assert (
        f"\nVersion: {version}\n"
        in wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))).decode()
    )
