"""Locks between processes that share a cache: one makes a thing, the others wait and use it."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from experiments.files import cache_folder, is_dry_run, make_folder


def lock_of(name: str) -> FileLock:
    """Returns the lock of a thing in the cache, which is released when its process ends.

    Args:
        name: the name of the thing: the id of a run, for example.
    """
    assert not is_dry_run(), f"a dry run locks {name}"
    folder = cache_folder("locks")
    make_folder(folder)
    return FileLock(folder / f"{name}.lock")


@contextmanager
def locked(name: str, what: str) -> Iterator[None]:
    """Holds a lock; if another process holds it, says so and waits.

    Args:
        name: as for `lock_of`.
        what: a description of the thing, for the message.
    """
    lock = lock_of(name)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"Waiting for another process: {what}.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
