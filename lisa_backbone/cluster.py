"""Commands as jobs of a Slurm cluster, through submitit, where :mod:`lisa_backbone.jobs` runs them as processes."""

from __future__ import annotations

import math
import os
import re
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cloudpickle
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
from submitit.helpers import clean_env

from . import jobs
from .config import nearest
from .errors import UserError
from .jobs import Outcome, duration, run_alone, sentence_of

__all__ = ['Jobs', 'minutes_of', 'slurm_parameters']

POLL = 2  # seconds between two looks at a job; submitit asks Slurm itself less and less often
RESUBMISSIONS = 3  # of a job that reached its time limit
_PROGRAMS = ('sbatch', 'srun', 'sacct', 'scancel')
_TEXTS = (
    *('account', 'comment', 'constraint', 'exclude', 'gres', 'mail_type', 'mail_user', 'mem', 'mem_per_cpu'),
    *('mem_per_gpu', 'nodelist', 'partition', 'qos', 'wckey'),
)
_KEYS = ('time', 'cpus_per_task', 'job_name', 'reservation', *_TEXTS)
_CHECKPOINT = re.compile(rb'Saving checkpoint at \d+')  # as mmengine tells it

# The node gets the code of run_alone itself, not its name: to import this package there would load torch beside the
# command that does the work.
cloudpickle.register_pickle_by_value(jobs)


