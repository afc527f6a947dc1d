"""What every test starts from: one thread, the same random numbers, an empty cache, no GPU."""

import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from experiments.reporting import style

torch.set_num_threads(1)
# No test asserts a time: on a busy machine an example may take any.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")
# No test needs the network, and without one each attempt would be repeated for a minute.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def pytest_configure(config: pytest.Config) -> None:
    """Only the tests that ask for a GPU see one: the others make their tensors on the CPU."""
    asked = config.option.markexpr
    if "gpu" not in asked or "not gpu" in asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_collectstart() -> None:
    """The tensors that a module makes when it is imported are the same in every run, too."""
    torch.manual_seed(0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Processes that share the tests must find them in one order, which sets do not have."""
    for marker in metafunc.definition.iter_markers("parametrize"):
        values = marker.args[1] if len(marker.args) > 1 else marker.kwargs["argvalues"]
        assert not isinstance(values, set | frozenset), f"{metafunc.function.__name__}: a set"


@pytest.fixture(scope="session", autouse=True)
def paper_font_type() -> Iterator[int]:
    """Figures embed outlines: TrueType, as in papers, takes a third of the time of saving one."""
    real = style.STYLE["pdf.fonttype"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style.STYLE, "pdf.fonttype", 3)
        yield real


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def caches(tmp_path_factory) -> Iterator[Path]:
    """New folders; pytest's own numbered ones take longer the more there are."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def empty_cache(caches, monkeypatch) -> None:
    """Else a test would go on from a checkpoint that an earlier one left, or the user's own."""
    cache = next(caches)
    cache.mkdir()
    monkeypatch.setenv("SMARTFRZ_CACHE", str(cache))


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """A folder in which the command of a module, its ``run``, was run once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMARTFRZ_CACHE", str(folder / "cache"))
        request.module.run(patch, folder)
    return folder


@pytest.fixture
def copied(made, tmp_path, monkeypatch):
    """A copy of that folder, to be damaged."""
    shutil.copytree(made, tmp_path / "copied")
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "copied" / "cache"))
    return tmp_path / "copied"
