"""The sweep: every operator on every task with every seed, trained and tested in processes of their own.

A run that is in the results file is passed over, one that was stopped goes on from its latest checkpoint. A results
file holds one setting of each task: its config with the overrides, and its data set.
"""

from __future__ import annotations

import fcntl
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from tqdm import tqdm

from ..attention import build_attention
from ..config import config_digest, load_config
from ..errors import UserError
from ..jobs import Processes, duration, threads_each, work_through
from ..rows import append_rows, read_rows
from ..runner import METRICS_FILE, parse_options
from .tasks import Metric, Task, make_data

__all__ = ['Run', 'Settings', 'attention_options', 'run_sweep', 'time_left']


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        task: The task.
        attention: The operator: a name, or ``NAME:OPTION=VALUE,OPTION=VALUE``.
        seed: Seed of everything random.
    """

    task: Task
    attention: str
    seed: int

    def __str__(self) -> str:
        return f'{self.task.name}, {self.attention}, seed {self.seed}'


@dataclass(frozen=True)
class Settings:
    """What all runs of a sweep share.

    Attributes:
        root: The checkout, for configs and tools.
        data: Folder of the mini sets.
        work: Folder of the work directories.
        results: The CSV file of the results.
        options: Overrides for every run, ``KEY=VALUE`` as for tools/train.py.
        jobs: Runs at a time.
        threads: Processor threads of each; 0 for an equal share of all.
    """

    root: Path
    data: Path
    work: Path
    results: Path
    options: tuple[str, ...] = ()
    jobs: int = 1
    threads: int = 0


@dataclass
class _Sweep:
    """A sweep under way."""

    settings: Settings
    digests: dict[str, str]  # task to digest of its config, the settings' overrides included
    fingerprints: dict[str, str]  # task to fingerprint of its data
    processes: Processes
    started: dict[Run, float] = field(default_factory=dict)

    def work_dir(self, run: Run) -> Path:
        """Work directory of a run: one for each setting, so that none goes on with a checkpoint of another."""
        setting = f'{self.digests[run.task.name][:8]}-{self.fingerprints[run.task.name][:8]}'
        return self.settings.work / run.task.key / re.sub(r'[^\w.=-]+', '_', run.attention) / f'{setting}-{run.seed}'

    def log(self, run: Run) -> Path:
        """What training and testing print."""
        return self.work_dir(run) / 'log.txt'


def attention_options(attention: str) -> list[str]:
    """Overrides that put an operator into a config.

    Args:
        attention: ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``.

    Returns:
        ``KEY=VALUE`` pairs for ``--cfg-options``.

    Raises:
        UserError: The operator or an option of it is unknown.
    """
    name, _, rest = attention.partition(':')
    pairs = [f'type={name}', *filter(None, rest.split(','))]
    options = parse_options(pairs)
    build_attention({**options, 'type': name}, 32, 2)
    return [f'model.backbone.attention.{pair}' for pair in pairs]


def run_sweep(
    tasks: Sequence[Task], attentions: Sequence[str], seeds: Sequence[int], settings: Settings
) -> dict[Run, str]:
    """Make the data that are missing, train and test what has no result yet, and write each result as it comes.

    Args:
        tasks: Tasks.
        attentions: Operators, as :attr:`Run.attention`.
        seeds: Seeds.
        settings: What all runs share.

    Returns:
        The runs that failed, each with what went wrong.

    Raises:
        UserError: An argument cannot be used, the results are of other settings, or another sweep is at work.
    """
    if settings.jobs < 1 or settings.threads < 0:
        raise UserError(f'--jobs {settings.jobs} and --threads {settings.threads} must be positive')
    for attention in attentions:
        attention_options(attention)
    rows = read_rows(settings.results)
    digests = {
        task.name: config_digest(load_config(settings.root / task.config), parse_options(list(settings.options)))
        for task in tasks
    }
    _check_rows(rows, 'config_digest', digests, settings.results)
    settings.work.mkdir(parents=True, exist_ok=True)
    with _alone(settings.work):
        fingerprints = {task.name: make_data(task, settings.data)['fingerprint'] for task in tasks}
        _check_rows(rows, 'data_fingerprint', fingerprints, settings.results)
        done = {(row['task'], row['attention'], int(row['seed'])) for row in rows}
        runs = [Run(task, attention, seed) for seed in seeds for task in tasks for attention in attentions]
        runs = [run for run in dict.fromkeys(runs) if (run.task.name, run.attention, run.seed) not in done]
        processes = Processes(settings.threads or threads_each(settings.jobs))
        return _run_all(runs, _Sweep(settings, digests, fingerprints, processes), _seconds(rows))


def time_left(waiting: Mapping[Run, float], took: Mapping[str, Sequence[float]], jobs: int) -> float | None:
    """Seconds until all is done.

    Args:
        waiting: Runs that are not done, with the seconds for which they have been at work.
        took: Seconds of finished runs of each task.
        jobs: Runs at a time.

    Returns:
        The estimate, by the mean of each task; a task of which none is finished counts as the mean of the others.
        ``None`` if none is finished at all.
    """
    means = {name: statistics.fmean(seconds) for name, seconds in took.items() if seconds}
    if not means:
        return None
    other = statistics.fmean(means.values())
    left = [max(means.get(run.task.name, other) - elapsed, 0) for run, elapsed in waiting.items()]
    return max(sum(left) / jobs, max(left, default=0))


def _check_rows(rows: list[dict], column: str, expected: dict[str, str], path: Path) -> None:
    """Stop if a results file holds another setting of a task."""
    for row in rows:
        if row['task'] in expected and row[column] != expected[row['task']]:
            what = 'another config or other overrides' if column == 'config_digest' else 'another data set'
            raise UserError(
                f'{path} holds runs of {row["task"]} with {what} ({column} {row[column][:8]}, now '
                f'{expected[row["task"]][:8]}); name another file with --results'
            )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep a second sweep out of the work directories."""
    with (work / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f'another sweep is at work in {work}; wait for it, or name another folder with --work-dir'
            ) from error
        yield


