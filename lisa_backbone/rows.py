"""Results as rows of a CSV file, which a kill at any moment leaves whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = ['append_rows', 'read_rows', 'refuse_known']


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def refuse_known(path: Path, named: Mapping[str, Any]) -> None:
    """Stop where a file has a row of what is about to be measured: a table would count it twice.

    Args:
        path: The file; it may be missing.
        named: Columns to what they would hold.

    Raises:
        UserError: It has one.
    """
    wanted = {key: str(value) for key, value in named.items()}
    if any(wanted.items() <= row.items() for row in read_rows(path)):
        words = ', '.join(f'{key} {value}' for key, value in wanted.items() if value)
        raise UserError(f'{path} holds {words} already; name another --out')


def append_rows(path: Path, rows: Sequence[dict], replaced: Sequence[dict] = ()) -> None:
    """Add rows by replacing the file.

    Args:
        path: The file; it is made if it is missing.
        rows: At least one, all with the columns of the file.
        replaced: Rows of the file that they stand in for, as :func:`read_rows` gives them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.partial')
    with partial.open('w', newline='') as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([*(row for row in read_rows(path) if row not in replaced), *rows])
    os.replace(partial, path)
