"""Tests of FSDP2 (``fully_shard``): sharded runs against one process on the same global batch."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfrz import find_layers
from tests.helpers.processes import in_processes
from tests.helpers.sharded_net import MORE_VARIANTS, REPLICAS, STEPS, VARIANTS, Net, global_batch
from tests.helpers.sharded_runs import run_unfreezing, work


def results_of(folder: Path, count: int, *arguments: Any) -> list[dict[str, Any]]:
    in_processes(count, work, count, folder, *arguments)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of both processes."""
    return results_of(tmp_path_factory.mktemp("fsdp"), 2, VARIANTS, True)


def check_variant(results: list[dict[str, Any]], variant: str, parts: int) -> None:
    """Checks that a sharded run equals the run of one process, at its share of the cost."""
    expected = results[0]["one process"][variant]
    assert len(set(expected["frozen"].values())) >= 2
    for result in (each[variant] for each in results):
        assert result["frozen"] == expected["frozen"]
        assert result["moved"] == []
        probes = len(results) * expected["probe"]  # each process takes the whole probe
        assert result["probe"] == probes
        assert result["spent"] == pytest.approx(expected["spent"] - expected["probe"] + probes)
        assert 0 < expected["spent"] < 1
        assert [len(results) * flops for flops in result["flops"]] == expected["flops"]
        tolerance = {"atol": 0.01, "rtol": 0.01} if variant == "bfloat16" else {}
        torch.testing.assert_close(result["weights"], expected["weights"], **tolerance)
        assert result["sent"] == expected_bytes(expected["frozen"], parts)


def expected_bytes(frozen: dict[str, int], parts: int) -> list[int]:
    """The bytes of gradients to reduce in each step, rows padded to a multiple of the parts."""
    layers = find_layers(Net(), global_batch(0))
    return [
        4
        * sum(
            -(-len(param) // parts) * parts * param[0].numel()
            for layer in layers
            for param in layer.params
            if frozen.get(layer.name, STEPS) >= step
        )
        for step in range(STEPS)
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_sharded_runs_equal_runs_of_one_process(results: list[dict[str, Any]], variant: str):
    check_variant(results, variant, parts=2)


@pytest.mark.slow
def test_more_variants(tmp_path: Path):
    results = results_of(tmp_path, 2, MORE_VARIANTS, False)
    for variant in MORE_VARIANTS:
        check_variant(results, variant, parts=2)


@pytest.mark.slow
def test_four_processes_of_which_some_hold_no_part(tmp_path: Path):
    results = results_of(tmp_path, 4, VARIANTS | {"replicas": REPLICAS}, False)
    for variant in VARIANTS:
        check_variant(results, variant, parts=4)
    check_variant(results, "replicas", parts=2)


def test_resumed_runs_equal_unbroken_ones(results: list[dict[str, Any]]):
    for result in (each["resumed"] for each in results):
        for name, weight in result["unbroken"].items():
            assert torch.equal(result["weights"][name], weight), name


def test_steps_without_gradient_synchronisation_have_no_effect(results: list[dict[str, Any]]):
    expected = [[], [], ["embedding"], [], [], ["blocks.0.up"]]
    assert [result["mid window"]["frozen"] for result in results] == [expected, expected]


def test_gradients_from_before_the_freeze_do_not_move_frozen_weights(
    results: list[dict[str, Any]],
):
    assert all(result["late gradient"]["is_equal"] for result in results)


def test_thawed_layers_train_again(results: list[dict[str, Any]]):
    frozen = {f"blocks.0.{kind}" for kind in ("up.weight", "up.bias", "norm.weight", "norm.bias")}
    assert [result["thawed"]["still"] for result in results] == [frozen, frozen]


def test_a_policy_thaws_as_in_one_process(results: list[dict[str, Any]]):
    expected = run_unfreezing(is_sharded=False)
    assert {what for _, what, _ in expected["events"]} == {"freeze", "thaw"}
    for result in (each["unfreezing"] for each in results):
        assert result["events"] == expected["events"]
        assert result["spent"] == expected["spent"]
        torch.testing.assert_close(result["weights"], expected["weights"])


def test_all_processes_notice_that_the_optimizer_changes_frozen_weights(
    results: list[dict[str, Any]],
):
    for result in results:
        assert "Decaying changed the frozen layers ['0']" in result["decaying"]["error"]


def test_frozen_embeddings_are_renormalised(results: list[dict[str, Any]]):
    for result in results:
        torch.testing.assert_close(result["embedding"]["norms"], torch.full((9,), 0.5))


def test_frozen_batch_norm_has_the_same_statistics_on_every_process(results: list[dict[str, Any]]):
    means = [mean for result in results for mean in result["convolutions"]["means"]]
    assert means[0].count_nonzero() == 4
    assert all(torch.equal(mean, means[0]) for mean in means)


def test_sharded_leaves_keep_less(results: list[dict[str, Any]]):
    for before, after in (result["convolutions"]["sizes"] for result in results):
        assert after < 0.65 * before


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("flat", "FSDP1.*fully_shard"),
        ("flat, original parameters", "FSDP1.*fully_shard"),
        ("folding", "Use save_memory"),
        ("cache", "does not support"),
        ("stale", "Find the layers again"),
    ],
)
def test_what_is_not_supported_is_refused(results: list[dict[str, Any]], what: str, message: str):
    for result in results:
        assert re.search(message, result["refused"][what])


def test_an_evaluated_model_has_the_same_layers(results: list[dict[str, Any]]):
    names = [layer.name for layer in find_layers(Net(), global_batch(0))]
    for result in results:
        assert result["evaluation"] == {"names": names, "head": True}
