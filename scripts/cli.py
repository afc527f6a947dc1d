"""What the commands share: a user's mistake gets a sentence and exit code 2, not a traceback."""

import os
import sys
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist


def run_command(main: Callable[[], None]) -> None:
    """Runs a command, in each of the processes that ``torchrun`` may have started."""
    warnings.showwarning = _show_warning
    try:
        if "WORLD_SIZE" in os.environ:
            join_processes()
        main()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def join_processes() -> None:
    """Joins the processes that ``torchrun`` has started, each on a GPU of its own if there are any.

    Raises:
        ValueError: there are more of them than GPUs.
    """
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return
    rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if rank >= gpus:
        raise ValueError(f"There are {gpus} GPUs here: GPUS={gpus} is the most.")
    # What is sent as objects, and all that says just "cuda", goes by the current device.
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))


def check_asked(asked: list[str] | None, known: set[str], what: str) -> None:
    """Raises ValueError where something is asked for that is not in the table."""
    for name in asked or []:
        if name not in known:
            raise ValueError(f"No {what} {name!r} here: there are {', '.join(sorted(known))}.")


def is_main_process() -> bool:
    """Whether this process prints and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    print(f"warning: {message}", file=sys.stderr)
