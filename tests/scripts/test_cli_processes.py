"""A command in two processes: they end together."""

import os
import socket
import time
from pathlib import Path

from scripts.cli import run_command
from tests.helpers.processes import in_processes


def work(rank: int, port: int, written: Path) -> None:
    """Runs a command that takes longer in the first process."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {**address, **numbers, "CUDA_VISIBLE_DEVICES": ""}

    def main() -> None:
        if rank == 0:
            time.sleep(0.5)
            written.write_text("")

    run_command(main)
    assert written.exists()


def test_processes_end_together(tmp_path: Path) -> None:
    """Threads of gloo that are still at work abort a process that exits."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    in_processes(2, work, port, tmp_path / "written")
