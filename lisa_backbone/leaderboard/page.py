"""The page: one HTML file with all figures, their provenance, styles and scripts, which loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .costs import Axis, costs
from .details import details
from .sections import Cell, Row, Section
from .statistics import RANK_METHOD
from .wording import HEADINGS, LEADS, MARKS, MARKS_RULE, count, figure, protocol_words

__all__ = ['page']

_ASSETS = Path(__file__).parent / 'assets'


def page(tables: Sequence[Section], benchmarks: Sequence[Mapping[str, str]] = ()) -> str:
    """Make the page.

    Args:
        tables: Its sections.
        benchmarks: Rows of benchmark files, as :func:`lisa_backbone.leaderboard.costs.costs` takes them.

    Returns:
        The HTML. All that comes from the arguments is escaped in it.
    """
    opened: list[dict[str, Any]] = []
    plots: dict[str, dict[str, Any]] = {}
    shown = [_section(section, benchmarks, opened, plots) for section in tables]
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template('page.html').render(
        sections=shown,
        style=Markup((_ASSETS / 'page.css').read_text()),
        script=Markup((_ASSETS / 'page.js').read_text()),
        data=_embedded({'plots': plots, 'details': opened}),
    )


def _embedded(data: Any) -> Markup:
    """Data as JSON that is safe inside a script element: no character of it can end the element or begin another."""
    text = json.dumps(data, ensure_ascii=True, separators=(',', ':'), allow_nan=False)
    return Markup(text.replace('&', '\\u0026').replace('<', '\\u003c').replace('>', '\\u003e'))


def _section(
    section: Section, benchmarks: Sequence[Mapping[str, str]], opened: list[dict], plots: dict[str, dict]
) -> dict[str, Any]:
    """What the template shows of a section; provenance and plots are added to the last two arguments."""
    measured = section.status != 'published'
    sizes = _input_sizes(section)
    columns = [(number, group, metric) for number, group in enumerate(section.groups) for metric in group.metrics]
    decimals = {column[::2]: _decimals(section, column[::2], measured) for column in columns}
    axes: dict[Axis, int] = {}
    figures = [{'label': f'{group.title}, {metric}', 'task': group.task, 'points': []} for _, group, metric in columns]
    ranks = {row.model: row for row in section.ranking.rows} if section.ranking else {}
    rows = []
    for row in section.rows:
        cells = []
        for (number, group, metric), plot in zip(columns, figures, strict=True):
            cell = row.cells.get((number, metric))
            if cell is None:
                cells.append({'group': number, 'cell': None})
                continue
            text = _text(cell, measured)
            cells.append(
                {
                    'group': number,
                    'cell': cell,
                    'text': _padded(text[0], decimals[number, metric]),
                    'spread': text[1],
                    'mark': MARKS[cell.standing],
                    'id': len(opened),
                    'about': f'{row.model}, {group.title}, {metric}',
                }
            )
            found = costs(cell, row.model, benchmarks)
            plot['points'].append(
                {
                    'model': row.model,
                    'text': ' '.join(filter(None, text)),
                    'mean': round(100 * cell.summary.mean, 4),
                    'sd': None if cell.summary.deviation is None else round(100 * cell.summary.deviation, 4),
                    'id': len(opened),
                    'at': {axes.setdefault(axis, len(axes)): number / axis.scale for axis, number in found.items()},
                }
            )
            opened.append(details(cell, group, row.model))
        macs = [_macs(row, size) for size in sizes]
        rows.append({'row': row, 'rank': ranks.get(row.model), 'cells': cells, 'size': _size(row), 'macs': macs})
    _align([row['size'] for row in rows])
    for index in range(len(sizes)):
        _align([row['macs'][index] for row in rows])
    plots[section.status] = {
        'figures': [plot for plot in figures if plot['points']],
        'axes': [{'label': axis.label, 'unit': axis.unit} for axis in axes],
    }
    return {
        'status': section.status,
        'heading': HEADINGS[section.status],
        'lead': LEADS[section.status],
        'groups': [
            {
                'title': '; '.join(filter(None, map(protocol_words, (group.protocol, group.training)))),
                'alone': not measured and group.models == 1,
                'group': group,
            }
            for group in section.groups
        ],
        'columns': [(number, metric) for number, _, metric in columns],
        'tasks': list(dict.fromkeys(group.task for group in section.groups)),
        'sizes': sizes,
        'rows': rows,
        'ranked': bool(ranks),
        'marked': any(MARKS[cell.standing] for row in section.rows for cell in row.cells.values()),
        'notes': _notes(section),
    }


def _notes(section: Section) -> list[str]:
    """How to read the table, as sentences."""
    notes = []
    if any(cell.standing for row in section.rows for cell in row.cells.values()):
        notes.append(MARKS_RULE)
    if section.ranking:
        notes.append(f'Mean rank: {RANK_METHOD} {section.ranking.interval}'.strip())
        for model, lacking in section.ranking.left_out.items():
            notes.append(f'{model} is not ranked, as it has no result in {", ".join(lacking)}.')
    elif section.unranked:
        notes.append(section.unranked)
    return notes


# ---------------------------------------------------------------------------------------------------- cells and columns


def _text(cell: Cell, measured: bool) -> tuple[str, str]:
    """A figure, and its spread and number of seeds."""
    words = figure(cell.summary, measured)
    mean, _, rest = words.partition(' ')
    return mean, rest


def _decimals(section: Section, column: tuple[int, str], measured: bool) -> int:
    cells = [row.cells[column] for row in section.rows if column in row.cells]
    return max(len(_text(cell, measured)[0].partition('.')[2]) for cell in cells)


def _padded(text: str, decimals: int) -> str:
    """A number with as much space after it as digits that others of its column have."""
    missing = decimals - len(text.partition('.')[2])
    return text + ('' if '.' in text or not missing else '\u2008') + '\u2007' * missing


def _align(entries: Sequence[dict[str, Any] | None]) -> None:
    """Pad the texts of a column."""
    filled = [entry for entry in entries if entry]
    decimals = max((len(entry['text'].partition('.')[2]) for entry in filled), default=0)
    for entry in filled:
        entry['text'] = _padded(entry['text'], decimals)


def _size(row: Row) -> dict[str, Any] | None:
    """Parameters of a row in millions, of the smallest and the largest of its backbones if they differ."""
    if row.parameters is None:
        return None
    words = dict.fromkeys(count(number, 1e6) for number in row.parameters)
    return {'value': row.parameters[0], 'text': '–'.join(words)}


def _input_sizes(section: Section) -> list[str]:
    """The sizes of input that get a column of MACs: all if they are two at most, else only the commonest."""
    counts: dict[str, int] = {}
    for row in section.rows:
        for size in row.macs:
            counts[size] = counts.get(size, 0) + 1
    sizes = sorted(counts, key=lambda size: -counts[size])
    return sizes if len(sizes) < 3 else sizes[:1]


def _macs(row: Row, size: str) -> dict[str, Any] | None:
    value = row.macs.get(size)
    return None if value is None else {'value': value, 'text': count(value, 1e9)}
