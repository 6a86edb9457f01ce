"""Work in processes of their own: logged, limited in time, and ended with the process that started them."""

from __future__ import annotations

import fcntl
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Protocol, TypeVar

__all__ = ['Outcome', 'Processes', 'Starter', 'duration', 'run_alone', 'sentence_of', 'threads_each', 'work_through']

GRACE = 60  # seconds that a process has to end by itself after an interrupt
_HANDOVER = 5  # seconds for the last descendants of a process to let go of its log
_TAIL = 20_000  # bytes of a log that are searched for its last words
_ELASTIC = 'torch/distributed/elastic/multiprocessing/api.py'  # in the lines of torchrun about its processes

T = TypeVar('T')
R = TypeVar('R')


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        status: Exit status; negative for the signal that killed it.
        seconds: Wall time.
        sentence: What went wrong; empty after status 0.
    """

    status: int
    seconds: float
    sentence: str


class Starter(Protocol):
    """What runs commands, from any thread, and ends them all when asked: here or as jobs of a cluster.

    Attributes:
        threads: Processor threads of each command.
    """

    threads: int

    def run(self, command: Sequence[str], log: Path, limit: float | None = None) -> Outcome:
        """Run a command to its end, its output going into a file; KeyboardInterrupt if all is stopped meanwhile."""

    def stop(self) -> None:
        """End what runs, and start nothing more."""


class Processes:
    """Starts processes, from any thread, and ends them all when asked.

    Args:
        threads: Processor threads of each.
        devices: Sets of GPUs, each as CUDA_VISIBLE_DEVICES names it; a process gets one that no other has meanwhile.
            With none, each sees all GPUs.
        grace: Seconds that a process has to end by itself after an interrupt; ``GRACE`` by default.
    """

    def __init__(self, threads: int, devices: Sequence[str] = (), grace: float | None = None) -> None:
        self.threads = threads
        self._grace = GRACE if grace is None else grace
        self._devices: queue.SimpleQueue[str] | None = queue.SimpleQueue() if devices else None
        for device in devices:
            self._devices.put(device)
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str], log: Path, limit: float | None = None) -> Outcome:
        """Run a command to its end, its output going into a file.

        Args:
            command: The command.
            log: The file, which is added to.
            limit: Seconds after which the process is ended.

        Returns:
            How it ended.

        Raises:
            KeyboardInterrupt: All was stopped meanwhile.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(self.threads))}
        start = time.perf_counter()
        with log.open('ab') as file, self._device() as device:
            if not _lock(file):
                seconds = time.perf_counter() - start
                sentence = (
                    f'an earlier process that writes {log} is still at work; wait for its end or end it, then give the '
                    f'same command again'
                )
                return Outcome(1, seconds, sentence)
            begin = file.tell()
            process = None
            try:
                with _signals_held_back(), self._lock:
                    if self._stopped:
                        raise KeyboardInterrupt
                    # A session of its own: Ctrl-C reaches it once, through stop(), and its workers can be ended.
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=file,
                        env={**environment, **device},
                        start_new_session=True,
                    )
                    self._running.add(process)
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                _interrupt(process)
                _end(process, self._grace)
                status = None
            except BaseException:  # of a signal, where this is the main thread
                if process is not None:
                    _interrupt(process)
                    _end(process, self._grace)
                raise
            finally:
                with self._lock:
                    self._running.discard(process)
                if process is not None:
                    with suppress(ProcessLookupError, PermissionError):  # what it left behind, on its GPU perhaps
                        os.killpg(process.pid, signal.SIGKILL)
        if self._stopped:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - start
        if status is None:
            return Outcome(process.returncode, seconds, f'took more than {duration(limit)} and was ended; see {log}')
        return Outcome(status, seconds, '' if status == 0 else sentence_of(status, log, begin))

    def stop(self) -> None:
        """End what runs, as Ctrl-C would, and start nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _interrupt(process)
        for process in running:
            _end(process, self._grace)

    @contextmanager
    def _device(self) -> Iterator[dict[str, str]]:
        """What a process needs in its environment to see its own GPUs only."""
        if self._devices is None:
            yield {}
            return
        device = self._devices.get()
        try:
            yield {'CUDA_VISIBLE_DEVICES': device}
        finally:
            self._devices.put(device)


def run_alone(
    command: Sequence[str], log: Path, limit: float | None, threads: int, grace: float | None = None
) -> tuple[int, float, str]:
    """Run a command to its end, as :class:`Processes` does; what a job of a cluster consists of.

    A signal to this process ends the command, but for SIGUSR2: cluster schedulers send that to all processes of a job
    whose time is nearly up, and only this one is to act on it.

    Args:
        command: The command.
        log: The file for its output, which is added to.
        limit: Seconds after which it is ended.
        threads: Its processor threads.
        grace: Seconds that it has to end by itself after an interrupt.

    Returns:
        The fields of an :class:`Outcome`.
    """
    deaf = ['/bin/sh', '-c', 'trap "" USR2; exec "$@"', 'sh', *command]
    outcome = Processes(threads, grace=grace).run(deaf, log, limit)
    return outcome.status, outcome.seconds, outcome.sentence


def work_through(
    items: Sequence[T],
    do: Callable[[T], R],
    done: Callable[[T, R], None],
    processes: Starter,
    workers: int = 1,
    watch: Callable[[], None] | None = None,
    free: Callable[[T, Collection[T]], bool] | None = None,
) -> None:
    """Do something with every item, several at a time; an interrupt or error ends the processes that run.

    Args:
        items: The items, taken in this order but for those that are not free.
        do: What to do with one, in a thread; it starts its processes through ``processes``.
        done: Takes an item and its result, in the calling thread and the order in which they are finished.
        processes: What an interrupt ends.
        workers: Items at a time.
        watch: Called every few seconds, in the calling thread.
        free: Whether an item may be taken while those others are at work, which it would only wait for.
    """
    waiting = list(items)
    futures: dict[Future, T] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or futures:
                while len(futures) < workers:
                    at_work = list(futures.values())
                    taken = (i for i, item in enumerate(waiting) if not at_work or free is None or free(item, at_work))
                    index = next(taken, None)
                    if index is None:
                        break
                    item = waiting.pop(index)
                    futures[pool.submit(do, item)] = item
                for future in wait(futures, timeout=2, return_when=FIRST_COMPLETED).done:
                    done(futures.pop(future), future.result())
                if watch:
                    watch()
        except BaseException:
            for future in futures:
                future.cancel()
            processes.stop()
            raise


def threads_each(workers: int) -> int:
    """Processor threads for each of so many processes at a time."""
    # of a job in a cluster, the cores that it was given
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(cores // workers, 1)


def duration(seconds: float) -> str:
    """A time span in words, to two digits or so."""
    for limit, unit, size in ((120, 'seconds', 1), (7200, 'minutes', 60), (172800, 'hours', 3600)):
        if seconds < limit:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds / 86400:.1f} days'


def _lock(file: IO[bytes]) -> bool:
    """Lock a log that a process is to inherit: until that one ends, even if this one is killed, nobody else has it."""
    deadline = time.monotonic() + _HANDOVER
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True
        else:
            return True


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """What arrives meanwhile is acted on afterwards: a handler that raises inside Popen would leave its process behind.

    Handlers run in the main thread; elsewhere there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    held = True
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}

    def hold(number: int, frame: FrameType | None) -> None:
        # One that arrives while handlers are put back may raise there, and leave this in place: it then hands on.
        if held:
            arrived.append(number)
        else:
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, hold)
        yield
    finally:
        held = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def _interrupt(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)


