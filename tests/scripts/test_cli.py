"""Processes that torchrun starts: one GPU per process."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from experiments.runs.processes import join_processes


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The set-up calls on a machine with two GPUs."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)

    def join(backend: str, **more: Any) -> None:
        calls.append((backend, more))

    monkeypatch.setattr(dist, "init_process_group", join)
    return calls


def test_a_process_takes_its_own_gpu_before_it_joins(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    join_processes()
    assert calls == [1, ("nccl", {"device_id": torch.device("cuda", 1)})]


def test_more_processes_than_gpus_get_a_sentence(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="This machine has 2 GPUs: set GPUS to at most 2"):
        join_processes()
    assert calls == []
