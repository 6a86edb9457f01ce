"""The table of a sweep: models in rows, tasks in columns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .tasks import MINI_CONTROLS, MINI_TASKS, REAL_TASKS, Task

__all__ = ['table']


def table(records: Sequence[dict[str, Any]], tasks: Sequence[Task] = MINI_TASKS + MINI_CONTROLS + REAL_TASKS) -> str:
    """Mean and standard deviation over the seeds as a Markdown table.

    Args:
        records: Records of one status.
        tasks: Tasks whose columns come first, in this order; others follow as they occur.

    Returns:
        The table: a row for each model as they occur, a column for each metric of each task. A cell is the mean in
        percent, the sample standard deviation if there are two seeds or more, and the number of seeds.
    """
    values: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        for metric, value in record['metrics'].items():
            values.setdefault((record['model'], record['task'], metric), []).append(100 * value)
    order = [(task.name, metric.name) for task in tasks for metric in task.metrics]
    found = list(dict.fromkeys((task, metric) for _, task, metric in values))
    columns = [column for column in order if column in found] + [column for column in found if column not in order]
    lines = [
        '| ' + ' | '.join(['model', *(f'{task}, {metric}' for task, metric in columns)]) + ' |',
        '|---|' + '---:|' * len(columns),
    ]
    for model in dict.fromkeys(name for name, _, _ in values):
        cells = [_cell(values.get((model, *column))) for column in columns]
        lines.append('| ' + ' | '.join([model, *cells]) + ' |')
    return '\n'.join(lines)


def _cell(values: list[float] | None) -> str:
    if not values:
        return ''
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.1f}{spread} ({len(values)})'
