"""Records: one run of the leaderboard each, with all that is needed to judge it and to make it again.

A results file holds one record a line, as JSON (``results/*.jsonl``). Every record, published or measured, follows
:data:`SCHEMA`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema

from .errors import UserError
from .locks import locked
from .paths import replacing

__all__ = [
    'MEASURED',
    'SCHEMA',
    'STATUSES',
    'UNKNOWN_COMMIT',
    'add_records',
    'check_records',
    'claim',
    'parse_record',
    'read_records',
    'records_of',
    'validate',
]

STATUSES = ('published', 'reproduced', 'mini')
MEASURED = ('reproduced', 'mini')
UNKNOWN_COMMIT = 'unknown'  # of a run outside of a git checkout

_TEXT = {'type': 'string', 'minLength': 1}
_DIGEST = {'type': 'string', 'pattern': '^[0-9a-f]{64}$'}
_COMMIT = {'type': 'string', 'pattern': f'^([0-9a-f]{{40}}|{UNKNOWN_COMMIT})$'}
_COUNT = {'type': 'integer', 'minimum': 0}
_SECONDS = {'type': ['number', 'null'], 'minimum': 0}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {'type': 'object', 'properties': properties, 'required': list(required), 'additionalProperties': False}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {'anyOf': [schema, {'type': 'null'}]}


_FILE = _object({'file': _TEXT, 'sha256': _DIGEST})
_CODE = {'commit': _COMMIT, 'dirty': {'type': 'boolean'}}
_PROVENANCE = {  # what every measured run has and no published figure does
    'config': _object({'file': _TEXT, 'digest': _DIGEST, 'overrides': {'type': 'array', 'items': _TEXT}}),
    # and that of earlier parts of a training that went on with other code
    'code': _object(_CODE, {'earlier': {'type': 'array', 'items': _object(_CODE), 'minItems': 1}}),
    'weights': _object(
        {
            # without a digest: weights that a library fetched by name, whose file is not known
            'initial': {'type': 'array', 'items': _object({'file': _TEXT, 'sha256': _or_null(_DIGEST)})},
            'tested': _FILE,
        }
    ),
    # what was tested on, and the fingerprint of what was trained on
    'data': _object({'name': _TEXT, 'fingerprint': _DIGEST}, {'training': _DIGEST}),
    'cost': _object(
        {
            'iterations': _COUNT,
            'train_seconds': _SECONDS,
            'test_seconds': _SECONDS,
            'train_peak_mib': _SECONDS,
            'test_peak_mib': _SECONDS,
        }
    ),
    'machine': _object({'device': _TEXT, 'processes': _COUNT, 'threads': _COUNT}),
    'versions': {'type': 'object', 'additionalProperties': _TEXT, 'minProperties': 1},
}

SCHEMA: dict[str, Any] = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'title': 'A run of the leaderboard',
    **_object(
        {
            'schema': {'const': 1},
            'status': {'enum': list(STATUSES)},
            'task': _TEXT,  # 'mini COCO', or data set and schedule: 'COCO Mask R-CNN 1x'
            'model': _TEXT,  # the row of the table: 'lisa-p, SelfAttention'
            'backbone': _TEXT,  # 'lisa-p'
            'attention': {'type': ['string', 'null']},  # the operator, where the backbone takes several
            'seed': {'type': ['integer', 'null']},
            # shares of one, each by its name in tables; the main one first
            'metrics': {
                'type': 'object',
                'minProperties': 1,
                'additionalProperties': {'type': 'number', 'minimum': 0, 'maximum': 1},
            },
            # how it was tested: input, flip, views, crops, as words and numbers
            'protocol': {'type': 'object', 'additionalProperties': {'type': ['string', 'number', 'boolean', 'null']}},
            'parameters': _object({'backbone': {'type': ['integer', 'null']}, 'model': {'type': ['integer', 'null']}}),
            # of the backbone, for one image or one view of a clip
            'macs': _or_null(_object({'value': _COUNT, 'input': {'type': 'array', 'items': _COUNT}})),
            **{name: _or_null(schema) for name, schema in _PROVENANCE.items()},
            'predictions': _or_null(_FILE),
            'source': {'type': ['string', 'null']},  # where a published figure was read
            'note': {'type': ['string', 'null']},
            'date': {'type': ['string', 'null'], 'pattern': r'^\d{4}-\d{2}-\d{2}$'},
        }
    ),
    'if': {'properties': {'status': {'const': 'published'}}},
    'then': {'properties': {'source': _TEXT}},
    'else': {'properties': {'seed': {'type': 'integer'}, 'date': {'type': 'string'}, **_PROVENANCE}},
}
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def validate(record: Any, where: str) -> dict[str, Any]:
    """Compare a record with the schema.

    What a schema cannot say is checked besides: numbers are finite, the date is one of the calendar, and the status is
    that of the task, ``'mini'`` for those named so and another for all others.

    Args:
        record: The record.
        where: What to call it in a message.

    Returns:
        The record.

    Raises:
        UserError: It breaks the schema; the message names the field.
    """
    for field, number in _numbers(record):
        if not math.isfinite(number):
            raise UserError(f'{where} breaks the schema of records at {field}: {number} is no finite number')
    errors = sorted(_VALIDATOR.iter_errors(record), key=jsonschema.exceptions.relevance)
    if errors:
        error = next((one for one in errors if list(one.absolute_path) == ['status']), errors[-1])
        field = '.'.join(map(str, error.absolute_path)) or 'the record'
        if record.get('status') in MEASURED if isinstance(record, dict) else False:
            lacking = [name for name in _PROVENANCE if record.get(name) is None]
            if lacking:
                raise UserError(
                    f'{where} is {record["status"]} and has no {", ".join(lacking)}: a result without provenance is '
                    f'not taken; make it again with tools/train.py and tools/test.py'
                )
        raise UserError(f'{where} breaks the schema of records at {field}: {_brief(error.message)}')
    if record['date'] is not None:
        try:
            date.fromisoformat(record['date'])
        except ValueError as error:
            raise UserError(f'{where} breaks the schema of records at date: {record["date"]} is no day') from error
    if record['task'].startswith('mini ') != (record['status'] == 'mini'):
        raise UserError(
            f'{where} breaks the schema of records at status: {record["status"]!r} is not the status of '
            f'{record["task"]!r}; tasks on mini sets, and they alone, are mini'
        )
    return record


def parse_record(text: str, where: str) -> dict[str, Any]:
    """Read a record.

    Args:
        text: The record, as JSON.
        where: What to call it in a message.

    Returns:
        The record.

    Raises:
        UserError: It is no JSON, which has no NaN and no Infinity, or breaks the schema.
    """
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise UserError(f'{where} is not JSON ({error}); mend or remove it') from error
    return validate(record, where)


def claim(record: dict[str, Any]) -> tuple:
    """What a record claims to be: no two records of one results folder may claim the same.

    Returns:
        Status, task, model, seed, and the protocol of a published figure.
    """
    protocol = json.dumps(record['protocol'], sort_keys=True) if record['status'] == 'published' else ''
    return record['status'], record['task'], record['model'], record['seed'], protocol


def check_records(records: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Stop where two records claim the same run.

    Args:
        records: Records, each with what to call it.

    Raises:
        UserError: Two do.
    """
    seen: dict[tuple, str] = {}
    for where, record in records:
        key = claim(record)
        if key in seen:
            status, task, model, seed, _ = key
            words = f'{task}, {model}' + ('' if seed is None else f', seed {seed}')
            raise UserError(f'{seen[key]} and {where} claim the same {status} run ({words}); remove one')
        seen[key] = where


