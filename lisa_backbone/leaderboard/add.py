"""Records of runs made anywhere, checked against what the runs left and added to the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import quiet
from ..collect import RECORD_FILE, record_of
from ..config import config_digest, load_config, parse_options
from ..errors import UserError
from ..predictions import Detection, read_predictions
from ..provenance import file_digest
from ..records import MEASURED, UNKNOWN_COMMIT, add_records, check_records, parse_record, read_records
from ..tasks import Task, task_of
from .bootstrap import value_of
from .lint import cost_of, is_this_stack
from .sections import sections

__all__ = ['add']

# Half of the last digit that the frameworks keep of a metric.
_ROUNDING = {'mIoU': 5e-5, 'box AP': 5e-4, 'mask AP': 5e-4}


def add(work_dirs: Sequence[Path], root: Path, results: Path | None = None) -> list[str]:
    """Check the records of some runs and add them to the results, all or none.

    A record must be what ``metrics.json`` of its work directory gives; its config, with the overrides, must be that of
    the checkout and give its task, status, model, operator, parameters and MACs; the files of the weights and of the
    predictions must be there and have the digests that it says; and the predictions must give its metrics.

    Args:
        work_dirs: Where each was trained and tested.
        root: The checkout.
        results: The file of records; by default that of the status, ``mini.jsonl`` or ``reproduced.jsonl``, in the
            results of the checkout.

    Returns:
        A line for each record, and one for what could not be checked.

    Raises:
        UserError: A record fails a check, or claims a run or weights that the results have; nothing is written then.
    """
    folder = root / 'results'
    standing = read_records(results or folder)
    lines, new = [], []
    for work_dir in work_dirs:
        with quiet():  # frameworks warn of each other's scopes
            record, unchecked = _checked(work_dir, root)
        path = results or folder / f'{record["status"]}.jsonl'
        new.append((work_dir, path, record))
        figures = ', '.join(f'{name} {100 * value:.1f} %' for name, value in record['metrics'].items())
        lines.append(f'{path}: {record["task"]}, {record["model"]}, seed {record["seed"]}: {figures}')
        lines += [f'{work_dir}: not checked: {what}' for what in unchecked]
    everything = [
        *((f'a record in {results or folder}', record) for record in standing),
        *((str(work_dir), record) for work_dir, _, record in new),
    ]
    check_records(everything)
    _check_weights(everything)
    sections([record for _, record in everything])  # raises where seeds of one model have no mean
    for path in dict.fromkeys(path for _, path, _ in new):
        add_records(path, [record for _, its, record in new if its == path])
    return lines


def _checked(work_dir: Path, root: Path) -> tuple[dict[str, Any], list[str]]:
    """The record of a run, and what of it could not be checked."""
    path = work_dir / RECORD_FILE
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(
            f'{path} cannot be read ({error.strerror}); tools/test.py writes it where a config of a task was trained'
        ) from error
    record = parse_record(text, str(path))
    if record['status'] not in MEASURED:
        raise UserError(f'{path} is of a published figure; those are lines in results/published.jsonl (see the docs)')
    if UNKNOWN_COMMIT in (part['commit'] for part in (record['code'], *record['code'].get('earlier', ()))):
        raise UserError(
            f'{path} does not tell its code, as it was run outside of a git checkout; train and test in one'
        )
    found = task_of(record['config']['file'])
    if found is None or not (root / record['config']['file']).is_file():
        raise UserError(f'{path}: its config {record["config"]["file"]} is none of a task in this checkout; add that')
    unchecked = _check_config(record, work_dir, root)
    for file in (record['weights']['tested'], record['predictions']):
        if file and not _is_same(file, (work_dir / Path(file['file']).name,), path):
            raise UserError(f'{path} names {file["file"]}, which is not in {work_dir}; put it there or test again')
    for file in record['weights']['initial']:
        if not file['sha256'] or not _is_same(file, (root / file['file'], Path(file['file'])), path):
            unchecked.append(f'the weights at the start, {file["file"]}, whose file is not here')
    return record, unchecked + _check_metrics(record, found[0], work_dir)


def _check_config(record: dict[str, Any], work_dir: Path, root: Path) -> list[str]:
    """Compare a record with its config and with what the run wrote; what could not be compared."""
    where, unchecked = work_dir / RECORD_FILE, []
    config, options = root / record['config']['file'], parse_options(record['config']['overrides'])
    said = record['config']['digest']
    if is_this_stack(record['versions']):
        digest = config_digest(load_config(config), options)
        if digest != said:
            raise UserError(
                f'{where}: its config is another than {record["config"]["file"]} of this checkout with its overrides '
                f'(digest {said[:8]}, here {digest[:8]}); check out the commit that it was run with'
            )
    else:
        unchecked.append('the digest of the config, as other versions of the frameworks are installed here')
    again = record_of(work_dir, load_config(config, options).model.get('backbone') or {})
    for key in record.keys() | (again or {}).keys():
        if again is None or record.get(key) != again.get(key):
            raise UserError(
                f'{where}: {key} is not what the training and the test in metrics.json give with its config; test again'
            )
    cost = cost_of(config, options)
    shape = 'x'.join(map(str, record['macs']['input'])) if record['macs'] else None
    for name, claimed, real in (
        ('model parameters', record['parameters']['model'], cost.parameters),
        ('backbone parameters', record['parameters']['backbone'], cost.backbone_parameters),
        ('MACs', record['macs'] and record['macs']['value'], cost.backbone_macs if shape == cost.input else None),
    ):
        if real is not None and claimed != real:
            raise UserError(f'{where} says {name} {claimed}, and its config gives {real}; train and test again')
    return unchecked


def _is_same(file: dict[str, str], places: Sequence[Path], where: Path) -> bool:
    """Whether a file is at one of some places; one with another digest is refused."""
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return False
    digest = file_digest(found)['sha256']
    if digest != file['sha256']:
        raise UserError(
            f'{found} is not the file that {where} names (SHA-256 {digest[:8]}, there {file["sha256"][:8]}); test again'
        )
    return True


def _check_metrics(record: dict[str, Any], task: Task, work_dir: Path) -> list[str]:
    """Make the metrics anew of the predictions; what could not be made."""
    if record['predictions'] is None:
        return ['the metrics, as no predictions were kept']
    path = work_dir / Path(record['predictions']['file']).name
    predictions = read_predictions(path)
    unchecked = []
    for metric in task.metrics:
        if isinstance(predictions, Detection) and not Path(predictions.ground_truth).is_file():
            unchecked.append(f'{metric.name} by its detections, as {predictions.ground_truth} is not here')
            value = predictions.metrics.get(metric.key, -1) * metric.unit  # what the test made of them
        else:
            value = value_of(path, metric.name)
        said = record['metrics'][metric.name]
        if not abs(value - said) <= _ROUNDING.get(metric.name, 0) + 2e-6:
            raise UserError(f'{work_dir / RECORD_FILE} says {metric.name} {said:g}, and {path.name} gives {value:g}')
    return unchecked


def _check_weights(records: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Stop where two records are of the same weights: one run under two names or seeds."""
    seen: dict[str, str] = {}
    for where, record in records:
        if record['weights']:
            digest = record['weights']['tested']['sha256']
            name = f'{where} ({record["task"]}, {record["model"]}, seed {record["seed"]})'
            if digest in seen:
                raise UserError(f'{seen[digest]} and {name} are of the same weights ({digest[:8]}); leave out one')
            seen[digest] = name
