"""What a figure costs: parameters, MACs and measured throughput, as axes that figures are plotted against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..benchmarking.candidates import parse_pairs
from ..errors import UserError
from ..rows import read_rows
from .sections import Cell, split_overrides
from .wording import input_words

__all__ = ['Axis', 'costs', 'read_benchmarks']


@dataclass(frozen=True)
class Axis:
    """A kind of cost; figures are compared only along the same one.

    Attributes:
        label: What it is.
        unit: What its numbers are of, ``'M'``.
        scale: What a number is divided by to be in this unit.
    """

    label: str
    unit: str
    scale: float


def read_benchmarks(paths: Sequence[Path] | None, folder: Path) -> list[dict[str, str]]:
    """The rows of benchmark files.

    Args:
        paths: The files; ``None`` for all ``benchmark-*.csv`` of a folder.
        folder: That folder.

    Raises:
        UserError: A file does not exist.
    """
    for path in paths or ():
        if not path.is_file():
            raise UserError(f'{path} does not exist; name files that tools/benchmark.py wrote')
    return [row for path in (sorted(folder.glob('benchmark-*.csv')) if paths is None else paths)
            for row in read_rows(path)]  # fmt: skip


def costs(cell: Cell, model: str, benchmarks: Iterable[Mapping[str, str]] = ()) -> dict[Axis, float]:
    """The costs of a figure.

    MACs at one size of input are one axis, and throughput under one set of conditions is one.

    Args:
        cell: The figure.
        model: Whose it is.
        benchmarks: Rows of benchmark files. A row counts for the model that its column ``model`` names; without one,
            for the runs of the config that its column ``candidate`` names, with the same overrides of the model.

    Returns:
        The numbers by axis. Of a benchmark, throughput is in inputs a second.

    Raises:
        UserError: Two rows give the throughput of the model under the same conditions.
    """
    run, found = cell.runs[0], {}
    if run['parameters']['backbone'] is not None:
        found[Axis('Parameters of the backbone', 'M', 1e6)] = run['parameters']['backbone']
    if run['macs']:
        shape = run['macs']['input']
        words = f'an input of {input_words(shape)}' if shape else 'a view of a clip, of the size its source took'
        found[Axis(f'MACs of the backbone for {words}', 'G', 1e9)] = run['macs']['value']
    for row in benchmarks:
        if row.get('per_second') and _is_of(row, run, model):
            axis = Axis(f'Throughput of the {_part(row)}, {_conditions(row)}', 'a second', 1)
            if axis in found:
                raise UserError(
                    f'benchmark files give the throughput of {row.get("model") or row["candidate"]} twice '
                    f'({_conditions(row)}); remove a row, or name the files to take with --benchmarks'
                )
            found[axis] = _per_second(row)
    return found


def _per_second(row: Mapping[str, str]) -> float:
    try:
        value = float(row['per_second'])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f'a benchmark file gives {row["per_second"]!r} as the throughput of {row.get("model") or row["candidate"]} '
            f'({_conditions(row)}), which is no number; remove that row and measure it again'
        )
    return value


def _is_of(row: Mapping[str, str], run: Mapping, model: str) -> bool:
    """Whether a row counts for a run of a model."""
    if row.get('model'):
        return row['model'] == model
    candidate = row.get('candidate') or ''
    file, _, _ = candidate.partition(':')
    if not run['config'] or file != run['config']['file']:
        return candidate == model
    return _model_options(candidate) == _model_options(f'{file}:{",".join(run["config"]["overrides"])}')


@cache
def _model_options(candidate: str) -> dict[str, str]:
    """Overrides of the model in the name of a candidate, so read that 1e-3 is 0.001; those of the training left out."""
    return split_overrides([f'{key}={value}' for key, value in parse_pairs(candidate).items()])[0]


def _part(row: Mapping[str, str]) -> str:
    return {'model': 'whole model', 'operator': 'operator'}.get(row.get('kind'), 'backbone')


def _conditions(row: Mapping[str, str]) -> str:
    views = row.get('views') or '1'
    words = [
        row.get('mode'),
        row.get('dtype'),
        (row.get('input') or '').replace('x', ' x '),
        '' if views == '1' else f'{views} views',
        _batch(row),
        row.get('device_name') or row.get('device'),
        f'{row["threads"]} threads' if row.get('device') == 'cpu' and row.get('threads') else '',
        f'torch {row["torch"]}' if row.get('torch') else '',
        'compiled' if row.get('compiled') == 'yes' else '',
        'CUDA graph' if row.get('graph') == 'yes' else '',
    ]
    return ', '.join(filter(None, words))


def _batch(row: Mapping[str, str]) -> str:
    if not row.get('batch'):
        return ''
    asked = row.get('batch_asked') or row['batch']
    return f'batch {row["batch"]}' + (f' where {asked} do not fit' if asked != row['batch'] else '')
