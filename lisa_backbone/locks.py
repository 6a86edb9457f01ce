"""A lock on a file that several processes read and then replace."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ['locked']


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from a file meanwhile; the lock is on a hidden file beside it, which stays.

    Args:
        path: The file, which may be missing; its folder is there.
    """
    with path.with_name(f'.{path.name}.lock').open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
