"""The sweep: every model on every task with every seed, trained and tested in processes of their own.

A run whose record is in the results is passed over, one that was stopped goes on from its latest checkpoint. Where a
task starts from the weights of another, that one is trained first, with the same seed. The results hold one setting of
each task: its config with the overrides, and its data set.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..collect import METRICS_FILE, RECORD_FILE
from ..config import load_config, parse_options
from ..errors import UserError
from ..jobs import Processes, Starter, duration, threads_each, work_through
from ..paths import check_file, check_folder
from ..provenance import code_state, commit_words, config_of
from ..records import add_records, read_records
from ..tasks import Task, check_real_data, make_data
from ..work_dir import file_in
from .models import PRETRAINED, Model, first_of, is_local, recipe_options, weights_of

__all__ = [
    'Run',
    'Settings',
    'run_sweep',
    'schedule_options',
    'time_left',
]


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        task: The task.
        model: The model.
        seed: Seed of everything random.
    """

    task: Task
    model: Model
    seed: int

    def __str__(self) -> str:
        return f'{self.task.name}, {self.model}, seed {self.seed}'

    @property
    def claim(self) -> tuple[str, str, int]:
        """What its record is known by."""
        return self.task.name, str(self.model), self.seed


@dataclass(frozen=True)
class Settings:
    """What all runs of a sweep share.

    Attributes:
        root: The checkout, for configs and tools.
        data: Folder of the data sets.
        work: Folder of the work directories.
        results: The file of the records.
        options: Overrides for every run, ``KEY=VALUE`` as for tools/train.py.
        schedule: Share of the epochs or iterations of each config, rounded, at least one.
        jobs: Runs at a time; of a cluster, jobs in its queue.
        threads: Processor threads of each process; 0 for an equal share of all.
        gpus: GPUs of each run; 0 to leave it to the machine.
        executor: ``'processes'`` of this machine, jobs of ``'slurm'``, or ``'submitit-local'``, the same jobs as
            processes of this machine.
        slurm: What the jobs ask for, ``KEY=VALUE``; see :func:`lisa_backbone.cluster.slurm_parameters`.
    """

    root: Path
    data: Path
    work: Path
    results: Path
    options: tuple[str, ...] = ()
    schedule: float = 1.0
    jobs: int = 1
    threads: int = 0
    gpus: int = 0
    executor: str = 'processes'
    slurm: tuple[str, ...] | None = None


@dataclass
class _Sweep:
    """A sweep under way."""

    settings: Settings
    digests: dict[tuple[str, str], str]  # of task and model: digest of the config, overrides included
    options: dict[tuple[str, str], list[str]]  # of task and model: the overrides
    weights: dict[tuple[str, str], list[str]]  # of task and model: those for training alone, which name public weights
    fingerprints: dict[str, str]  # of a task's data
    processes: Starter
    started: dict[Run, float] = field(default_factory=dict)
    begins: dict[Path, int] = field(default_factory=dict)  # of a log: its length when this sweep first added to it

    def first(self, run: Run) -> Run | None:
        """The run from whose weights another starts."""
        first = first_of(run.task, run.model, self.settings.root)
        return Run(first, run.model, run.seed) if first else None

    def work_dir(self, run: Run) -> Path:
        """Work directory of a run: one for each setting, so that none goes on with a checkpoint of another."""
        # what it starts from is part of the setting
        names = [one.task.name for one in (self.first(run), run) if one]
        setting = [part[:8] for name in names for part in (self.digests[name, str(run.model)], self.fingerprints[name])]
        row = re.sub(r'[^\w.=-]+', '_', str(run.model))
        gpus = f'-{self.settings.gpus}gpus' if self.settings.gpus > 1 else ''
        return self.settings.work / run.task.key / row / ('-'.join(setting) + f'-{run.seed}{gpus}')

    def log(self, run: Run) -> Path:
        """What training and testing print."""
        return self.work_dir(run) / 'log.txt'


