"""Records out of work directories: what training and testing wrote, as one run of the leaderboard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .errors import UserError
from .paths import replacing
from .records import validate
from .tasks import Task, task_of

__all__ = [
    'METRICS_FILE',
    'RECORD_FILE',
    'attention_of',
    'discard_record',
    'plain_metrics',
    'record_of',
    'write_json',
    'write_record',
]

METRICS_FILE = 'metrics.json'
RECORD_FILE = 'record.json'


def attention_of(backbone: dict) -> str | None:
    """The operator of a LiSA backbone's config, as command lines name it; ``None`` for another backbone.

    Args:
        backbone: Config of the backbone.
    """
    if str(backbone.get('type')).rpartition('.')[2] != 'LiSA':
        return None
    attention = backbone.get('attention', 'LiSAttention')
    each = [attention] if isinstance(attention, dict | str) else list(attention)
    return ' / '.join(dict.fromkeys(_name(one) for one in each))


def _name(attention: dict | str) -> str:
    if isinstance(attention, str):
        return attention
    options = ','.join(f'{key}={value}' for key, value in attention.items() if key != 'type')
    return attention['type'] + (f':{options}' if options else '')


def record_of(work_dir: Path, backbone: dict) -> dict[str, Any] | None:
    """The record of a run.

    Args:
        work_dir: Where it was trained and tested.
        backbone: Config of its backbone.

    Returns:
        The record, or ``None`` where the config belongs to no task of the leaderboard.

    Raises:
        UserError: It was not trained or not tested there, or a figure is missing.
    """
    try:
        entries = json.loads((work_dir / METRICS_FILE).read_text())
        trained, tested = entries['train'], entries['test']
    except FileNotFoundError as error:
        raise UserError(f'{work_dir} holds no {METRICS_FILE}; train and test there first') from error
    except (ValueError, TypeError) as error:
        raise UserError(f'{work_dir / METRICS_FILE} cannot be read ({error}); train and test again') from error
    except KeyError as error:
        raise UserError(f'{work_dir / METRICS_FILE} has no entry {error}; train and test there first') from error
    for mode, entry in (('train', trained), ('test', tested)):
        if not isinstance(entry.get('config'), dict):
            raise UserError(
                f'entry {mode!r} of {work_dir / METRICS_FILE} was written by an earlier version; {mode} again'
            )
    found = task_of(trained['config']['file'])
    if found is None:
        return None
    task, model = found
    _check_same(trained, tested, work_dir)
    attention, training = attention_of(backbone), trained.get('data')
    return validate(
        {
            'schema': 1,
            'status': task.status,
            'task': task.name,
            'model': f'{model}, {attention}' if attention else model,
            'backbone': model,
            'attention': attention,
            'seed': trained['seed'],
            'metrics': _metrics(task, tested['metrics'], work_dir),
            'protocol': tested['protocol'],
            'parameters': {'backbone': trained.get('backbone_parameters'), 'model': trained['parameters']},
            'macs': tested['macs'],
            'config': trained['config'],
            'code': trained['code'],
            'weights': {'initial': trained['weights'], 'tested': tested['weights']},
            'data': tested['data'] | ({'training': training['fingerprint']} if training else {}),
            'cost': {
                'iterations': trained['iterations'],
                'train_seconds': trained.get('train_seconds', None if trained['resumed_from'] else trained['seconds']),
                'test_seconds': tested['seconds'],
                'train_peak_mib': trained['peak_mib'],
                'test_peak_mib': tested['peak_mib'],
            },
            'machine': trained['machine'],
            'versions': trained['versions'],
            'predictions': tested['predictions'],
            'source': None,
            'note': None,
            'date': tested['finished'][:10],
        },
        str(work_dir / METRICS_FILE),
    )


def write_record(work_dir: Path, cfg: Config) -> Path | None:
    """Write the record of a run into its work directory; where there is none to be made, that of before is removed.

    Args:
        work_dir: Where it was trained and tested.
        cfg: Its config.

    Returns:
        The file; ``None`` where the run was not trained there, or its config belongs to no task.
    """
    discard_record(work_dir)
    try:
        record = record_of(work_dir, cfg.model.get('backbone') or {})
    except UserError as error:
        print(f'no record of this run: {error}', flush=True)
        return None
    if record is None:
        return None
    write_json(work_dir / RECORD_FILE, record)
    return work_dir / RECORD_FILE


def discard_record(work_dir: Path) -> None:
    """Remove the record of a run, since it is trained or tested anew.

    Args:
        work_dir: Its work directory, which may not be there yet.
    """
    (work_dir / RECORD_FILE).unlink(missing_ok=True)


def _metrics(task: Task, found: dict, work_dir: Path) -> dict[str, float]:
    values = {}
    for metric in task.metrics:
        value = found.get(metric.key)
        if value is None:
            raise UserError(
                f'the test gives no finite {metric.key}, only {", ".join(found) or "nothing"}; see {work_dir}'
            )
        values[metric.name] = round(value * metric.unit, 6)
    return values


def _check_same(trained: dict, tested: dict, work_dir: Path) -> None:
    """Stop where training and test were not of one config, or the weights tested are not those of the training."""
    if tested['config']['digest'] not in (trained['config']['digest'], trained.get('digest_without_flags')):
        raise UserError(
            f'{work_dir} was tested with another config or other overrides than it was trained with; test it again '
            f'with those of the training'
        )
    made = trained.get('made')
    if made is None:  # written before trainings noted the digests of their checkpoints
        own = Path(tested['checkpoint']).resolve().parent == work_dir.resolve()
    else:
        own = tested['weights']['sha256'] in [one['sha256'] for one in made]
    if not own:
        raise UserError(
            f'{tested["checkpoint"]} is neither the best nor the last checkpoint that was trained in {work_dir}; test '
            f'one of those'
        )


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of one."""
    path = Path(path)
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=2, default=str, allow_nan=False) + '\n')


def plain_metrics(metrics: dict | None) -> dict[str, float | None]:
    """Metrics as JSON can hold them."""
    plain = {}
    for name, value in (metrics or {}).items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        plain[name] = number if math.isfinite(number) else None
    return plain
