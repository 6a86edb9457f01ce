"""Results as one table in Markdown: models in rows, tasks in columns."""

from __future__ import annotations

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
        The table: a row for each model as they occur, a column for each metric of each task, and for each protocol and
        data set where a task has several, as :func:`lisa_backbone.leaderboard.sections.sections` sets them apart. A
        cell is the mean in percent, the sample standard deviation if there are two seeds or more, and the number of
        seeds; of a published figure, the figure. Where there are records of several statuses, each has a table of its
        own under its heading.

    Raises:
        UserError: The seeds of a model were run with different configs, so they have no mean.
    """
    filled = [section for section in sections(records) if section.rows]
    if len(filled) == 1:
        return _table(filled[0], records)
    return '\n\n'.join(f'{HEADINGS[section.status]}\n\n{_table(section, records)}' for section in filled)


def _table(section: Section, records: Sequence[dict[str, Any]]) -> str:
    columns = [(number, group, metric) for number, group in enumerate(section.groups) for metric in group.metrics]
    lines = [
        '| ' + ' | '.join(['model', *(f'{group.title}, {metric}' for _, group, metric in columns)]) + ' |',
        '|---|' + '---:|' * len(columns),
    ]
    places = {name: place for place, name in enumerate(dict.fromkeys(record['model'] for record in records))}
    for row in sorted(section.rows, key=lambda row: places[row.model]):
        cells = [_cell(row, number, metric, section.status != 'published') for number, _, metric in columns]
        lines.append('| ' + ' | '.join([row.model, *cells]) + ' |')
    return '\n'.join(lines)


def _cell(row: Row, number: int, metric: str, measured: bool) -> str:
    cell = row.cells.get((number, metric))
    return figure(cell.summary, measured) if cell else ''
