"""The rows of a benchmark's CSV file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..provenance import dated
from ..rows import read_rows
from .candidates import Candidate
from .passes import measurement, ratios
from .settings import Group, Settings, sizes

__all__ = ['has_stopped', 'is_of', 'is_outdated', 'make_row', 'read_file', 'too_slow', 'words']

# Columns that older files lack, and what they would say.
NOT_ASKED = {'graph': 'no'}
_TOO_SLOW = 'a pass takes over {} s'


def make_row(
    candidate: Candidate,
    found: Mapping[Candidate, Mapping[str, Any]],
    seconds: Mapping[Candidate, Sequence[float]],
    group: Group,
    settings: Settings,
) -> dict[str, str]:
    """The row of a candidate.

    Args:
        candidate: The candidate.
        found: Of each candidate, what its probe found, its ``batch``, and ``status`` if it came to an end.
        seconds: Of each candidate that was timed, its seconds in each round.
        group: The group.
        settings: The settings.
    """
    first, mine = settings.candidates[0], found[candidate]
    is_operator = candidate.kind == 'operator'
    row: dict[str, Any] = {
        'candidate': candidate.label,
        'kind': candidate.kind,
        'dim': candidate.dim if is_operator else '',
        'heads': candidate.heads if is_operator else '',
        'mode': group.mode,
        'input': sizes(group.shape),
        'positions': group.positions,
        'views': settings.views,
        'batch_asked': group.batch,
        'batch': '',
        'status': mine.get('status', ''),
        'parameters': mine.get('parameters', ''),
        'macs': mine.get('macs', ''),
        'uncounted': ' '.join(mine.get('uncounted', [])),
        'weights_mib': _mib(mine.get('weights')),
        'peak_memory_mib': '',
        'memory_method': '',
        **dict.fromkeys(('median_ms', 'iqr_ms', 'per_second', 'rounds', 'ratio', 'ratio_iqr', 'ratio_to'), ''),
        **settings.conditions(),
    }
    if candidate in seconds:
        took, batch = measurement(seconds[candidate]), mine['batch']
        row |= {
            'batch': batch,
            'median_ms': f'{1000 * took.median:.4f}',
            'iqr_ms': f'{1000 * took.iqr:.4f}',
            'per_second': f'{batch / took.median / settings.views:.4f}',
            'rounds': len(seconds[candidate]),
        }
        if 'peak' in mine:
            row |= {'peak_memory_mib': _mib(mine['peak']), 'memory_method': mine['method']}
        if first in seconds:
            ratio = ratios(seconds[candidate], batch, seconds[first], found[first]['batch'])
            row |= {'ratio': f'{ratio.median:.4f}', 'ratio_iqr': f'{ratio.iqr:.4f}', 'ratio_to': first.label}
    return {key: str(value) for key, value in {**row, **dated()}.items()}


def read_file(path: Path, settings: Settings) -> list[dict[str, str]]:
    """The rows of a file.

    Raises:
        UserError: They are of other conditions.
    """
    rows = read_rows(path)
    for row in rows:
        for column, now in settings.conditions().items():
            then = row.get(column) or NOT_ASKED.get(column)
            if then != now:
                raise UserError(
                    f'{path} was measured with {column} {then!r}, which now is {now!r}; name another folder with --out'
                )
    return rows


def is_of(row: Mapping[str, str], group: Group, settings: Settings) -> bool:
    """Whether a row was measured in a group."""
    mine = (group.mode, sizes(group.shape), str(settings.views), str(group.batch))
    return tuple(row[column] for column in ('mode', 'input', 'views', 'batch_asked')) == mine


def too_slow(limit: float) -> str:
    """The ``status`` of a candidate of which a pass takes longer than a limit in seconds."""
    return _TOO_SLOW.format(f'{limit:.12g}')


def is_outdated(row: Mapping[str, str], limit: float) -> bool:
    """Whether a row says that a pass took too long for a limit below this one, so that it may not for this one."""
    found = re.fullmatch(_TOO_SLOW.format('(.+)'), row['status'])
    return bool(found) and float(found[1]) < limit


def has_stopped(candidate: Candidate, rows: Sequence[Mapping[str, str]], group: Group) -> bool:
    """Whether a candidate came to its end in a smaller size of a sweep, at no larger a batch."""
    mine = [row for row in rows if (row['candidate'], row['mode']) == (candidate.label, group.mode)]
    return any(
        row['status'] and int(row['positions']) < group.positions and int(row['batch_asked']) <= group.batch
        for row in mine
    )


def words(row: Mapping[str, str]) -> str:
    """A row in a line."""
    what = f'{row["candidate"]}, {row["input"]}, {row["mode"]}'
    if row['status']:
        return f'{what}: {row["status"]}'
    ratio = f', ratio {float(row["ratio"]):.3f}' if row['ratio'] else ''
    memory = f', {float(row["peak_memory_mib"]):.0f} MiB' if row['peak_memory_mib'] else ''
    return f'{what}, batch {row["batch"]}: {float(row["median_ms"]):.2f} ms{ratio}{memory}'


def _mib(size: int | None) -> str:
    return '' if size is None else f'{size / 2**20:.2f}'
