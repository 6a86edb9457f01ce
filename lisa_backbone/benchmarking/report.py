"""The rows of a benchmark as a table, and how time and memory grow with the number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ['Growth', 'fit_growth', 'growth_lines', 'memory_of_one', 'table', 'time_of_one']

LEAST_SIZES = 3


@dataclass(frozen=True)
class Growth:
    """A power law fitted to measurements.

    Attributes:
        exponent: Its exponent: 1 is linear, 2 quadratic.
        low: Smallest size in the fit.
        high: Largest.
        sizes: Number of sizes.
        last: Exponent between the two largest sizes alone, where what does not grow matters least.
    """

    exponent: float
    low: float
    high: float
    sizes: int
    last: float


def fit_growth(sizes: Sequence[float], values: Sequence[float]) -> Growth | None:
    """Fit ``value = factor * size ** exponent`` by least squares of the logarithms.

    Args:
        sizes: Positive sizes, such as numbers of tokens.
        values: A value of each.

    Returns:
        The fit, or ``None`` where fewer than three sizes have a positive value.
    """
    pairs = sorted((x, y) for x, y in zip(sizes, values, strict=True) if y > 0)
    if len({x for x, _ in pairs}) < LEAST_SIZES:
        return None
    x, y = np.log(np.array(pairs)).T
    exponent = float(np.polyfit(x, y, 1)[0])
    return Growth(exponent, pairs[0][0], pairs[-1][0], len(pairs), float((y[-1] - y[-2]) / (x[-1] - x[-2])))


def growth_lines(rows: Sequence[dict[str, str]]) -> list[str]:
    """A sentence for each candidate, mode and batch of a sweep, in the order of the rows.

    Time is that of one input; memory that of one input beyond the weights. Sizes without a measurement are left out.
    """
    lines = []
    for key in dict.fromkeys(_series(row) for row in rows):
        mine = [row for row in rows if _series(row) == key and row['median_ms']]
        told = []
        for name, value in (('time', time_of_one), ('memory', memory_of_one)):
            have = [row for row in mine if value(row) is not None]
            fit = fit_growth([int(row['positions']) for row in have], [value(row) for row in have])
            if fit:
                ends = {int(row['positions']): row['input'] for row in have}
                told.append(
                    f'{name} as N^{fit.exponent:.2f} (N^{fit.last:.2f} at the end; {fit.sizes} sizes, {ends[fit.low]} '
                    f'to {ends[fit.high]})'
                )
        if told:
            lines.append(f'{key[0]}, {key[1]}, batch {key[2]}: {", ".join(told)}')
    return lines


def table(rows: Sequence[dict[str, str]]) -> str:
    """The rows as a Markdown table, the small inputs first."""
    candidates = list(dict.fromkeys(row['candidate'] for row in rows))
    rows = sorted(
        rows, key=lambda row: (int(row['positions']), int(row['batch_asked']), candidates.index(row['candidate']))
    )
    head = ['candidate', 'input', 'mode', 'batch', 'parameters', 'MACs', 'ms', 'per second', 'peak memory', 'ratio']
    lines = ['| ' + ' | '.join(head) + ' |', '|---|---|---|' + '---:|' * (len(head) - 3)]
    for row in rows:
        size = f'{int(row["parameters"]) / 1e6:.2f} M' if row['parameters'] else ''
        macs = f'{int(row["macs"]) / 1e9:.3f} G' if row['macs'] else ''
        cells = [row['candidate'], row['input'], row['mode'], row['batch'] or row['batch_asked'], size, macs]
        if row['status']:
            cells += [row['status'], '', '', '']
        else:
            memory = f'{float(row["peak_memory_mib"]):.1f} MiB' if row['peak_memory_mib'] else ''
            cells += [f'{_short(row["median_ms"])} ± {_short(row["iqr_ms"])}', _short(row['per_second']), memory]
            cells.append(f'{float(row["ratio"]):.3f} ± {float(row["ratio_iqr"]):.3f}' if row['ratio'] else '')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _series(row: dict[str, str]) -> tuple[str, str, str]:
    return row['candidate'], row['mode'], row['batch_asked']


def time_of_one(row: dict[str, str]) -> float:
    """Milliseconds for one input of a row with a measurement."""
    return float(row['median_ms']) / int(row['batch'])


def memory_of_one(row: dict[str, str]) -> float | None:
    """MiB for one input, beyond the weights; ``None`` where memory was not measured."""
    if not row['peak_memory_mib']:
        return None
    return (float(row['peak_memory_mib']) - float(row['weights_mib'])) / int(row['batch'])


def _short(number: str) -> str:
    """Three digits, without an exponent."""
    value = float(number)
    return f'{value:.{max(2 - math.floor(math.log10(value)), 0)}f}' if value > 0 else '0'
