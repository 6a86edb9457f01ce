"""Work in processes of their own: logged, limited in time, and ended with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ['Outcome', 'Processes', 'duration', 'threads_each', 'work_through']

GRACE = 60  # seconds that a process has to end by itself after an interrupt
_TAIL = 20_000  # bytes of a log that are searched for its last words

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


class Processes:
    """Starts processes, from any thread, and ends them all when asked.

    Args:
        threads: Processor threads of each.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
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
        with log.open('ab') as file:
            begin = file.tell()
            with self._lock:
                if self._stopped:
                    raise KeyboardInterrupt
                # A session of its own, so that Ctrl-C reaches it once, through stop(), and its workers can be ended.
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
                )
                self._running.add(process)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                _interrupt(process)
                _end(process)
                status = None
            finally:
                with self._lock:
                    self._running.discard(process)
        if self._stopped:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - start
        if status is None:
            return Outcome(process.returncode, seconds, f'took more than {duration(limit)} and was ended; see {log}')
        return Outcome(status, seconds, '' if status == 0 else _sentence(status, log, begin))

    def stop(self) -> None:
        """End what runs, as Ctrl-C would, and start nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _interrupt(process)
        for process in running:
            _end(process)


def work_through(
    items: Sequence[T],
    do: Callable[[T], R],
    done: Callable[[T, R], None],
    processes: Processes,
    workers: int = 1,
    watch: Callable[[], None] | None = None,
) -> None:
    """Do something with every item, several at a time; an interrupt or error ends the processes that run.

    Args:
        items: The items, taken in this order.
        do: What to do with one, in a thread; it starts its processes through ``processes``.
        done: Takes an item and its result, in the calling thread and the order in which they are finished.
        processes: What an interrupt ends.
        workers: Items at a time.
        watch: Called every few seconds, in the calling thread.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures: dict[Future, T] = {pool.submit(do, item): item for item in items}
        try:
            while futures:
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
    return max((os.cpu_count() or 1) // workers, 1)


def duration(seconds: float) -> str:
    """A time span in words, to two digits or so."""
    for limit, unit, size in ((120, 'seconds', 1), (7200, 'minutes', 60), (172800, 'hours', 3600)):
        if seconds < limit:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds / 86400:.1f} days'


def _interrupt(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)


def _end(process: subprocess.Popen) -> None:
    """Wait for a process that was interrupted, then kill what is left of its session."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _sentence(status: int, log: Path, begin: int) -> str:
    """Why a command failed: its ``error:`` line, else the last line that it wrote."""
    with log.open('rb') as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors='replace').splitlines() if line.strip()]
    told = [line for line in lines if line.startswith('error: ')]
    if told:
        return told[-1].removeprefix('error: ')
    if status < 0:
        name = signal.Signals(-status).name
        more = ', as the system does where memory runs out' if name == 'SIGKILL' else ''
        return f'was killed by {name}{more}; see {log}'
    return f'{lines[-1] if lines else f"ended with status {status}"}; see {log}'
