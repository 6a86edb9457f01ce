"""Rehearsals of many configs, each in a process of its own, on small stand-ins for the data sets they name.

A stand-in is a mini set in the real set's layout under the real set's file names, so that the config's own pipelines
run on it; what it shows means nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .config import config_digest, load_config
from .data.mini import COMMANDS
from .data.mini_sets import mini_set
from .errors import UserError
from .jobs import Processes, duration, threads_each, work_through
from .paths import check_folder
from .rehearse import check_scale

__all__ = [
    'STAND_INS',
    'Rehearsal',
    'find_configs',
    'make_stand_in',
    'read_results',
    'rehearse_all',
    'sample',
    'stand_in_of',
    'table',
]

RESULTS_FILE = 'results.jsonl'
PACKAGE = Path(__file__).parent
TRAIN, VAL = 8, 4  # items of a stand-in: as many as a rehearsal looks at


@dataclass(frozen=True)
class Rehearsal:
    """What came of one config.

    Attributes:
        config: The config, relative to the folder of all configs where it lies in it.
        passed: Whether the rehearsal ended well.
        seconds: Wall time of its process.
        parameters: Parameters of the model; ``None`` if it did not pass, as for what follows.
        peak_memory_gib: Peak memory: of the process, or of the GPU where one was used.
        sentence: What went wrong; empty if it passed.
        digest: Digest of the config.
        code: Digest of the code: this package and the training script.
        scale: Factor on the sizes of the images.
        data: ``'stand-in'`` or ``'real'``.
        finished: Date and time.
    """

    config: str
    passed: bool
    seconds: float
    parameters: int | None
    peak_memory_gib: float | None
    sentence: str
    digest: str
    code: str
    scale: float
    data: str
    finished: str

    def same_job(self, other: Rehearsal) -> bool:
        """Whether ``other`` rehearsed the same config with the same code in the same way."""
        keys = ('config', 'digest', 'code', 'scale', 'data')
        return all(getattr(self, key) == getattr(other, key) for key in keys)


def find_configs(names: Sequence[str | Path], root: Path) -> list[Path]:
    """The configs that are named, or all.

    Args:
        names: Config files and folders of them; none for all below ``root``.
        root: Folder of all configs. What lies in a folder ``_base_`` is a part of a config and not one itself.

    Returns:
        The files, sorted, each once.

    Raises:
        UserError: A name is no file, or there is no config in a folder.
    """
    found: set[Path] = set()
    for path in map(Path, names or [root]):
        inside = {p for p in path.rglob('*.py') if '_base_' not in p.parts} if path.is_dir() else {path}
        if not inside:
            raise UserError(f'there is no config in {path}; name config files or a folder of them')
        if not path.exists():
            raise UserError(f'config {path} does not exist; name config files or folders of them')
        found |= inside
    return sorted(found)


def sample(configs: Sequence[Path], count: int, offset: int) -> list[Path]:
    """Part of the configs, spread over all of them; offsets that follow each other take every config in turn.

    Args:
        configs: All of them.
        count: How many at most.
        offset: Which part: ceil(len / count) offsets in a row cover all, each config once.

    Returns:
        The part.

    Raises:
        UserError: ``count`` is not positive.
    """
    if count < 1:
        raise UserError(f'--sample {count} is not positive; give the number of configs to rehearse')
    parts = -(-len(configs) // count)
    return list(configs[offset % parts :: parts])


def rehearse_all(
    configs: Sequence[Path],
    root: Path,
    train: Path,
    out: Path,
    *,
    scale: float = 0.25,
    real: bool = False,
    again: bool = False,
    jobs: int = 1,
    limit: float = 1200,
) -> list[Rehearsal]:
    """Rehearse configs, and write each result to ``out`` as it comes.

    What passed with the same code in the same way before, by the results in ``out``, is not rehearsed again.

    Args:
        configs: Config files.
        root: Folder of all configs, for their names.
        train: The training script.
        out: Folder for the results, logs and stand-in data.
        scale: Factor on the sizes of the images.
        real: Use the data where the configs say they are, and no stand-ins.
        again: Also rehearse what passed before.
        jobs: Configs at a time.
        limit: Seconds after which a rehearsal has failed.

    Returns:
        For each config its latest result.

    Raises:
        UserError: The options cannot be used.
    """
    if jobs < 1:
        raise UserError(f'--jobs {jobs} is not positive; give the number of configs to rehearse at a time')
    if not 0 < limit < math.inf:
        raise UserError(f'--limit {limit / 60:g} is not positive; give the minutes that one may take')
    check_scale(scale)
    check_folder(out, '--out')
    read = {path: _read(path) for path in tqdm(configs, desc='reading configs', unit='config', leave=False)}
    code, data = _code_digest(train), 'real' if real else 'stand-in'
    wanted = {
        path: Rehearsal(_name(path, root), False, 0.0, None, None, '', digest, code, scale, data, '')
        for path, (digest, _) in read.items()
    }
    results = {}
    before = [] if again else read_results(out / RESULTS_FILE)
    for path, job in wanted.items():
        passed = [result for result in before if result.passed and result.same_job(job)]
        if passed:
            results[path] = passed[-1]
    todo = [path for path in configs if path not in results]
    if results:
        print(f'{len(results)} of {len(configs)} configs passed before and are passed over (--again rehearses them)')
    folders = {path: None if real else stand_in_of(read[path][1]) for path in todo}
    for folder in sorted({folder for folder in folders.values() if folder}):
        make_stand_in(folder, out / 'data')
    processes = Processes(threads_each(jobs))

    def do(path: Path) -> Rehearsal:
        data_root = out / 'data' / folders[path] if folders[path] else None
        return _rehearse(path, wanted[path], train, out, data_root, processes, limit)

    with tqdm(total=len(todo), unit='config', desc='rehearsals', disable=not todo) as bar:

        def done(path: Path, result: Rehearsal) -> None:
            _append(out / RESULTS_FILE, result)
            results[path] = result
            verdict = 'passed' if result.passed else 'FAILED'
            bar.write(f'{verdict} in {duration(result.seconds)}: {result.config}  {result.sentence}'.rstrip())
            bar.update()

        work_through(todo, do, done, processes, jobs)
    return [results[path] for path in configs]


def read_results(path: Path) -> list[Rehearsal]:
    """The results in a file, the oldest first; a line that was cut short, as by a kill, is passed over."""
    results, known = [], {field.name for field in fields(Rehearsal)}
    for line in path.read_text(errors='replace').splitlines() if path.is_file() else []:
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(content, dict) and set(content) == known:
            results.append(Rehearsal(**content))
    return results


def table(results: Sequence[Rehearsal]) -> str:
    """The results as a Markdown table, and below it what went wrong and how many passed."""
    lines = ['| config | rehearsal | seconds | parameters | peak memory |', '|---|---|---:|---:|---:|']
    for result in results:
        size = '' if result.parameters is None else f'{result.parameters / 1e6:.2f} M'
        memory = '' if result.peak_memory_gib is None else f'{result.peak_memory_gib:.2f} GiB'
        verdict = 'passed' if result.passed else 'FAILED'
        lines.append(f'| {result.config} | {verdict} | {result.seconds:.0f} | {size} | {memory} |')
    failed = [result for result in results if not result.passed]
    lines += ['', *(f'{result.config}: {result.sentence}' for result in failed)]
    return '\n'.join([*lines, f'{len(results) - len(failed)} of {len(results)} configs passed'])


def _read(path: Path) -> tuple[str, str]:
    """Digest and data root of a config; both empty if it cannot be read, as its rehearsal will say."""
    try:
        cfg = load_config(path)
    except UserError:
        return '', ''
    return config_digest(cfg), str(cfg.get('data_root') or '')


def _code_digest(train: Path) -> str:
    """Digest of this package's files, with their names, and of the training script."""
    digest = hashlib.sha256(train.read_bytes())
    for path in sorted(path for path in PACKAGE.rglob('*') if path.is_file() and '__pycache__' not in path.parts):
        digest.update(f'\0{path.relative_to(PACKAGE).as_posix()}\0'.encode() + path.read_bytes())
    return digest.hexdigest()