def _end(process: subprocess.Popen, grace: float) -> None:
    """Wait for a process that was interrupted, then kill what is left of its session and of those that it started."""
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    finally:
        left = [] if process.returncode is not None else _descendants(process.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for pid in left:  # torchrun's ranks have sessions of their own
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> list[int]:
    """The processes below one that runs, where the system tells them in /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has ended meanwhile
            parent = int(stat.read_text(errors='replace').rpartition(')')[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def sentence_of(status: int, log: Path, begin: int) -> str:
    """Why a command failed: its ``error:`` line, else the last line that it wrote.

    Args:
        status: Its exit status, negative for the signal that killed it.
        log: The file that it wrote.
        begin: Where in the file its output begins.
    """
    with log.open('rb') as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors='replace').splitlines() if line.strip()]
    told = [line for line in lines if line.startswith('error: ')]
    if told:
        return told[-1].removeprefix('error: ')
    status, lines = _before_torchrun(status, lines)
    if status < 0:
        known = -status in {one.value for one in signal.Signals}
        name = signal.Signals(-status).name if known else f'signal {-status}'
        more = ', as the system does where memory runs out' if name == 'SIGKILL' else ''
        return f'was killed by {name}{more}; see {log}'
    return f'{lines[-1] if lines else f"ended with status {status}"}; see {log}'


def _before_torchrun(status: int, lines: list[str]) -> tuple[int, list[str]]:
    """Status and words of the process that failed under torchrun, without torchrun's own report at the end."""
    for number, line in enumerate(lines):
        failed = re.search(rf'{re.escape(_ELASTIC)}.*failed \(exitcode: (-?\d+)\)', line)
        if failed:
            return int(failed[1]), [line for line in lines[:number] if _ELASTIC not in line]
    return status, lines
