"""Measurement of the peak memory of a process or a GPU."""

import resource
from contextlib import suppress
from pathlib import Path

import torch


def reset_peak_memory(device: torch.device) -> None:
    """Resets the peak that `peak_memory` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # Without permission to reset it, the peak is that since the start of the process.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the allocator on a GPU, else the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
