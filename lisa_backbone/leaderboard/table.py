"""The table of a sweep: operators in rows, tasks in columns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..rows import read_rows
from .tasks import Task

__all__ = ['read_table', 'table']


def read_table(path: Path, tasks: Sequence[Task]) -> str:
    """The table of a results file.

    Args:
        path: File that :func:`lisa_backbone.leaderboard.sweep.run_sweep` wrote.
        tasks: Tasks whose columns come first, in this order.

    Returns:
        What :func:`table` makes of it.

    Raises:
        UserError: There are no results in it.
    """
    rows = read_rows(path)
    if not rows:
        raise UserError(f'{path} holds no results; make them with tools/leaderboard.py run --results {path}')
    return table(rows, tasks)


def table(rows: Sequence[dict[str, str]], tasks: Sequence[Task]) -> str:
    """Mean and standard deviation over the seeds as a Markdown table.

    Args:
        rows: Rows of a results file: of one run and metric each.
        tasks: Tasks whose columns come first, in this order; others follow as they occur.

    Returns:
        The table: a row for each operator as they occur, a column for each metric of each task. A cell is the mean, the
        sample standard deviation if there are two seeds or more, and the number of seeds.
    """
    values: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row['attention'], row['task'], row['metric']), []).append(float(row['value']))
    order = [(task.name, metric.name) for task in tasks for metric in task.metrics]
    found = list(dict.fromkeys((task, metric) for _, task, metric in values))
    columns = [column for column in order if column in found] + [column for column in found if column not in order]
    lines = [
        '| ' + ' | '.join(['attention', *(f'{task}, {metric}' for task, metric in columns)]) + ' |',
        '|---|' + '---:|' * len(columns),
    ]
    for attention in dict.fromkeys(name for name, _, _ in values):
        cells = [_cell(values.get((attention, *column))) for column in columns]
        lines.append('| ' + ' | '.join([attention, *cells]) + ' |')
    return '\n'.join(lines)


def _cell(values: list[float] | None) -> str:
    if not values:
        return ''
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.3f}{spread} ({len(values)})'
