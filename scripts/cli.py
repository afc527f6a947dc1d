"""Entry point shared by all commands: joins processes, and reports users' mistakes in one line."""

import gc
import os
import select
import sys
import warnings
from collections.abc import Callable

import torch.distributed as dist

from experiments.errors import UserError
from experiments.runs.processes import join_processes

_STANDARD_OUTPUT = 1  # the file descriptor


def run_command(main: Callable[[], None]) -> None:
    """Runs a command, in each of the processes if ``torchrun`` has started several.

    The processes end together. It exits with code 2 and one line after a `UserError`, with 130
    after an interrupt, and with 141 if the reader of its output has ended, as ``head`` does. Any
    other error is a bug and keeps its traceback.

    Args:
        main: the command.
    """
    warnings.showwarning = _show_warning
    try:
        if "WORLD_SIZE" in os.environ:
            join_processes()
        main()
        sys.stdout.flush()
        if dist.is_initialized():
            # The group's threads may abort a process that exits while they are at work.
            dist.barrier()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        if not _has_lost_its_reader():
            raise
        # Python flushes the rest of the output when it exits, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STANDARD_OUTPUT)
        sys.exit(141)
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
    finally:
        if dist.is_initialized():
            # A process may abort at its end if a DDP model still refers to the group
            # (pytorch#190489): these models are in reference cycles.
            gc.collect()
            dist.destroy_process_group()


def _has_lost_its_reader() -> bool:
    """Whether nobody reads the standard output any more."""
    poll = select.poll()
    poll.register(_STANDARD_OUTPUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    print(f"warning: {message}", file=sys.stderr)