class Jobs:
    """Runs commands as jobs, from any thread, and cancels them all when asked.

    Args:
        folder: For the files of submitit; on a cluster, one that all its machines see.
        parameters: Of the jobs, from :func:`slurm_parameters`.
        threads: Processor threads of each.
        cluster: ``'slurm'``, or ``'local'`` for processes of this machine, to try the same without Slurm.

    Raises:
        UserError: Slurm is not there.
    """

    def __init__(self, folder: Path, parameters: dict[str, Any], threads: int, cluster: str = 'slurm') -> None:
        lacking = [name for name in _PROGRAMS if shutil.which(name) is None] if cluster == 'slurm' else []
        if lacking:
            raise UserError(
                f'Slurm is not here ({", ".join(lacking)} not found); start the sweep on a login node of the cluster, '
                f'or without --slurm to run on this machine'
            )
        self.threads = threads
        # submitit's local jobs are killed a second after they were asked to end.
        self._grace = 0.5 if cluster == 'local' else None
        self._minutes = parameters['timeout_min']
        self._executor = submitit.AutoExecutor(folder, cluster)
        self._executor.update_parameters(**parameters)
        self._running: set[submitit.Job] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(self, command: Sequence[str], log: Path, limit: float | None = None) -> Outcome:
        """Run a command to its end as a job, its output going into a file.

        A job that reaches its time limit is submitted again, up to three times, if it saved a checkpoint: the command
        is expected to go on from there.

        Args:
            command: The command.
            log: The file, which is added to.
            limit: Seconds, from its start, after which the command is ended.

        Returns:
            How it ended.

        Raises:
            KeyboardInterrupt: All was stopped meanwhile.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        for _ in range(1 + RESUBMISSIONS):
            begin = log.stat().st_size if log.exists() else 0
            try:
                job = self._submit(command, log, limit)
            except (FailedJobError, FailedSubmissionError, OSError) as error:
                words = str(error).strip().splitlines() or ['no reason given']
                return Outcome(1, time.perf_counter() - start, f'the job was not taken: {words[-1]}')
            outcome = self._outcome(job, start)
            if outcome:
                return outcome
            if not _saved(log, begin):
                sentence = (
                    f'its job reached its time limit of {duration(60 * self._minutes)} without a checkpoint since it '
                    f'started; give it more with --slurm time=...; see {log}'
                )
                return Outcome(1, time.perf_counter() - start, sentence)
        sentence = (
            f'{1 + RESUBMISSIONS} jobs of it reached their time limit of {duration(60 * self._minutes)}; the same '
            f'command again goes on from the latest checkpoint'
        )
        return Outcome(1, time.perf_counter() - start, sentence)

    def stop(self) -> None:
        """Cancel what runs or waits in the queue, and submit nothing more."""
        self._stopped.set()
        with self._lock:
            running = list(self._running)
        for job in running:
            job.cancel(check=False)
        deadline = time.monotonic() + jobs.GRACE
        while time.monotonic() < deadline and not all(job.done(force_check=True) for job in running):
            time.sleep(POLL)

    def _submit(self, command: Sequence[str], log: Path, limit: float | None) -> submitit.Job:
        # A job that is submitted from within another would inherit the requests of that one.
        environment = clean_env() if 'SLURM_JOB_ID' in os.environ else nullcontext()
        with self._lock, environment:
            if self._stopped.is_set():
                raise KeyboardInterrupt
            job = self._executor.submit(run_alone, list(command), log.absolute(), limit, self.threads, self._grace)
            self._running.add(job)
        return job

    def _outcome(self, job: submitit.Job, start: float) -> Outcome | None:
        """Wait for a job; how it ended, or nothing if it reached its time limit."""
        try:
            while not job.done():
                if self._stopped.wait(POLL):
                    raise KeyboardInterrupt
            if self._stopped.is_set():
                raise KeyboardInterrupt
            return Outcome(*job.result())
        except UncompletedJobError as error:
            if job.state == 'TIMEOUT' or 'timed-out' in str(error):  # the latter in submitit's words
                return None
            return Outcome(1, time.perf_counter() - start, _why(job, error))
        except KeyboardInterrupt:
            if not self._stopped.is_set():  # else stop() does it
                job.cancel(check=False)
            raise
        finally:
            with self._lock:
                self._running.discard(job)


def slurm_parameters(pairs: Sequence[str], gpus: int = 0) -> dict[str, Any]:
    """What the jobs ask for, in submitit's words.

    Args:
        pairs: ``KEY=VALUE``, the long options of sbatch: ``partition=gpu``, ``time=24:00:00``, ``cpus-per-task=8``.
        gpus: GPUs of each job; ``gres`` among the pairs replaces it.

    Returns:
        Arguments for ``update_parameters`` of submitit's AutoExecutor.

    Raises:
        UserError: A pair cannot be read, a key is unknown, or the time is missing.
    """
    given = {}
    for pair in pairs:
        key, _, value = pair.partition('=')
        key = key.removeprefix('--').replace('-', '_')
        if not key or not value:
            raise UserError(f'--slurm {pair!r} is not KEY=VALUE; write it without spaces around the =')
        if key not in _KEYS:
            more = '; --gpus says how many GPUs' if 'gpu' in key else nearest(key, _KEYS)
            raise UserError(f'--slurm {key!r} is unknown{more}; there are {", ".join(sorted(_KEYS))}')
        given[key] = value
    if 'time' not in given:
        raise UserError('--slurm has no time, after which a job is ended; add one such as time=24:00:00')
    found: dict[str, Any] = {f'slurm_{key}': given[key] for key in _TEXTS if key in given}
    found |= {'name': given.get('job_name', 'leaderboard'), 'timeout_min': minutes_of(given['time'])}
    found |= {'nodes': 1, 'tasks_per_node': 1, 'stderr_to_stdout': True}
    if 'cpus_per_task' in given:
        found['cpus_per_task'] = _count(given['cpus_per_task'])
        # Since Slurm 22.05, srun does not take this over from sbatch.
        found['slurm_srun_args'] = [f'--cpus-per-task={found["cpus_per_task"]}']
    if 'reservation' in given:
        found['slurm_additional_parameters'] = {'reservation': given['reservation']}
    if gpus and 'gres' not in given:
        found['gpus_per_node'] = gpus
    return found


def minutes_of(text: str) -> int:
    """Minutes of a time as sbatch reads it, rounded up.

    Args:
        text: ``MINUTES``, ``MINUTES:SECONDS``, ``HOURS:MINUTES:SECONDS``, ``DAYS-HOURS``, ``DAYS-HOURS:MINUTES`` or
            ``DAYS-HOURS:MINUTES:SECONDS``.

    Raises:
        UserError: It is none of these, or nothing at all.
    """
    minutes = 0
    if re.fullmatch(r'(\d+-)?\d+(:\d+){0,2}', text):
        days, dash, rest = text.rpartition('-')
        parts = [int(part) for part in rest.split(':')]
        units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
        seconds = sum(part * unit for part, unit in zip(parts, units, strict=False))
        minutes = math.ceil(seconds / 60) + 1440 * int(days or 0)
    if minutes < 1:
        raise UserError(f'--slurm time={text} is not a time; write HOURS:MINUTES:SECONDS or DAYS-HOURS, as for sbatch')
    return minutes


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f'--slurm cpus_per_task={text} is not a number of processors; write one such as 8')
    return int(text)


def _saved(log: Path, begin: int) -> bool:
    """Whether a log tells of a checkpoint since a position in it."""
    if not log.exists():
        return False
    with log.open('rb') as file:
        file.seek(begin)
        return any(_CHECKPOINT.search(line) for line in file)


def _why(job: submitit.Job, error: UncompletedJobError) -> str:
    """Why a job ended without an outcome: what it raised, else the state that the cluster gives it."""
    if isinstance(error, FailedJobError):
        return sentence_of(1, job.paths.stdout, 0)
    state = job.state.split()[0]  # 'CANCELLED by 1000'
    job.cancel(check=False)  # where the cluster would start it once more, nobody would wait for it
    more = '; ask for more with --slurm mem=...' if state == 'OUT_OF_MEMORY' else ''
    return f'its job {job.job_id} ended as {state} without a result{more}; see {job.paths.stdout}'
