"""Places that something is written to: looked at before the work that makes it, and replaced whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

__all__ = ['check_file', 'check_folder', 'replacing']


def check_folder(path: str | Path, what: str, option: str | None = None) -> None:
    """Stop if a folder cannot be made or written.

    Args:
        path: The folder.
        what: What to call it.
        option: The option that names it, by default ``what``.

    Raises:
        UserError: It cannot.
    """
    whole = Path(path).absolute()
    existing = next(p for p in (whole, *whole.parents) if os.path.exists(p))  # what may not be looked at is not there
    if not existing.is_dir():
        raise UserError(f'{what} {path} cannot be made: {existing} is a file; give another {option or what}')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f'{what} {path} cannot be written ({existing} is read-only for you); give another {option or what}'
        )


def check_file(path: str | Path, option: str) -> None:
    """Stop if a file cannot be written.

    Args:
        path: The file.
        option: The option that names it.

    Raises:
        UserError: It cannot.
    """
    if Path(path).is_dir():
        raise UserError(f'{option} {path} is a folder; name a file')
    check_folder(Path(path).absolute().parent, f'{option} {path}: the folder', option)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that a reader finds the old one or the new one, never half of one.

    Args:
        path: The file; its folder is there.

    Yields:
        The path to write to. It takes the place of the file if all goes well, and is removed if not.
    """
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
