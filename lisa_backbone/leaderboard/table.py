"""Results as one table in Markdown: models in rows, tasks in columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .sections import Row, Section, sections
from .wording import HEADINGS, figure

__all__ = ['table']


def table(records: Sequence[dict[str, Any]]) -> str:
    """Figures as a Markdown table.

    Args:
        records: Valid records.

    Returns:
        The table: a row for each model, the highest in the first column first, a column for each metric of each task,
        and for each protocol and data set where a task has several, as
        :func:`lisa_backbone.leaderboard.sections.sections` sets them apart. A cell is the mean in percent, the sample
        standard deviation if there are two seeds or more, and the number of seeds; of a published figure, the figure.
        Where figures were measured, parameters and MACs of the backbone come first, as the first task has them. Where
        there are records of several statuses, each has a table of its own under its heading.

    Raises:
        UserError: The seeds of a model were run with different configs, so they have no mean.
    """
    filled = [section for section in sections(records) if section.rows]
    if len(filled) == 1:
        return _table(filled[0], records)
    return '\n\n'.join(f'{HEADINGS[section.status]}\n\n{_table(section, records)}' for section in filled)


def _table(section: Section, records: Sequence[dict[str, Any]]) -> str:
    columns = [(number, group, metric) for number, group in enumerate(section.groups) for metric in group.metrics]
    measured = section.status != 'published'
    most = max((macs for row in section.rows if (macs := _costs(row)[1])), default=0)
    scale, unit = (1e9, 'G') if most >= 1e9 else (1e6, 'M')
    costs = ['parameters, M', f'MACs, {section.groups[0].task}, {unit}'] if measured else []
    heads = [*costs, *(f'{group.title}, {metric}' for _, group, metric in columns)]
    lines = ['| ' + ' | '.join(['model', *heads]) + ' |', '|---|' + '---:|' * len(heads)]
    places = {name: place for place, name in enumerate(dict.fromkeys(record['model'] for record in records))}
    for row in sorted(section.rows, key=lambda row: (-_mean(row, columns[0][0], columns[0][2]), places[row.model])):
        cells = [_cell(row, number, metric, measured) for number, _, metric in columns]
        if measured:
            cells[:0] = [_number(cost, by) for cost, by in zip(_costs(row), (1e6, scale), strict=True)]
        lines.append('| ' + ' | '.join([row.model, *cells]) + ' |')
    return '\n'.join(lines)


def _mean(row: Row, number: int, metric: str) -> float:
    cell = row.cells.get((number, metric))
    return cell.summary.mean if cell else -math.inf


def _costs(row: Row) -> tuple[int | None, int | None]:
    """Parameters and MACs of the backbone in the first column, which may differ in others."""
    cell = next((cell for (number, _), cell in row.cells.items() if number == 0), None)
    if cell is None:
        return None, None
    macs = cell.runs[0]['macs']
    return cell.runs[0]['parameters']['backbone'], macs['value'] if macs else None


def _number(value: int | None, scale: float) -> str:
    return '' if value is None else f'{value / scale:.3g}'


def _cell(row: Row, number: int, metric: str, measured: bool) -> str:
    cell = row.cells.get((number, metric))
    return figure(cell.summary, measured) if cell else ''
