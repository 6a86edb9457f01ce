"""Places that something is to be written to, looked at before the work that makes it."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError

__all__ = ['check_file', 'check_folder']


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