def read_records(paths: Path | Iterable[Path]) -> list[dict[str, Any]]:
    """Read and check results files.

    Args:
        paths: Files of one record a line; or a folder, for all ``*.jsonl`` in it.

    Returns:
        The records, in the order of the files; none of a file that does not exist.

    Raises:
        UserError: A line is no record, or two claim the same run.
    """
    if isinstance(paths, Path):
        paths = sorted(paths.glob('*.jsonl')) if paths.is_dir() else [paths]
    found = []
    for path in paths:
        try:
            lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
        except UnicodeDecodeError as error:
            raise UserError(f'{path} is no file of records, which are lines of JSON; name another') from error
        for number, line in enumerate(lines, 1):
            where = f'{path}, line {number},'
            found.append((where, parse_record(line, where)))
    check_records(found)
    return [record for _, record in found]


def records_of(
    records: Sequence[dict[str, Any]], backbones: Sequence[str] | None = None, tasks: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The records of some backbones, with whatever operators, or of some tasks.

    Args:
        records: Valid records.
        backbones: Names of backbones, as in ``'backbone'`` of a record; ``None`` for all of them.
        tasks: Names of tasks, as in ``'task'``; ``None`` for all of them.

    Raises:
        UserError: There is none of a backbone or of a task.
    """
    kept = list(records)
    for key, names in (('backbone', backbones), ('task', tasks)):
        if names is None:
            continue
        known = sorted({record[key] for record in records})
        for name in names:
            if name not in known:
                raise UserError(f'there is no record of {name}; there are those of {", ".join(known) or "none"}')
        kept = [record for record in kept if record[key] in names]
    return kept


def add_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Add records to a results file by replacing it, so that a kill at any moment leaves it whole.

    Several processes may add to one file: each waits for the others.

    Args:
        path: The file; it is made if it is missing.
        records: What to add.

    Raises:
        UserError: One breaks the schema or claims a run that is there; nothing is written then.
    """
    new = [(f'the new record {number}', validate(record, f'the new record {number}'))
           for number, record in enumerate(records, 1)]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        standing = read_records(path)
        check_records([*((f'{path}, line {number},', record) for number, record in enumerate(standing, 1)), *new])
        lines = [json.dumps(record, allow_nan=False) + '\n' for record in [*standing, *(record for _, record in new)]]
        with replacing(path) as draft:
            draft.write_text(''.join(lines))


def _numbers(node: Any, path: str = '') -> Iterator[tuple[str, float]]:
    """Every number of a record that may not be finite, with its dotted path."""
    if isinstance(node, float):
        yield path or 'the record', node
    elif isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _numbers(value, f'{path}.{key}' if path else str(key))


def _refuse_constant(name: str) -> None:
    raise ValueError(f'it holds {name}')


def _brief(message: str) -> str:
    return message if len(message) < 200 else f'{message[:200]}...'
