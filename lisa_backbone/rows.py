"""Results as rows of a CSV file, which a kill at any moment leaves whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ['append_rows', 'read_rows']


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


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
