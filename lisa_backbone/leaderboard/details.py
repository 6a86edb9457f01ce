"""Provenance of a figure in words: where it comes from, line by line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..records import UNKNOWN_COMMIT
from .sections import Cell, Group
from .wording import MEANING, input_words, number, percent, protocol_words

__all__ = ['details']


def details(cell: Cell, group: Group, model: str) -> dict[str, Any]:
    """What a page shows when a number is opened.

    Args:
        cell: The number.
        group: Its column.
        model: Its row.

    Returns:
        ``title``, ``value``, ``facts`` (pairs of a name and a text; a fact that differs between the runs has a line for
        each seed) and ``runs``, the names and rows of a table with a row for each seed; without rows for a figure that
        was published.
    """
    runs = cell.runs
    spread = '' if cell.summary.deviation is None else f' ± {100 * cell.summary.deviation:.2f}'
    shown = [('Beside the best', cell.comparison), *((name, _merged(runs, text)) for name, text in FACTS)]
    return {
        'title': f'{model}, {group.task}',
        'value': f'{cell.metric} {percent(cell.summary.mean)}{spread}',
        'facts': [[name, text] for name, text in shown if text],
        'runs': _table(cell),
    }


def _merged(runs: Sequence[dict[str, Any]], text: Callable[[dict[str, Any]], str]) -> str:
    """What a fact says of all runs, or of each where they differ."""
    texts = [text(run) for run in runs]
    if len(set(texts)) == 1:
        return texts[0]
    return '\n'.join(f'seed {run["seed"]}: {words or "none"}' for run, words in zip(runs, texts, strict=True))


def _table(cell: Cell) -> dict[str, list]:
    names = ['seed', f'{cell.metric}, %', 'training', 'test', 'memory in training', 'memory in test', 'date']
    runs = [run for run in cell.runs if run['cost']]
    return {'names': names, 'rows': [_run(run, cell.metric) for run in runs]}


def _run(run: dict[str, Any], metric: str) -> list[str]:
    cost = run['cost']
    return [
        str(run['seed']),
        f'{100 * run["metrics"][metric]:.2f}',
        *(_seconds(cost[f'{part}_seconds']) for part in ('train', 'test')),
        *(_memory(cost[f'{part}_peak_mib']) for part in ('train', 'test')),
        run['date'],
    ]


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return 'not known'
    return (
        f'{seconds:.0f} s'
        if seconds < 600
        else f'{seconds / 60:.0f} min'
        if seconds < 36000
        else f'{seconds / 3600:.0f} h'
    )


def _memory(mib: float | None) -> str:
    return 'not known' if mib is None else f'{mib:.0f} MiB'


# ------------------------------------------------------------------------------------------------------------ the facts


def _config(run: dict[str, Any]) -> str:
    return run['config']['file'] if run['config'] else ''


def _digest(run: dict[str, Any]) -> str:
    return run['config']['digest'] if run['config'] else ''


def _overrides(run: dict[str, Any]) -> str:
    return '\n'.join(run['config']['overrides'] or ['none']) if run['config'] else ''


def _code(run: dict[str, Any]) -> str:
    if not run['code']:
        return ''
    earlier = run['code'].get('earlier', ())
    begun = ''.join(f'; begun with {_commit(part)}' for part in earlier)
    return _commit(run['code']) + begun


def _commit(code: dict[str, Any]) -> str:
    if code['commit'] == UNKNOWN_COMMIT:
        return 'not known, as it was run outside of a git checkout'
    return code['commit'] + (', with changes that were not committed' if code['dirty'] else '')


def _initial(run: dict[str, Any]) -> str:
    if not run['weights']:
        return ''
    return '\n'.join(map(_file, run['weights']['initial'])) or 'random'


def _tested(run: dict[str, Any]) -> str:
    return _file(run['weights']['tested']) if run['weights'] else ''


def _file(file: dict[str, str | None]) -> str:
    return f'{file["file"]}, SHA-256 {file["sha256"] or "not known"}'


def _data(run: dict[str, Any]) -> str:
    if not run['data']:
        return ''
    tested, trained = run['data']['fingerprint'], run['data'].get('training')
    more = f', of the training data {trained}' if trained not in (None, tested) else ''
    return f'{run["data"]["name"]}, fingerprint {tested}{more}'


def _parameters(run: dict[str, Any]) -> str:
    named = ((name, run['parameters'][name]) for name in ('backbone', 'model'))
    return ', '.join(f'{name} {number(count)}' for name, count in named if count is not None)


def _macs(run: dict[str, Any]) -> str:
    return f'backbone {number(run["macs"]["value"])} for {_input(run)}' if run['macs'] else ''


def _input(run: dict[str, Any]) -> str:
    shape = run['macs']['input']
    return f'an input of {input_words(shape)}' if shape else 'one view of a clip, whose size the source does not give'


def _machine(run: dict[str, Any]) -> str:
    if not run['machine']:
        return ''
    machine = run['machine']
    return f'{machine["device"]}, processes {machine["processes"]}, threads {machine["threads"]}'


FACTS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ('Status', lambda run: MEANING[run['status']]),
    ('Source', lambda run: run['source'] or ''),
    ('Note', lambda run: run['note'] or ''),
    ('Task', lambda run: run['task']),
    ('Protocol', lambda run: protocol_words(run['protocol'])),
    ('Config', _config),
    ('Config digest', _digest),
    ('Overrides', _overrides),
    ('Commit', _code),
    ('Attention', lambda run: run['attention'] or ''),
    ('Weights at the start', _initial),
    ('Weights tested', _tested),
    ('Data', _data),
    ('Parameters', _parameters),
    ('MACs', _macs),
    ('Iterations', lambda run: str(run['cost']['iterations']) if run['cost'] else ''),
    ('Machine', _machine),
    ('Versions', lambda run: ', '.join(f'{name} {version}' for name, version in (run['versions'] or {}).items())),
    ('Predictions', lambda run: _file(run['predictions']) if run['predictions'] else ''),
)
