"""What a report shows: a section for each status, models in rows, metrics of tasks in columns.

Figures stand in one column only if task, protocol, data set and training are the same, and in one section only if they
are of the same status, so that no order by a column ever mixes what cannot be compared.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import UserError
from ..provenance import LOCAL_OPTIONS
from ..records import MEASURED, STATUSES
from ..tasks import MINI_CONTROLS, MINI_TASKS
from .statistics import Ranking, Summary, compare_seeds, correct, rank, summarise
from .wording import input_words, protocol_words

__all__ = ['Cell', 'Group', 'Row', 'Section', 'sections', 'split_overrides', 'training_of']

_ORDER = [task.name for task in MINI_TASKS + MINI_CONTROLS]
_CONTROLS = {task.name for task in MINI_CONTROLS}
_PLACES = {'data_root', 'work_dir', 'load_from', 'checkpoint', 'pretrained'}  # last parts of keys that name a path
# Overrides under which a training is the same. Of the parts of a schedule (a warm-up, say) each model has its own;
# how long it is in all, the iterations tell.
_SAME_TRAINING = re.compile(
    r'(log_level|launcher|randomness|resume|env_cfg|visualizer|vis_backends|default_hooks\.(logger|visualization))(\..+)?'
    r'|\w+_dataloader\.(num_workers|persistent_workers|pin_memory|prefetch_factor)'
    r'|param_scheduler\.\d+\.(begin|end|T_max)'
)
_NOT_THE_MODEL = re.compile(r'(?!model\.)|model\.(train_cfg|test_cfg)\b')


@dataclass
class Cell:
    """A figure of a model: one metric over the seeds.

    Attributes:
        metric: Name of the metric.
        runs: Records of one seed each, in the order of the seeds.
        summary: Mean and deviation over the seeds, shares of one.
        standing: ``'best'`` of its column; ``'noise'`` if its difference to the highest is inside the noise;
            ``'untold'`` if that cannot be told from so few seeds, or it is the highest and none can be told from it;
            else ``''``.
        comparison: The comparison with the best in a sentence; '' where there is none.
    """

    metric: str
    runs: tuple[dict[str, Any], ...]
    summary: Summary
    standing: str = ''
    comparison: str = ''


@dataclass(frozen=True)
class Group:
    """Columns of one task under one protocol on one data set after one kind of training.

    Attributes:
        task: The task.
        variation: What sets its protocol, training or data apart from others of the task, in words; '' if nothing does.
        protocol: The protocol.
        training: The training, as of :func:`training_of`.
        metrics: The metrics, the main one first.
        models: Number of models that have figures in it.
    """

    task: str
    variation: str
    protocol: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: tuple[str, ...]
    models: int

    @property
    def title(self) -> str:
        """Task and variation."""
        return f'{self.task} ({self.variation})' if self.variation else self.task


@dataclass
class Row:
    """A model.

    Attributes:
        model: Its name.
        backbone: Name of its backbone.
        attention: Its operator, if its backbone takes several.
        parameters: Fewest and most parameters of the backbone over the tasks; ``None`` if none are given.
        macs: MACs of the backbone by the size of the input, in words.
        cells: Its figures by number of the group and name of the metric.
    """

    model: str
    backbone: str
    attention: str | None
    parameters: tuple[int, int] | None = None
    macs: dict[str, int] = field(default_factory=dict)
    cells: dict[tuple[int, str], Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """All figures of one status.

    Attributes:
        status: One of :data:`lisa_backbone.records.STATUSES`.
        groups: Columns, together by task.
        rows: Models, by their rank where they have one, else in the order of the records.
        ranking: Models by their rank across tasks; ``None`` where they cannot be ranked.
        unranked: Why not, as a sentence.
    """

    status: str
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    ranking: Ranking | None
    unranked: str


def split_overrides(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Sort overrides of a config into those of the model and those of the training.

    Args:
        overrides: ``KEY=VALUE`` each.

    Returns:
        Keys to values of either. Left out are paths, and what changes neither: numbers of workers, logging, seeds.
    """
    model, training = {}, {}
    for override in overrides:
        key, _, value = override.partition('=')
        if key in LOCAL_OPTIONS or key.rpartition('.')[2] in _PLACES or _SAME_TRAINING.fullmatch(key):
            continue
        (training if _NOT_THE_MODEL.match(key) else model)[key] = value
    return model, training


