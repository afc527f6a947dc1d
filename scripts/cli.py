"""Entry point shared by all commands: joins processes, and reports errors without a traceback."""

import os
import sys
import warnings
from collections.abc import Callable

import torch.distributed as dist

from experiments.runs.processes import join_processes


def run_command(main: Callable[[], None]) -> None:
    """Runs a command, in each of the processes if ``torchrun`` has started several.

    It exits with code 2 after a `ValueError` or `OSError`, and with 130 after an interrupt.

    Args:
        main: the command.
    """
    warnings.showwarning = _show_warning
    try:
        if "WORLD_SIZE" in os.environ:
            join_processes()
        main()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
    print(f"warning: {message}", file=sys.stderr)
