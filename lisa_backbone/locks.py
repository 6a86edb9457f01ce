"""A lock on a file that several processes read and then replace."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ['locked']


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from a file meanwhile; the lock is on a hidden file beside it, which goes in the end.

    Args:
        path: The file, which may be missing; its folder is there.
    """
    lock = path.with_name(f'.{path.name}.lock')
    while True:
        with lock.open('w') as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), lock):  # whoever had it before removed it: another one may lock a new file
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
