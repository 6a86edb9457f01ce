"""The report of all results: a page, tables in Markdown, and a CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..paths import replacing
from .page import page
from .sections import Cell, Group, Row, Section, sections
from .statistics import RANK_METHOD
from .wording import HEADINGS, LEADS, MARKS, MARKS_RULE, count, figure, protocol_words

__all__ = ['CSV_FILE', 'MARKDOWN_FILE', 'PAGE_FILE', 'report', 'report_texts']

PAGE_FILE, MARKDOWN_FILE, CSV_FILE = 'leaderboard.html', 'leaderboard.md', 'leaderboard.csv'


def report(
    records: Sequence[dict[str, Any]], out_dir: Path, benchmarks: Sequence[Mapping[str, str]] = ()
) -> list[Path]:
    """Write the report.

    Args:
        records: Valid records, as :func:`lisa_backbone.records.read_records` gives them.
        out_dir: Folder for the files; it is made if it is missing.
        benchmarks: Rows of benchmark files, as :func:`lisa_backbone.leaderboard.costs.costs` takes them, for plots
            against measured throughput.

    Returns:
        The files: the page, Markdown and CSV.

    Raises:
        UserError: The seeds of a model were run with different configs, so they have no mean.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in report_texts(records, benchmarks).items():
        paths.append(out_dir / name)
        with replacing(paths[-1]) as draft:
            draft.write_text(text, encoding='utf-8', newline='')
    return paths


def report_texts(records: Sequence[dict[str, Any]], benchmarks: Sequence[Mapping[str, str]] = ()) -> dict[str, str]:
    """The report before it is written: name of each file to its text, the same for the same records.

    Args:
        records: As of :func:`report`.
        benchmarks: As of :func:`report`.

    Raises:
        UserError: The seeds of a model were run with different configs, so they have no mean.
    """
    tables = sections(records)
    return {PAGE_FILE: page(tables, benchmarks), MARKDOWN_FILE: _markdown(tables), CSV_FILE: _csv(tables)}


# ------------------------------------------------------------------------------------------------------------- Markdown


def _markdown(tables: Sequence[Section]) -> str:
    lines = [
        '# Vision backbones on downstream tasks',
        '',
        'Figures that were published, that were reproduced here and those of the mini sets stand apart and are never '
        f'ranked together. The provenance of each number is in `{PAGE_FILE}`.',
    ]
    for section in tables:
        lines += ['', f'## {HEADINGS[section.status]}', '']
        lines += [LEADS[section.status]] if section.rows else ['There are no results of this kind yet.']
        for number, group in enumerate(section.groups):
            lines += ['', f'### {_escaped(group.title)}', '', *_group(section, number, group)]
        if section.ranking:
            lines += ['', '### Mean rank', '', f'{RANK_METHOD} {section.ranking.interval}'.strip(), '']
            lines += ['| model | mean rank | ' + ' | '.join(map(_escaped, section.ranking.tasks)) + ' |']
            lines += ['|---|---:|' + '---:|' * len(section.ranking.tasks)]
            for row in section.ranking.rows:
                interval = '' if row.low is None else f' ({row.low:.1f} to {row.high:.1f})'
                ranks = [f'{row.ranks[task]:g}' for task in section.ranking.tasks]
                lines.append('| ' + ' | '.join([_escaped(row.model), f'{row.rank:.1f}{interval}', *ranks]) + ' |')
        elif section.unranked:
            lines += ['', section.unranked]
    return '\n'.join(lines) + '\n'


def _group(section: Section, number: int, group: Group) -> list[str]:
    """The table of one task and protocol, the best by its main metric first."""
    measured = section.status != 'published'
    rows = [row for row in section.rows if any((number, metric) in row.cells for metric in group.metrics)]
    rows.sort(key=lambda row: -_mean(row, number, group.metrics[0]))
    names = ['model', 'parameters, M', 'MACs, G', *group.metrics, *([] if measured else ['source'])]
    lines = [
        f'Protocol: {_escaped(protocol_words(group.protocol)) or "not given"}.'
        + (f' Training: {_escaped(protocol_words(group.training))}.' if measured else ''),
        '',
        '| ' + ' | '.join(map(_escaped, names)) + ' |',
        '|---|' + '---:|' * (2 + len(group.metrics)) + ('' if measured else '---|'),
    ]
    standing = False
    for row in rows:
        cells = [row.cells.get((number, metric)) for metric in group.metrics]
        run = next(cell for cell in cells if cell).runs[0]
        parameters, macs = run['parameters']['backbone'], run['macs']
        words = [
            _escaped(row.model),
            '' if parameters is None else count(parameters, 1e6),
            count(macs['value'], 1e9) if macs else '',
            *(_figure(cell, measured) for cell in cells),
            *([] if measured else [_escaped(run['source'])]),
        ]
        lines.append('| ' + ' | '.join(words) + ' |')
        standing = standing or any(cell and cell.standing for cell in cells)
    if standing:
        lines += ['', MARKS_RULE]
    return lines


def _mean(row: Row, number: int, metric: str) -> float:
    cell = row.cells.get((number, metric))
    return cell.summary.mean if cell else -1.0


def _figure(cell: Cell | None, measured: bool) -> str:
    if cell is None:
        return ''
    text = figure(cell.summary, measured)
    return f'**{text}**' if cell.standing == 'best' else f'{text} {MARKS[cell.standing]}'.strip()


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, also in a table: no markup, no HTML, no line of its own."""
    text = ' '.join(text.split())
    return re.sub(r'([\\`*_\[\]|])', r'\\\1', text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;'))


# ------------------------------------------------------------------------------------------------------------------ CSV


def _csv(tables: Sequence[Section]) -> str:
    """One row for each model, task, protocol and metric; shares of one, as in records."""
    rows = [
        _row(section, row, section.groups[number], cell)
        for section in tables
        for row in section.rows
        for (number, _), cell in row.cells.items()
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_COLUMNS = (
    'status', 'model', 'backbone', 'attention', 'task', 'protocol', 'training', 'metric', 'mean', 'sd', 'n', 'seeds',
    'standing', 'backbone_parameters', 'model_parameters', 'backbone_macs', 'macs_input', 'source',
)  # fmt: skip


def _row(section: Section, row: Row, group: Group, cell: Cell) -> dict[str, Any]:
    run, summary = cell.runs[0], cell.summary
    seeds = [str(one['seed']) for one in cell.runs if one['seed'] is not None]
    values = {
        'status': section.status,
        'model': row.model,
        'backbone': row.backbone,
        'attention': row.attention,
        'task': group.task,
        'protocol': protocol_words(group.protocol),
        'training': protocol_words(group.training),
        'metric': cell.metric,
        'mean': f'{summary.mean:.6g}',
        'sd': None if summary.deviation is None else f'{summary.deviation:.6g}',
        'n': summary.count,
        'seeds': ' '.join(seeds),
        'standing': cell.standing,
        'backbone_parameters': run['parameters']['backbone'],
        'model_parameters': run['parameters']['model'],
        'backbone_macs': run['macs'] and run['macs']['value'],
        'macs_input': run['macs'] and 'x'.join(map(str, run['macs']['input'])),
        'source': run['source'],
    }
    return {name: '' if value is None else value for name, value in values.items()}