def _name(path: Path, root: Path) -> str:
    """Path of a config relative to the folder of all, if it lies in there."""
    path, root = path.resolve(), root.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _rehearse(
    path: Path,
    wanted: Rehearsal,
    train: Path,
    out: Path,
    data_root: Path | None,
    processes: Processes,
    limit: float,
) -> Rehearsal:
    work_dir = out / 'runs' / Path(wanted.config.lstrip('/')).with_suffix('')
    log, report_file = work_dir / 'log.txt', work_dir / 'rehearsal' / 'rehearse.json'
    for left in (log, report_file):
        left.unlink(missing_ok=True)
    command = [sys.executable, train, path, '--rehearse', '--rehearse-scale', wanted.scale, '--work-dir', work_dir]
    if data_root:
        command += ['--cfg-options', f'data_root={data_root}']
    outcome = processes.run(list(map(str, command)), log, limit)
    for checkpoint in report_file.parent.glob('*.pth'):  # of a rehearsal that failed half-way
        checkpoint.unlink()
    report = json.loads(report_file.read_text()) if outcome.status == 0 else {}
    return Rehearsal(
        **{
            **asdict(wanted),
            'passed': outcome.status == 0,
            'seconds': round(outcome.seconds, 1),
            'parameters': report['parameters']['all']['total'] if report else None,
            'peak_memory_gib': report.get('peak_memory_gib'),
            'sentence': outcome.sentence,
            'finished': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        }
    )


def _append(path: Path, result: Rehearsal) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_short = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b'\n')
    with path.open('a') as file:
        file.write('\n' * bool(cut_short) + json.dumps(asdict(result)) + '\n')
        file.flush()
        os.fsync(file.fileno())


# ----------------------------------------------------------------------------------------------------------- stand-ins


def stand_in_of(data_root: str) -> str | None:
    """The stand-in for a data root, as a folder below ``data/``; ``None`` if there is none for it."""
    folder = data_root.rstrip('/').removeprefix('data/')
    return folder if folder in STAND_INS else None


def make_stand_in(folder: str, data: Path) -> Path:
    """Make a stand-in, unless it is there already.

    Args:
        folder: Its name in :data:`STAND_INS`.
        data: The folder in which to make it.

    Returns:
        Its root.

    Raises:
        UserError: Something else is in its place.
    """
    command, more = STAND_INS[folder]
    kind, root = mini_set(command), data / folder
    params = kind.params(train=TRAIN, val=VAL, **more)
    try:
        kind.make(root, params)
    except UserError:  # that of another version of the generator; what is no mini set of this kind is refused again
        kind.make(root, params, overwrite=True)
    return root


# Folder below data/ to the kind of mini set that stands in for it, and its parameters.
STAND_INS: dict[str, tuple[str, dict[str, Any]]] = {
    'coco': ('coco', {'categories': 'coco'}),
    'ade/ADEChallengeData2016': ('ade20k', {}),
    'kinetics400': ('kinetics', {}),
    'sthv2': ('ssv2', {}),
    'imagenet': ('imagenet', {}),
    **{f'mini_{command}': (command, {}) for command in COMMANDS},
}