def _run_all(runs: list[Run], sweep: _Sweep, took: dict[str, list[float]]) -> dict[Run, str]:
    settings, failed = sweep.settings, {}
    waiting = dict.fromkeys(runs)
    quiet_until = 0.0
    with tqdm(total=len(runs), bar_format='{n_fmt}/{total_fmt} runs |{bar:20}| {postfix}', disable=not runs) as bar:

        def watch() -> None:
            nonlocal quiet_until
            now = time.perf_counter()
            if now >= quiet_until:
                quiet_until = now + (2 if sys.stderr.isatty() else 60)
                bar.set_postfix_str(_state(waiting, sweep, took))

        def done(run: Run, result: list[dict] | str) -> None:
            del waiting[run]
            if isinstance(result, str):
                failed[run] = result
                bar.write(f'FAILED {run}: {result}')
            else:
                append_rows(settings.results, result)
                for name, seconds in _seconds(result).items():
                    took.setdefault(name, []).extend(seconds)
                figures = ', '.join(f'{row["metric"]} {row["value"]}' for row in result)
                bar.write(f'{run}: {figures}')
            bar.update()

        work_through(runs, lambda run: _train_and_test(run, sweep), done, sweep.processes, settings.jobs, watch)
    return failed


def _state(waiting: Mapping[Run, None], sweep: _Sweep, took: dict[str, list[float]]) -> str:
    """The time left, and what each run at work has printed of its own."""
    now = time.perf_counter()
    elapsed = {run: now - sweep.started.get(run, now) for run in waiting}
    left = time_left(elapsed, took, sweep.settings.jobs)
    words = [] if left is None else [f'about {duration(left)} left']
    return '; '.join(words + [f'{run}: {_progress(sweep.log(run))}' for run in waiting if run in sweep.started])


def _progress(log: Path) -> str:
    """The latest line of progress in a log, as mmengine writes it."""
    try:
        with log.open('rb') as file:
            file.seek(max(log.stat().st_size - 4096, 0))
            text = file.read().decode(errors='replace')
    except FileNotFoundError:
        return 'starting'
    lines = re.findall(r'((?:Epoch|Iter)\(\w+\)(?:\s*\[[\d/ ]+\])+).*?eta: ([\d:]+)', text)
    return f'{" ".join(lines[-1][0].split())}, eta {lines[-1][1]}' if lines else 'at work'


def _train_and_test(run: Run, sweep: _Sweep) -> list[dict] | str:
    """The rows of a run, or what went wrong."""
    sweep.started[run] = time.perf_counter()
    settings, work_dir = sweep.settings, sweep.work_dir(run)
    config = settings.root / run.task.config
    pairs = [f'data_root={settings.data / run.task.data}', *attention_options(run.attention), *settings.options]
    shared = ['--work-dir', work_dir, '--seed', run.seed, '--cfg-options', *pairs]
    for mode, more in (('train', ['--resume']), ('test', [])):
        if mode in _records(work_dir):
            continue
        command = [sys.executable, settings.root / 'tools' / f'{mode}.py', config, *more, *shared]
        outcome = sweep.processes.run(list(map(str, command)), sweep.log(run))
        if outcome.status:
            return outcome.sentence
    try:
        return [_row(run, sweep, metric, _records(work_dir)) for metric in run.task.metrics]
    except UserError as error:
        return str(error)


def _records(work_dir: Path) -> dict:
    try:
        return json.loads((work_dir / METRICS_FILE).read_text())
    except FileNotFoundError:
        return {}


def _row(run: Run, sweep: _Sweep, metric: Metric, records: dict) -> dict[str, str]:
    trained, tested = records['train'], records['test']
    value = tested['metrics'].get(metric.key)
    if value is None:
        raise UserError(
            f'the test gives no finite {metric.key}, only {", ".join(tested["metrics"]) or "nothing"}; see '
            f'{sweep.log(run)}'
        )
    row = {
        'task': run.task.name,
        'config': run.task.config,
        'attention': run.attention,
        'seed': run.seed,
        'metric': metric.name,
        'value': f'{value * metric.unit:.5f}',
        'parameters': trained['parameters'],
        'backbone_parameters': trained.get('backbone_parameters', ''),
        'iterations': trained['iterations'],
        # The clock of a resumed training began when it was resumed.
        'train_seconds': '' if trained['resumed_from'] else trained['seconds'],
        'test_seconds': tested['seconds'],
        'overrides': ' '.join(sweep.settings.options),
        'config_digest': sweep.digests[run.task.name],
        'data_fingerprint': sweep.fingerprints[run.task.name],
        'versions': ' '.join(f'{name}={version}' for name, version in tested['versions'].items()),
        'machine': f'{platform.machine()}, {tested["device"]}, {sweep.processes.threads} threads',
        'date': date.today().isoformat(),
    }
    return {key: str(value) for key, value in row.items()}


def _seconds(rows: Sequence[dict[str, str]]) -> dict[str, list[float]]:
    """Seconds of each run in some rows, by task."""
    runs = {(row['task'], row['attention'], row['seed']): row for row in rows if row['train_seconds']}
    took: dict[str, list[float]] = {}
    for (name, *_), row in runs.items():
        took.setdefault(name, []).append(float(row['train_seconds']) + float(row['test_seconds']))
    return took
