"""Published weights: downloaded once, into the cache, on which plans depend."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.config import Pretraining
from experiments.files import NeedsDownloadError, dry_run
from experiments.models.pretraining import (
    fetch_published_weights,
    has_published_weights,
    published_file,
    published_weights,
)
from experiments.models.registry import NETWORKS, build_model
from experiments.plan import downloads, plan
from experiments.spec import Spec

SPEC = Spec(
    "A table",
    ["full"],
    {
        "demo": {
            **{"models": ["plain"], "datasets": ["digits"], "seeds": [0]},
            "run": {"pretraining": {"dataset": "imagenet"}},
            "fallback": {"digits": {"dataset": "digits[5:10]", "epochs": 2}},
        }
    },
)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Published weights of a small network; a second download fails."""
    found, calls = build_model("plain", 10, 16).state_dict(), []

    def fetch() -> dict[str, Tensor]:
        calls.append(None)
        if len(calls) > 1:
            raise ConnectionError("no network")
        return found

    _publish(monkeypatch, fetch)
    return found


def _publish(monkeypatch: pytest.MonkeyPatch, fetch: Any) -> None:
    monkeypatch.setitem(NETWORKS, "plain", dataclasses.replace(NETWORKS["plain"], published=fetch))


def test_a_plan_depends_on_the_weights_in_the_cache_and_downloads_nothing(weights) -> None:
    (without,) = plan(SPEC, "demo")
    assert without.pretraining == Pretraining("digits[5:10]", epochs=2)
    assert downloads(SPEC, "demo") == (["plain"], [])
    assert not has_published_weights("plain")
    fetch_published_weights("plain")
    (with_weights,) = plan(SPEC, "demo")
    assert with_weights.pretraining == Pretraining("imagenet")
    assert downloads(SPEC, "demo") == ([], [])


def test_published_weights_are_downloaded_once_and_not_in_a_dry_run(weights) -> None:
    with dry_run(), pytest.raises(NeedsDownloadError, match="weights of plain"):
        published_weights("plain")
    for _ in range(2):
        found = published_weights("plain")
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_damaged_weights_count_as_missing_and_are_kept_until_there_are_others(weights) -> None:
    published_weights("plain")
    damaged = published_file("plain").read_bytes()[:-10]
    published_file("plain").write_bytes(damaged)
    with (
        pytest.warns(UserWarning, match="counts as missing"),
        pytest.raises(ValueError, match=r"cannot be downloaded \(ConnectionError\)"),
    ):
        published_weights("plain")
    assert published_file("plain").read_bytes() == damaged


def test_too_little_memory_is_no_missing_network(monkeypatch) -> None:
    def fetch() -> dict[str, Tensor]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    _publish(monkeypatch, fetch)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        published_weights("plain")