def run_sweep(
    tasks: Sequence[Task], models: Sequence[Model], seeds: Sequence[int], settings: Settings
) -> dict[Run, str]:
    """Make the data that are missing, train and test what has no record yet, and write each record as it comes.

    An operator without a form for the grids of a task is passed over there, and this is said.

    Args:
        tasks: Tasks.
        models: Models, from :func:`list_models`.
        seeds: Seeds.
        settings: What all runs share.

    Returns:
        The runs that failed, each with what went wrong.

    Raises:
        UserError: An argument cannot be used, the results are of other settings, or another sweep is at work.
    """
    if not 0 < settings.schedule < math.inf:
        raise UserError(f'--schedule {settings.schedule} must be above 0, a share of the usual epochs or iterations')
    if settings.schedule != 1 and not all(task.mini for task in tasks):
        raise UserError(f'--schedule {settings.schedule} is for mini tasks; leave it out, or change the config')
    if min(seeds) < 0:
        raise UserError(f'--seeds {min(seeds)} must not be negative')
    for pair in filter(is_local, settings.options):
        raise UserError(
            f'--cfg-options {pair} is not for a sweep, which tells its runs apart by all but where files lie; name '
            f'folders with --data and --work-dir, or train from a file of weights with tools/train.py'
        )
    check_file(settings.results, '--results')
    check_folder(settings.work, '--work-dir')
    pairs = [(task, model) for task in tasks for model in models if model.takes(task)]
    for task, model in ((task, model) for task in tasks for model in models):
        if not model.takes(task):
            print(f'passed over: {model} on {task.name}, for whose {task.axes} axes it has no form')
    processes = _starter(settings)
    records = read_records(settings.results)
    firsts = [(first_of(task, model, settings.root), model) for task, model in pairs]
    needed = list(dict.fromkeys([*(pair for pair in firsts if pair[0]), *pairs]))
    # All configs are read here: mmengine cannot read several at a time in threads.
    digests, options, weights = {}, {}, {}
    for task, model in needed:
        key = (task.name, str(model))
        options[key] = _options(task, model, settings)
        digests[key] = _digest(settings.root / task.config_of(model.name), options[key])
        weights[key] = [pair for pair in weights_of(task, model, settings.root) if is_local(pair)]
    for record in records:
        expected = digests.get((record['task'], record['model']))
        if expected:
            _check(record, 'config', record['config']['digest'], expected, settings.results)
            _check_gpus(record, settings)
    settings.work.mkdir(parents=True, exist_ok=True)
    with _alone(settings.work):
        fingerprints = {}
        for task, model in needed:
            if task.name not in fingerprints:
                fingerprints[task.name] = _fingerprint(task, model, settings)
        for record in records:
            expected = fingerprints.get(record['task'])
            if expected:
                _check(record, 'data set', record['data']['fingerprint'], expected, settings.results)
        done = {(record['task'], record['model'], record['seed']) for record in records}
        # tasks that others start from come first
        pairs.sort(key=lambda pair: bool(pair[0].initial))
        runs = [Run(task, model, seed) for seed in seeds for task, model in pairs]
        runs = [run for run in dict.fromkeys(runs) if run.claim not in done]
        sweep = _Sweep(settings, digests, options, weights, fingerprints, processes)
        _tell_of_other_code(runs, sweep)
        return _run_all(runs, sweep, _seconds(records))


def _tell_of_other_code(runs: Sequence[Run], sweep: _Sweep) -> None:
    """Say which trainings are there already and were made by other code than this, with which they are not repeated."""
    now, made = code_state(), []
    for one in dict.fromkeys(one for run in runs for one in (sweep.first(run), run) if one):
        with suppress(OSError, ValueError):  # told when its turn comes
            trained = _entries(sweep.work_dir(one)).get('train')
            if trained and (now['dirty'] or trained.get('code') != now):
                made.append(commit_words(trained['code']) if trained.get('code') else 'unknown')
    if made:
        words = '1 training' if len(made) == 1 else f'{len(made)} trainings'
        print(
            f'{words} in {sweep.settings.work} by commit {", ".join(dict.fromkeys(made))} (now {commit_words(now)}) '
            f'will not be repeated; for new ones name another --work-dir'
        )