def training_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the training of a record another than that of its peers, apart from the model.

    Args:
        record: A record.

    Returns:
        Iterations, processes, whether it started from trained weights (which ones differs from seed to seed where each
        has a pretraining of its own), and the overrides of all but the model; nothing of a published figure.
    """
    if record['status'] not in MEASURED:
        return {}
    return {
        'iterations': record['cost']['iterations'],
        'processes': record['machine']['processes'],
        'from': 'trained weights' if record['weights']['initial'] else 'random weights',
        **dict(sorted(split_overrides(record['config']['overrides'])[1].items())),
    }


def sections(records: Sequence[dict[str, Any]]) -> list[Section]:
    """Sort records into tables.

    Args:
        records: Valid records.

    Returns:
        A section for every status, also for one without records.

    Raises:
        UserError: The seeds of a model were run with different configs, so they have no mean.
    """
    return [_section(status, [record for record in records if record['status'] == status]) for status in STATUSES]


class _Key(NamedTuple):
    """What figures of one column have in common, protocol and training as JSON."""

    task: str
    protocol: str
    training: str
    data: str


def _key(record: dict[str, Any]) -> _Key:
    protocol, training = (json.dumps(part, sort_keys=True) for part in (record['protocol'], training_of(record)))
    return _Key(record['task'], protocol, training, record['data']['fingerprint'] if record['data'] else '')


def _section(status: str, records: list[dict[str, Any]]) -> Section:
    found: dict[_Key, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(_key(record), []).append(record)
    models = {key: len({record['model'] for record in members}) for key, members in found.items()}
    tasks = _in_order([key.task for key in found])
    keys = sorted(found, key=lambda key: (tasks.index(key.task), -models[key]))  # the commonest of a task first
    groups = tuple(_group(key, keys, found[key], models[key]) for key in keys)
    rows: dict[str, Row] = {}
    for record in records:
        rows.setdefault(record['model'], Row(record['model'], record['backbone'], record['attention']))
    for number, key in enumerate(keys):
        for metric in groups[number].metrics:
            column = []
            for row in rows.values():
                runs = [r for r in found[key] if r['model'] == row.model and metric in r['metrics']]
                if runs:
                    row.cells[number, metric] = _cell(metric, runs, groups[number].title)
                    column.append(row.cells[number, metric])
            if status in MEASURED:
                _compare(column)
    for row in rows.values():
        _measure(row)
    ranking, unranked = _rank(status, records, groups)
    places = {row.model: place for place, row in enumerate(ranking.rows)} if ranking else {}
    in_order = sorted(rows.values(), key=lambda row: places.get(row.model, len(places)))
    return Section(status, groups, tuple(in_order), ranking, unranked)


def _in_order(tasks: list[str]) -> list[str]:
    """Mini tasks as the sweep has them; all others as they occur, those of one data set together."""
    sets = [task.split()[0] for task in tasks]
    return sorted(
        dict.fromkeys(tasks),
        key=lambda task: (_ORDER.index(task) if task in _ORDER else -1, sets.index(task.split()[0]), tasks.index(task)),
    )


def _group(key: _Key, keys: list[_Key], members: list[dict[str, Any]], models: int) -> Group:
    others = [other for other in keys if other.task == key.task]
    protocol, training = members[0]['protocol'], training_of(members[0])
    parts = [
        protocol_words(_own(protocol, [json.loads(other.protocol) for other in others])),
        protocol_words(_own(training, [json.loads(other.training) for other in others])),
        f'data {key.data[:8]}' if len({other.data for other in others}) > 1 else '',
    ]
    metrics = dict.fromkeys(metric for record in members for metric in record['metrics'])
    return Group(key.task, ', '.join(filter(None, parts)), protocol, training, tuple(metrics), models)


def _own(entries: Mapping[str, Any], all_entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that not all have."""
    counts = Counter(entry for others in all_entries for entry in _entries(others))
    return {name: value for name, value in entries.items() if counts[name, json.dumps(value)] < len(all_entries)}


def _entries(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value)) for name, value in protocol.items()]


def _cell(metric: str, runs: list[dict[str, Any]], title: str) -> Cell:
    digests = sorted({run['config']['digest'][:8] for run in runs if run['config']})
    if len(digests) > 1:
        raise UserError(
            f'the seeds of {runs[0]["model"]} on {title} are of different configs (digests {", ".join(digests)}) and '
            f'have no mean; give those of one config another model name'
        )
    runs = sorted(runs, key=lambda run: -1 if run['seed'] is None else run['seed'])
    return Cell(metric, tuple(runs), summarise([run['metrics'][metric] for run in runs]))


def _compare(column: list[Cell]) -> None:
    """Mark the best of a column, what is inside the noise beside it, and what cannot be told."""
    if len(column) < 2:
        return
    best = max(column, key=lambda cell: cell.summary.mean)
    others = [cell for cell in column if cell is not best]
    found = correct([compare_seeds(best.runs, cell.runs, cell.metric) for cell in others])
    best.standing = 'untold' if all(comparison.in_noise is None for comparison in found) else 'best'
    for cell, comparison in zip(others, found, strict=True):
        cell.comparison = comparison.sentence()
        cell.standing = {None: 'untold', True: 'noise', False: ''}[comparison.in_noise]


def _measure(row: Row) -> None:
    """Fill in the size and cost of a model from all its runs."""
    runs = [run for cell in row.cells.values() for run in cell.runs]
    parameters = [count for run in runs if (count := run['parameters']['backbone']) is not None]
    if parameters:
        row.parameters = min(parameters), max(parameters)
    for run in runs:
        if run['macs']:
            row.macs.setdefault(input_words(run['macs']['input']), run['macs']['value'])


def _rank(status: str, records: list[dict[str, Any]], groups: Sequence[Group]) -> tuple[Ranking | None, str]:
    """The ranking across tasks, controls left out, or why there is none."""
    if status not in MEASURED:
        return None, 'Published figures are not ranked across tasks: their recipes differ and few models have them all.'
    records = [record for record in records if record['task'] not in _CONTROLS]
    counts = Counter(group.task for group in groups)
    mixed = [record['task'] for record in records if counts[record['task']] > 1]
    if mixed:
        several = f'{mixed[0]} has results of several protocols, trainings or data sets'
        return None, f'There is no rank across tasks, as {several}.'
    if len({record['task'] for record in records}) < 2 or len({record['model'] for record in records}) < 2:
        return None, ''
    try:
        return rank(records), ''
    except UserError as error:
        return None, f'There is no rank across tasks: {error}.'
