"""The documentation: its code runs, its commands exist, its results are files, its site builds."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from lightning.pytorch import LightningModule
from torch import nn
from transformers import TrainingArguments

import baselines
import smartfrz
from experiments.data import registry as data_registry
from experiments.files import ROOT
from experiments.methods import METHODS
from experiments.models import registry as network_registry
from experiments.reporting.contents import SECTIONS
from experiments.runs.run_frame import read_csv
from tests.helpers.markdown import PAGES, blocks, commands, prose, read
from tests.helpers.scripted import Scripted
from tests.helpers.table_folder import run_table, use

Names = dict[str, Any]


def loop_ran(names: Names) -> None:
    assert names["freezer"].state_dict()["step"] == 3
    assert isinstance(names["freezer"].policy, smartfrz.SmartFRZ)


def aux_is_a_head(names: Names) -> None:
    heads = {layer.name for layer in names["freezer"].layers if layer.is_head}
    assert heads == {"aux", "head"}


def savings_are_estimated(names: Names) -> None:
    assert [*names["estimated"].times] == [0.5, 0.7, 0.9]
    assert "time of the run" in str(names["estimated"])


def threshold_is_set(names: Names) -> None:
    assert names["policy"].threshold == 0.3 != names["policy"].predictor.threshold


def the_budget_is_spent(names: Names) -> None:
    for _ in range(names["total_steps"]):
        train_step(names)
    spent = names["freezer"].compute_spent / names["total_steps"]
    assert spent == pytest.approx(0.7, abs=0.5 / names["total_steps"])


def the_plan_alone_spends_the_budget(names: Names) -> None:
    assert isinstance(names["freezer"].policy, smartfrz.BudgetPlan)
    the_budget_is_spent(names)


def a_prefix_is_planned(names: Names) -> None:
    freezer, steps = names["freezer"], names["total_steps"]
    assert freezer.compute_spent == 0 and freezer.costs(["conv1"]) < 1
    for _ in range(steps):
        train_step(names)
    assert freezer.compute_spent / steps == pytest.approx(0.75, abs=0.5 / steps)


def a_run_is_shown(names: Names) -> None:
    assert Path("freezing.png").read_bytes().startswith(b"\x89PNG")
    assert "0 of 4 layers are frozen" in str(names["freezer"])


def freeze_out_trains(names: Names) -> None:
    train_step(names)
    assert len({group["lr"] for group in names["optimizer"].param_groups}) == 1
    train_step(names)
    rates = [group["lr"] for group in names["optimizer"].param_groups]
    assert rates == sorted(rates) and rates[0] < rates[-1]


def rate_follows_the_budget(names: Names) -> None:
    assert names["freezer"].frozen
    assert names["budget"].is_spent and names["budget"].steps == 0.6 * names["total_steps"]
    assert len(names["rates"]) > names["budget"].steps
    assert names["rates"] == sorted(names["rates"], reverse=True)
    assert names["optimizer"].param_groups[0]["lr"] < 0.2 * names["rates"][0]


def modules_keep_less(names: Names) -> None:
    replaced = [module for module in names["model"].modules() if "forward" in vars(module)]
    assert {type(module) for module in replaced} >= {nn.Conv2d, nn.BatchNorm2d, nn.ReLU}


def features_are_cached(names: Names) -> None:
    assert names["freezer"].frozen
    assert names["cached"].cut


def wrapped_model_freezes(names: Names) -> None:
    for _ in range(3):
        train_step({**names, "model": names["wrapped"]})
    assert list(names["freezer"].frozen) == ["conv1"]
    assert names["model"].conv1.weight.grad is None


def sharded_model_freezes(names: Names) -> None:
    for _ in range(3):
        names["train_step"]()
    assert list(names["freezer"].frozen) == ["conv1"]
    assert hasattr(names["model"].conv1.weight, "full_tensor")


def freezes_are_gathered(names: Names) -> None:
    assert isinstance(names["freezer"].policy, smartfrz.Gathered)
    assert names["freezer"].policy.policy is names["policy"]
    assert names["freezer"].layers


def scaled_steps_train(names: Names) -> None:
    assert names["freezer"].state_dict()["step"] == 3
    assert torch.isfinite(names["loss"])
    assert not torch.equal(names["model"].head.weight, names["start"])


def checkpoint_is_loaded(names: Names) -> None:
    assert names["file"].exists()
    assert names["state"]["freezer"] == names["freezer"].state_dict()


def frozen_layers_are_thawed(names: Names) -> None:
    assert names["freezer"].frozen == {}  # nothing was frozen yet
    for _ in range(3):
        names["train_step"]()
    assert list(names["freezer"].frozen) == ["conv1"]
    exec(blocks("docs/freeze.md", "python")[-1], names)
    assert names["freezer"].frozen == {}
    assert names["model"].conv1.weight.requires_grad


def the_trainer_freezes(names: Names) -> None:
    freezer = names["callback"].freezer
    assert freezer.frozen
    assert freezer.compute_spent / freezer.total_steps == pytest.approx(0.7, abs=0.03)


def the_callback_makes_a_plan(names: Names) -> None:
    policy = names["callback"]._make_policy(20)
    assert isinstance(policy, smartfrz.BudgetPlan) and policy.total_steps == 20


def micro_batches_are_no_steps(names: Names) -> None:
    assert names["freezer"].steps == 1  # of three micro-batches, two make a step
    assert names["freezer"] in names["accelerator"]._custom_objects


def the_optimizer_calls_the_freezer(names: Names) -> None:
    images, labels = names["loader"][0]
    names["loss_fn"](names["model"](images), labels).backward()
    names["optimizer"].step()
    assert names["freezer"].steps == 1


def the_input_side_is_detached(names: Names) -> None:
    assert len(names["language_model"].emb._forward_hooks) == 1


class LanguageModel(nn.Module):
    """An embedding whose weights are those of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.emb.weight


