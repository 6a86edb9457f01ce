"""Results as rows of a CSV file, which a kill at any moment leaves whole."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError
from .locks import locked
from .paths import replacing

__all__ = ['append_rows', 'holds', 'read_rows', 'refuse_known']


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a file; none if there is no such file.

    Args:
        path: The file.
        columns: Those that it must have, if it has any.

    Raises:
        UserError: It is no CSV file, lacks a column, or a row of it is cut off.
    """
    head, rows = _read(path)
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise UserError(f'{path}, row {number}, has not as many fields as there are columns; mend or remove it')
    lacking = [name for name in columns if head and name not in head]
    if lacking:
        raise UserError(f'{path} has no column {lacking[0]!r}, so it is a file of another kind; name another')
    return rows


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a file."""
    if not path.exists():
        return [], []
    try:
        with path.open(newline='', encoding='utf-8') as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            return list(reader.fieldnames or ()), rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path} is no CSV file ({error}); name another') from error


def holds(rows: Iterable[Mapping[str, str]], named: Mapping[str, Any]) -> bool:
    """Whether one of the rows has these values.

    Args:
        rows: Rows of :func:`read_rows`.
        named: Columns to values.
    """
    wanted = {key: str(value) for key, value in named.items()}
    return any(wanted.items() <= row.items() for row in rows)


def refuse_known(path: Path, named: Mapping[str, Any]) -> None:
    """Stop where a file has a row of what is about to be measured: a table would count it twice.

    Args:
        path: The file; it may be missing.
        named: Columns to what they would hold.

    Raises:
        UserError: It has one.
    """
    if holds(read_rows(path), named):
        words = ', '.join(f'{key} {value}' for key, value in named.items() if value not in ('', None))
        raise UserError(f'{path} holds {words} already; name another --out')


def append_rows(path: Path, rows: Sequence[dict], replaced: Sequence[dict] = ()) -> None:
    """Add rows by replacing the file; several processes may add to one.

    Args:
        path: The file; it is made if it is missing.
        rows: At least one, all with the columns of the file; new ones stay empty in the rows that are there.
        replaced: Rows of the file that they stand in for, as :func:`read_rows` gives them.

    Raises:
        UserError: The file is none that these rows can be added to; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        there = read_rows(path)
        kept = [row for row in there if row not in replaced]
        stays = _read(path)[0] if kept or not there else []  # a first line alone may be that of a file of another kind
        if not set(stays) <= set(rows[0]):  # it may be of before there was a column
            raise UserError(f'{path} has other columns than what is to be added to it; name another --out')
        with replacing(path) as draft, draft.open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows([*kept, *rows])
