"""The documentation: its commands exist, its results are files, its site builds."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

import baselines
import smartfrz
from experiments.data import registry as data_registry
from experiments.files import ROOT
from experiments.methods import METHODS
from experiments.models import registry as network_registry
from experiments.reporting.contents import sections
from experiments.runs.run_frame import read_csv
from tests.helpers.markdown import PAGES, blocks, commands, prose, read
from tests.helpers.table_folder import run_table, use


def test_the_added_method_network_and_data_set_make_a_table(tmp_path, monkeypatch):
    """All code of the page on extending the harness, each block where the page puts it."""
    for name, registry in (
        *(("front_to_back", METHODS), ("wide", network_registry.NETWORKS)),
        ("flowers", data_registry.DATASETS),
    ):
        monkeypatch.setitem(registry, name, None)  # taken out again after the test
    # A new module, and then the entry, in the module of the registry.
    places = {
        "baselines.front_to_back": "experiments.methods",
        "experiments.models.wide": "experiments.models.registry",
        "experiments.data.flowers": "experiments.data.registry",
    }
    code = iter(blocks("docs/extend.md", "python"))
    for new, old in places.items():
        assert f"`{new.replace('.', '/')}.py`" in read("docs/extend.md")
        module = types.ModuleType(new)
        monkeypatch.setitem(sys.modules, new, module)
        exec(next(code), vars(module))
        exec(next(code), dict(vars(import_module(old))))
    assert next(code, None) is None

    generator = np.random.default_rng(0)
    arrays = {
        f"{split}_{kind}": values
        for split in ("train", "test")
        for kind, values in (
            ("images", generator.integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)),
            ("labels", np.arange(64) % 4),
        )
    }
    np.savez(tmp_path / "flowers.npz", **arrays)
    (tmp_path / "specs").mkdir()
    [spec] = blocks("docs/extend.md", "toml")
    (tmp_path / "specs" / "flowers.toml").write_text(spec)
    monkeypatch.setenv("SMARTFRZ_DATA", str(tmp_path))
    use(tmp_path, monkeypatch)
    assert run_table(monkeypatch, name="flowers") == 0

    runs = read_csv(tmp_path / "results" / "flowers-demo" / "runs.csv")
    frozen = dict(zip(runs["method"], runs["frozen"], strict=True))
    assert frozen == {"full": "{}", "front_to_back": '{"0": 2, "3": 4}'}
    table = (tmp_path / "results" / "flowers-demo" / "table.md").read_text()
    assert "| Wide net | Flowers | Full training |" in table and "| Front to back |" in table


COMMANDS = [(page, line) for page in PAGES if page != "README.md" for line in commands(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_exists(page: str, command: str):
    words = [word for word in shlex.split(command) if not word.startswith("SMARTFRZ_DATA=")]
    if words[0] == "make":
        planned = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True)
        assert planned.returncode == 0, planned.stderr
    elif words[:2] == ["pip", "install"]:
        folder, _, extra = words[2].partition("[")
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        assert not extra or extra.rstrip("]") in project["optional-dependencies"]
    elif words[1:3] == ["-m", "pytest"]:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
        markers = {marker.split(":")[0] for marker in settings["ini_options"]["markers"]}
        assert all((ROOT / word).exists() for word in words[3:] if word.endswith(".py"))
        assert words[words.index("-m", 3) + 1] in markers if "-m" in words[3:] else True
    else:
        # What is installed runs by any python, and what is not by that of the checkout.
        is_installed = words[2].startswith("smartfrz.")
        assert words[:2] == ["python" if is_installed else ".venv/bin/python", "-m"]
        module = ROOT / words[2].replace(".", "/")
        file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        source = file.read_text()
        assert all(f'"{word}"' in source for word in words[3:] if word.startswith("--"))


@pytest.mark.parametrize("page", PAGES)
def test_no_measured_number_is_typed(page: str):
    """Numbers with a spread, percentages with decimals, signed differences: they are in files."""
    typed = re.findall(r"±|\d\.\d+ ?%|[+\u2212]\d+\.\d+|\b\d+\.\d{3,}\b", prose(page))
    assert typed == []


def test_every_result_is_on_the_page_of_results():
    page = read("docs/results.md")
    for section in sections(ROOT / "results"):
        folder = ROOT / "results" / section.folder("small")
        texts = {file.name for file in folder.glob("*.md")} if folder.is_dir() else set()
        for name in texts:
            assert f"<!-- results/{folder.name}/{name} -->" in page


@pytest.mark.parametrize("page", PAGES)
def test_no_result_or_picture_is_on_a_page_twice(page: str):
    text = read(page)
    shown = re.findall(r"<!-- (results/\S+) -->|!\[[^\]]*\]\(([^)]+)\)", text)
    names = [include or picture for include, picture in shown]
    assert len(names) == len(set(names))


def test_few_entries_at_the_top():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert 1 <= len(settings["nav"]) <= 8
    assert settings["theme"]["font"] is False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    pytest.importorskip("mkdocs", reason="the docs dependencies are not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    return folder


def test_the_site_contains_results(site: Path):
    page = (site / "results" / "index.html").read_text()
    for name in re.findall(r"<!-- (\S+) -->", read("docs/results.md")):
        rows = [row for row in read(name).splitlines() if row.startswith("| ")]
        cells = [cell.strip() for cell in rows[-1].split("|")] if rows else []
        assert all(cell.replace("\\", "").strip("`") in page for cell in cells), name
    pictures = set(re.findall(r'<img [^>]*src="([^"]+)"', page))
    assert len(pictures) > 30
    for picture in pictures:
        assert (site / "results" / picture).read_bytes().startswith(b"\x89PNG")


def test_the_site_fetches_nothing(site: Path):
    for file in site.rglob("index.html"):
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", file.read_text())
        fetched = [tag for tag in tags if re.search(r'(?:src|href)="(?:https?:)?//', tag)]
        assert [tag for tag in fetched if 'rel="canonical"' not in tag] == []


def test_every_public_name_is_documented(site: Path):
    inventory = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(inventory.split(b"zlib.\n", 1)[1]).decode().splitlines()
    documented = {line.split()[0].rsplit(".", 1)[-1] for line in lines if " py:" in line}
    packages = [smartfrz, baselines, *map(import_module, _packages_of_the_library())]
    public = {name for package in packages for name in package.__all__}
    assert public - {"__version__"} <= documented


def _packages_of_the_library() -> list[str]:
    return [f"smartfrz.{path.parent.name}" for path in (ROOT / "smartfrz").glob("*/__init__.py")]
