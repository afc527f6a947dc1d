"""Tests of the comparison of inputs: every dtype and layout, and no wait for the device."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from smartfrz.feature_cache.fingerprints import Fingerprints

DTYPES = [
    *(torch.float32, torch.float64, torch.half, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn),
]


def changed(known: Fingerprints, samples: list[int], inputs: Any) -> list[int]:
    known.compare(samples, inputs)
    return known.changed(wait=True)


def at_odd_offset(tensor: Tensor) -> Tensor:
    """The same values, whose memory starts one byte behind a boundary of a word."""
    octets = tensor.contiguous().view(torch.uint8).flatten()
    memory = torch.empty(len(octets) + 64, dtype=torch.uint8)
    memory[tensor.element_size() :][: len(octets)] = octets
    whole = memory.view(tensor.dtype) if len(memory) % tensor.element_size() == 0 else memory
    return whole[1:][: tensor.numel()].view(tensor.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_bit_counts_in_any_layout(dtype: torch.dtype) -> None:
    for size in (1, 3, 8, 13):
        inputs = torch.zeros(4, 2, size, dtype=dtype)
        known = Fingerprints()
        assert changed(known, [0, 1, 2, 3], inputs) == []
        same = [
            at_odd_offset(inputs),
            torch.zeros(4, size, 2, dtype=dtype).transpose(1, 2),
            torch.zeros(8, 2, 2 * size, dtype=dtype)[::2, :, 1::2],
            torch.zeros(1, 1, 1, dtype=dtype).expand(4, 2, size),
        ]
        for each in same:
            assert each.shape == inputs.shape
            assert changed(known, [0, 1, 2, 3], each) == []
        for bit in (0, 7) if dtype != torch.bool else (0,):
            other = inputs.clone()
            other.view(torch.uint8)[2, 1, -1] ^= 1 << bit
            assert changed(known, [0, 1, 2, 3], other) == [2]
            assert changed(known, [0, 1, 2, 3], at_odd_offset(other)) == [2]


def test_an_odd_offset_of_octets() -> None:
    memory = torch.arange(33, dtype=torch.uint8)
    known = Fingerprints()
    assert changed(known, [0, 1], memory[1:].view(2, 16)) == []
    assert changed(known, [0, 1], memory[1:].view(2, 16).clone()) == []
    assert changed(known, [1], memory[:16].view(1, 16)) == [1]


def test_conjugate_and_negative_views() -> None:
    inputs = torch.randn(2, 3, dtype=torch.complex64)
    known = Fingerprints()
    assert changed(known, [0, 1], (inputs.conj(), inputs.conj().imag)) == []
    assert changed(known, [0, 1], (inputs.conj().clone(), -inputs.imag)) == []
    assert changed(known, [0, 1], (inputs, -inputs.imag)) == [0, 1]


def test_inputs_without_elements_and_empty_batches() -> None:
    known = Fingerprints()
    for _ in range(2):
        assert changed(known, [0, 1, 2], {"x": torch.empty(3, 0), "y": torch.arange(3)}) == []
        assert changed(known, [], torch.empty(0, 5)) == []
    assert changed(known, [0, 1, 2], {"x": torch.empty(3, 0), "y": torch.arange(3) % 2}) == [2]


def test_padding_to_another_length_is_a_change() -> None:
    known, ids = Fingerprints(), torch.tensor([[5, 6, 0, 0], [7, 8, 9, 0]])
    assert changed(known, [0, 1], {"ids": ids[:, :3], "mask": ids[:, :3] > 0}) == []
    assert changed(known, [0, 1], {"ids": ids, "mask": ids > 0}) == [0, 1]


def test_a_sample_twice_in_a_batch() -> None:
    known = Fingerprints()
    inputs = torch.tensor([[1.0], [2.0], [1.0], [2.0]])
    assert changed(known, [3, 4, 3, 4], inputs) == []
    assert set(changed(known, [5, 6, 5, 6], inputs[[0, 1, 1, 1]])) == {5}
    assert changed(known, [4, 3], inputs[:2]) == [4, 3]


def test_samples_seen_in_inference_mode_are_known_later() -> None:
    known, inputs = Fingerprints(), torch.randn(2, 3)
    with torch.inference_mode():
        assert changed(known, [0, 1], inputs.clone()) == []
    assert changed(known, [1, 2, 0], inputs[[1, 1, 0]]) == []


class Transfers(TorchDispatchMode):
    """Counts copies for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        devices = {x.device.type for x in (*args, out) if isinstance(x, Tensor)}
        is_async = kwargs.get("non_blocking") or any(each is True for each in args[2:])
        self.count += len(devices) > 1 and not is_async and "copy" in func.__name__
        return out


class Unfinished:
    """An event that the device has not reached."""

    def query(self) -> bool:
        return False


class Stream:
    def record_event(self) -> Unfinished:
        return Unfinished()


def test_the_host_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tensors that have a device but no data, every read of a value is an error."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    transfers = Transfers()
    with FakeTensorMode(), transfers:
        known = Fingerprints()
        for start in range(3):
            on_device = torch.empty(4, 3, device="cuda"), torch.empty(4, 8, device="cuda")[:, ::2]
            known.compare(range(start, start + 4), (*on_device, torch.empty(4, 2)))
            assert known.changed(wait=False) == []
    assert transfers.count == 0