CHECKS: dict[str, list[Callable[[Names], None]]] = {
    "docs/index.md": [loop_ran],
    "docs/trainers.md": [
        *(the_trainer_freezes, the_callback_makes_a_plan),
        *(the_trainer_freezes, micro_batches_are_no_steps),
        *(the_optimizer_calls_the_freezer, the_input_side_is_detached),
    ],
    "docs/freeze.md": [
        *(
            loop_ran,
            aux_is_a_head,
            savings_are_estimated,
            threshold_is_set,
            the_budget_is_spent,
            the_plan_alone_spends_the_budget,
            a_prefix_is_planned,
            freeze_out_trains,
        ),
        *(a_run_is_shown, rate_follows_the_budget, modules_keep_less, features_are_cached),
        *(wrapped_model_freezes, sharded_model_freezes),
        *(freezes_are_gathered, scaled_steps_train, checkpoint_is_loaded, frozen_layers_are_thawed),
    ],
}
"""For each page whose code blocks stand alone, a check of each block, in order."""

CASES = [
    pytest.param(code, check, id=f"{Path(page).stem}-{check.__name__}")
    for page, checks in CHECKS.items()
    for code, check in zip(blocks(page, "python"), checks, strict=True)
]


class Net(nn.Module):
    """Two convolutions with batch norms, a head, and an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.aux, self.head = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x))).mean((2, 3))
        aux = self.aux(x)
        out = self.head(x) + 0.1 * aux
        return out if labels is None else {"loss": nn.functional.cross_entropy(out, labels)}


class Module(LightningModule):
    """The same network in Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.net(*batch)["loss"]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Loader(list[Any]):
    """A list of batches; Lightning takes a plain list for several data loaders."""


def train_step(names: Names) -> None:
    names["rates"].append(names["optimizer"].param_groups[0]["lr"])
    images, labels = names["loader"][0]
    names["loss_fn"](names["model"](images), labels).backward()
    names["freezer"].step()
    names["optimizer"].step()
    names["optimizer"].zero_grad()


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The names that code blocks take for granted."""
    monkeypatch.chdir(tmp_path)  # Lightning writes checkpoints
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    policy = Scripted({1: ["conv1"]})
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
    found: Names = {
        **{"model": model, "optimizer": optimizer, "policy": policy, "device": "cpu"},
        **{"loader": Loader([(images, labels)] * 3), "loss_fn": nn.CrossEntropyLoss()},
        **{"numbered_loader": [([0, 1, 2, 3], images, labels)] * 5, "example_inputs": images},
        **{"freezer": smartfrz.Freezer(model, optimizer, policy), "total_steps": 20},
        **{"file": tmp_path / "checkpoint.pt", "rates": [], "start": model.head.weight.clone()},
    }
    found["args"] = TrainingArguments(
        output_dir=str(tmp_path), max_steps=20, report_to="none", use_cpu=True
    )
    found["train_dataset"] = [{"x": each, "labels": y} for each in images for y in labels]
    found["module"], found["language_model"] = Module(), LanguageModel()
    found["train_step"] = lambda: train_step(found)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield found
    dist.destroy_process_group()


@pytest.mark.parametrize(("code", "check"), CASES)
def test_a_code_block_runs(code: str, check: Callable[[Names], None], names: Names):
    exec(code, names)
    check(names)


def test_every_page_with_code_is_run():
    pages = {page for page in PAGES if blocks(page, "python")}
    assert pages == {*CHECKS, "README.md", "docs/extend.md"}


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
    for section in SECTIONS:
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