def time_left(
    waiting: Mapping[Run, float], told: Mapping[Run, float], took: Mapping[str, Sequence[float]], jobs: int
) -> float | None:
    """Seconds until all is done.

    Args:
        waiting: Runs that are not done, with the seconds for which they have been at work.
        told: Seconds that runs at work expect to take from now on.
        took: Seconds of finished runs of each task.
        jobs: Runs at a time.

    Returns:
        The estimate, by the mean of each task, or by what a run at work tells where that is more; a task of which none
        is finished counts as the mean of the others. ``None`` if none is finished at all.
    """
    means = {name: statistics.fmean(seconds) for name, seconds in took.items() if seconds}
    if not means:
        return None
    other = statistics.fmean(means.values())
    left = [max(means.get(run.task.name, other) - elapsed, told.get(run, 0)) for run, elapsed in waiting.items()]
    return max(sum(left) / jobs, max(left, default=0))


def _starter(settings: Settings) -> Starter:
    """What runs the commands.

    Raises:
        UserError: It cannot be as the settings say.
    """
    jobs, threads, gpus = settings.jobs, settings.threads, settings.gpus
    if jobs < 1 or threads < 0 or gpus < 0:
        raise UserError(f'--jobs {jobs}, --threads {threads} and --gpus {gpus} must be positive')
    if settings.executor == 'processes':
        if settings.slurm is not None:
            raise UserError('--slurm is not for --executor processes; leave out one of the two')
        return Processes(threads or threads_each(jobs * max(gpus, 1)), _devices(jobs, gpus))
    from ..cluster import Jobs, slurm_parameters  # importing submitit sets up logging anew

    if settings.executor == 'slurm':
        parameters = slurm_parameters(settings.slurm or (), gpus)
        threads = threads or max(parameters.get('cpus_per_task', 1) // max(gpus, 1), 1)
        return Jobs(settings.work / 'jobs', parameters, threads)
    if gpus:
        raise UserError(f'--gpus {gpus} is not for --executor {settings.executor}, whose jobs see no GPU')
    parameters = slurm_parameters(settings.slurm or ('time=30-0',))
    return Jobs(settings.work / 'jobs', parameters, threads or threads_each(jobs), 'local')


def _devices(jobs: int, gpus: int) -> list[str]:
    """GPUs of this machine for each of so many runs at a time."""
    if not gpus:
        return []
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    found = list(map(str, range(torch.cuda.device_count()))) if named is None else list(filter(None, named.split(',')))
    if jobs * gpus > len(found):
        raise UserError(
            f'--jobs {jobs} with --gpus {gpus} each take {jobs * gpus} GPUs, and this machine has {len(found)}; '
            f'lower one of the two'
        )
    return [','.join(found[first : first + gpus]) for first in range(0, jobs * gpus, gpus)]


def _options(task: Task, model: Model, settings: Settings) -> list[str]:
    """Overrides of a run; of two with one key the last counts."""
    return [
        *recipe_options(task, model, settings.root, max(settings.gpus, 1), settings.options),
        *schedule_options(settings.root / task.config_of(model.name), task.options, settings.schedule),
        *settings.options,
    ]


def _fingerprint(task: Task, model: Model, settings: Settings) -> str:
    """That of the data of a task, which are made if they are a mini set."""
    if task.mini:
        return make_data(task, settings.data)['fingerprint']
    return check_real_data(task, settings.root / task.config_of(model.name), settings.data)['fingerprint']


def schedule_options(config: Path, options: Sequence[str], share: float) -> list[str]:
    """Overrides that shorten or lengthen the training of a config; it is validated once, at its end.

    A warm-up that is counted in iterations has its share of them as well.

    Args:
        config: The config.
        options: Overrides that it has beforehand.
        share: Of its epochs or iterations; 1 leaves all as it is.

    Returns:
        ``KEY=VALUE`` pairs for ``--cfg-options``.
    """
    if share == 1:
        return []
    cfg = load_config(config, parse_options(list(options)))
    loop = cfg.train_cfg
    key = 'max_iters' if loop.get('max_iters') else 'max_epochs'
    length = max(round(share * loop[key]), 1)
    warm_ups = [
        f'param_scheduler.{index}.end={max(round(share * scheduler.end), 1)}'
        for index, scheduler in enumerate(cfg.get('param_scheduler') or ())
        if scheduler.type == 'LinearLR' and not scheduler.get('by_epoch', True)
    ]
    return [f'train_cfg.{key}={length}', f'train_cfg.val_interval={length}', *warm_ups]


def _digest(config: Path, options: Sequence[str]) -> str:
    return config_of(str(config), parse_options(list(options)))['digest']


def _check(record: dict[str, Any], what: str, found: str, expected: str, path: Path) -> None:
    """Stop if the results hold another setting of a task."""
    if found != expected:
        raise UserError(
            f'{path} holds runs of {record["task"]}, {record["model"]} with another {what} (digest {found[:8]}, now '
            f'{expected[:8]}); name another file with --results'
        )


def _check_gpus(record: dict[str, Any], settings: Settings) -> None:
    """Stop if the results hold runs on another number of GPUs, since each adds a batch of its own to every step."""
    found, now = record['machine']['processes'], max(settings.gpus, 1)
    if found != now:
        raise UserError(
            f'{settings.results} holds runs of {record["task"]}, {record["model"]} in {found} processes, now {now}, '
            f'which differ by the batch; give the same --gpus, or name another file with --results'
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
        except OSError:  # a file system without locks
            pass
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
                with suppress(OSError, ValueError):  # a file that cannot be read is told of the run that needs it
                    bar.set_postfix_str(_state(waiting, sweep, took))

        def done(run: Run, result: dict | str) -> None:
            del waiting[run]
            if not isinstance(result, str):
                try:
                    add_records(settings.results, [result])
                except (UserError, OSError) as error:  # not of the other runs, which go on
                    result = f'its record, {sweep.work_dir(run) / RECORD_FILE}, is not taken: {error}'
            if isinstance(result, str):
                failed[run] = result
                bar.write(f'FAILED {run}: {result}')
            else:
                for name, seconds in _seconds([result]).items():
                    took.setdefault(name, []).extend(seconds)
                figures = ', '.join(f'{name} {100 * value:.1f} %' for name, value in result['metrics'].items())
                bar.write(f'{run}: {figures}')
            bar.update()

        work_through(
            *(runs, lambda run: _train_and_test(run, sweep), done, sweep.processes, settings.jobs, watch),
            free=lambda run, at_work: _is_free(run, at_work, sweep),
        )
    return failed


def _state(waiting: Mapping[Run, None], sweep: _Sweep, took: dict[str, list[float]]) -> str:
    """The time left, and what each run at work has printed of its own."""
    now = time.perf_counter()
    spent, told, words = dict.fromkeys(waiting, 0.0), {}, []
    for run in waiting:
        first = sweep.first(run)
        at_work = first if first and 'train' not in _entries(sweep.work_dir(first)) else run
        spent.setdefault(at_work, 0.0)
        if run in sweep.started:
            spent[at_work] = max(spent[at_work], now - sweep.started[run])
            log = sweep.log(at_work)
            progress, told[at_work] = _progress(log, sweep.begins.get(log, 0))
            words.append(f'{at_work}: {progress}')
    left = time_left(spent, told, took, sweep.settings.jobs)
    return '; '.join(([] if left is None else [f'about {duration(left)} left']) + list(dict.fromkeys(words)))


def _progress(log: Path, begin: int) -> tuple[str, float]:
    """The latest line of progress in a log from an offset on, as mmengine writes it, and the seconds it expects."""
    try:
        with log.open('rb') as file:
            file.seek(max(log.stat().st_size - 4096, begin))
            text = file.read().decode(errors='replace')
    except FileNotFoundError:
        return 'starting', 0.0
    lines = re.findall(r'((?:Epoch|Iter)\(\w+\)(?:\s*\[[\d/ ]+\])+).*?eta: ((?:(\d+) days?, )?(\d+):(\d+):(\d+))', text)
    if not lines:
        return 'at work', 0.0
    where, eta, *parts = lines[-1]
    days, hours, minutes, seconds = (int(part or 0) for part in parts)
    return f'{" ".join(where.split())}, eta {eta}', ((24 * days + hours) * 60 + minutes) * 60 + seconds


def _is_free(run: Run, at_work: Collection[Run], sweep: _Sweep) -> bool:
    """Whether no other run is just training what this one is or starts from."""
    start = sweep.first(run) or run
    if all((sweep.first(other) or other) != start for other in at_work):
        return True
    try:
        return 'train' in _entries(sweep.work_dir(start))
    except (OSError, ValueError):  # told when its turn comes
        return True


def _train_and_test(run: Run, sweep: _Sweep) -> dict[str, Any] | str:
    """The record of a run, or what went wrong."""
    sweep.started[run] = time.perf_counter()
    try:
        first = sweep.first(run)
        initial = sweep.weights[run.task.name, str(run.model)]
        if first:
            wrong = _do('train', first, sweep, [])
            if wrong:
                return f'{first} failed, from whose weights it starts: {wrong}'
            trained = _entries(sweep.work_dir(first))['train']['checkpoint']
            initial = [f'{PRETRAINED}={file_in(sweep.work_dir(first), trained) or trained}']
        wrong = _do('train', run, sweep, initial) or _do('test', run, sweep, [])
        return wrong or _record(sweep.work_dir(run)) or f'there is no record of it; see {sweep.log(run)}'
    except (OSError, ValueError, KeyError) as error:  # such as a broken file: the other runs go on
        return f'{type(error).__name__}: {error}; see {sweep.work_dir(run)}'


def _do(mode: str, run: Run, sweep: _Sweep, more: list[str]) -> str:
    """Train or test, unless it was done; what went wrong, or nothing."""
    settings, work_dir = sweep.settings, sweep.work_dir(run)
    # a test that was killed as it wrote its record is made again
    if mode in _entries(work_dir) and (mode == 'train' or _record(work_dir)):
        return ''
    log, options = sweep.log(run), sweep.options[run.task.name, str(run.model)]
    sweep.begins.setdefault(log, log.stat().st_size if log.exists() else 0)
    pairs = [f'data_root={settings.data / run.task.data}', *options, *more]
    command = [sys.executable]
    if settings.gpus > 1:
        command += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', settings.gpus]
    command += [settings.root / 'tools' / f'{mode}.py', settings.root / run.task.config_of(run.model.name)]
    command += ['--resume'] if mode == 'train' else []
    command += ['--launcher', 'pytorch'] if settings.gpus > 1 else []
    command += ['--work-dir', work_dir, '--seed', run.seed, '--cfg-options', *pairs]
    return sweep.processes.run(list(map(str, command)), log).sentence


def _record(work_dir: Path) -> dict[str, Any] | None:
    """The record that a test wrote, if it came to its end."""
    try:
        return json.loads((work_dir / RECORD_FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _entries(work_dir: Path) -> dict:
    try:
        return json.loads((work_dir / METRICS_FILE).read_text())
    except FileNotFoundError:
        return {}


def _seconds(records: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Seconds of each run, by task."""
    took: dict[str, list[float]] = {}
    for record in records:
        if record['cost'] and record['cost']['train_seconds']:
            seconds = record['cost']['train_seconds'] + record['cost']['test_seconds']
            took.setdefault(record['task'], []).append(seconds)
    return took
