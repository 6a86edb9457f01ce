"""Processes of their own: how they end, what is said of it, and that an interrupt leaves none behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lisa_backbone import jobs
from lisa_backbone.jobs import Processes, duration, threads_each, work_through


def run(code, log, limit=None, threads=1):
    return Processes(threads).run([sys.executable, '-c', code], log, limit)


def ended(pid):
    """Whether a process ends within seconds; killed but not yet reaped by whoever adopted it counts."""
    for _ in range(50):
        try:
            state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == 'Z':
            return True
        time.sleep(0.1)
    return False


def test_output_and_threads(tmp_path):
    log = tmp_path / 'logs' / 'log.txt'
    outcome = run('import os; print(os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])', log, threads=3)
    assert (outcome.status, outcome.sentence) == (0, '')
    assert log.read_text() == '3 3\n'
    run('print(4)', log)
    assert log.read_text() == '3 3\n4\n'


@pytest.mark.parametrize(
    ('code', 'status', 'sentence'),
    [
        ('import sys; print("error: no such file; mend it"); print("more"); sys.exit(2)', 2, 'no such file; mend it'),
        ('raise ValueError("seven")', 1, 'ValueError: seven; see {log}'),
        ('import sys; sys.exit(3)', 3, 'ended with status 3; see {log}'),
        ('import os; os.kill(os.getpid(), 9)', -9, 'was killed by SIGKILL, as the system does where memory runs out'),
    ],
)
def test_failure_is_told_in_a_sentence(tmp_path, code, status, sentence):
    log = tmp_path / 'log.txt'
    log.write_text('error: of an earlier process\n')
    outcome = run(code, log)
    assert outcome.status == status
    assert outcome.sentence.startswith(sentence.format(log=log))


def test_limit_ends_a_process_and_its_children(tmp_path):
    log = tmp_path / 'log.txt'
    code = 'import subprocess, time; print(subprocess.Popen(["sleep", "60"]).pid, flush=True); time.sleep(60)'
    outcome = run(code, log, limit=1)
    assert outcome.status != 0
    assert 1 <= outcome.seconds < 10
    assert outcome.sentence == f'took more than 1 seconds and was ended; see {log}'
    assert ended(int(log.read_text().split()[0]))


def test_process_that_ignores_the_interrupt_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, 'GRACE', 0.2)
    code = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(60)'
    assert run(code, tmp_path / 'log.txt', limit=1).status == -9


def test_children_with_sessions_of_their_own_are_killed_too(tmp_path, monkeypatch):
    """As torchrun's ranks are, which would keep their GPUs."""
    monkeypatch.setattr(jobs, 'GRACE', 0.2)
    log = tmp_path / 'log.txt'
    code = (
        'import signal, subprocess, time; signal.signal(signal.SIGINT, signal.SIG_IGN);'
        'print(subprocess.Popen(["sleep", "60"], start_new_session=True).pid, flush=True); time.sleep(60)'
    )
    assert run(code, log, limit=1).status == -9
    assert ended(int(log.read_text().split()[0]))


def test_nothing_is_started_beside_what_was_left_behind(tmp_path, monkeypatch):
    """A process outlives the one that started it, where that is killed: its log stays locked until it ends."""
    monkeypatch.setattr(jobs, '_HANDOVER', 0.2)
    log = tmp_path / 'log.txt'
    with log.open('ab') as file:
        assert jobs._lock(file)
        left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=file)
    outcome = run('print(1)', log)
    assert outcome.status == 1
    assert outcome.sentence.startswith(f'an earlier process that writes {log} is still at work; wait for its end')
    assert log.read_text() == ''
    left.kill()
    left.wait()
    assert run('print(1)', log).status == 0
    assert log.read_text() == '1\n'


@pytest.mark.parametrize('end', ['exit 0', 'kill -9 $$'])
def test_what_a_process_leaves_behind_is_ended(tmp_path, end):
    """It would keep its GPU, which the next process is given."""
    left = tmp_path / 'pid'
    Processes(threads=1).run(['sh', '-c', f'sleep 60 & echo $! > {left}; {end}'], tmp_path / 'log.txt')
    assert ended(int(left.read_text()))


def test_signal_without_a_name_is_told(tmp_path):
    outcome = Processes(threads=1).run(['sh', '-c', 'kill -40 $$'], tmp_path / 'log.txt')
    assert outcome.sentence.startswith('was killed by signal 40; see')


def test_work_goes_several_at_a_time(tmp_path):
    processes, met, results = Processes(1), threading.Barrier(2, timeout=10), []

    def do(item):
        met.wait()  # passes only if two are at work at a time
        return item * 10

    work_through([1, 2, 3, 4], do, lambda *pair: results.append(pair), processes, workers=2)
    assert sorted(results) == [(1, 10), (2, 20), (3, 30), (4, 40)]


def test_what_would_wait_for_another_gives_way():
    met, started = threading.Barrier(2, timeout=10), []

    def do(item):
        started.append(item)
        met.wait()

    def free(item, at_work):
        assert at_work  # with nothing at work, everything is
        return all(item[0] != other[0] for other in at_work)

    work_through(['a1', 'a2', 'b1', 'a3', 'b2', 'b3'], do, lambda *pair: None, Processes(1), workers=2, free=free)
    assert [sorted(started[first : first + 2]) for first in (0, 2, 4)] == [['a1', 'b1'], ['a2', 'b2'], ['a3', 'b3']]


def test_interrupt_ends_what_runs_and_starts_nothing_more(tmp_path):
    processes = Processes(1)
    code = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'

    def do(item):
        return processes.run([sys.executable, '-c', code], tmp_path / f'{item}.txt')

    def watch():
        log = tmp_path / '0.txt'
        if log.exists() and log.read_text():
            raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        work_through([0, 1, 2], do, lambda *pair: None, processes, watch=watch)
    assert time.perf_counter() - start < 20
    assert ended(int((tmp_path / '0.txt').read_text().split()[0]))
    assert not (tmp_path / '2.txt').exists()
    with pytest.raises(KeyboardInterrupt):
        do(3)


def test_signal_while_a_process_is_started_ends_it(tmp_path, monkeypatch):
    """As a job of a cluster that has to make room just then; the command would go on by itself, with the log locked."""
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.01)  # the handler would run by now

    def leave(number, frame):
        sys.exit(f'signal {number}')

    monkeypatch.setattr(subprocess, 'Popen', Popen)
    before = signal.signal(signal.SIGUSR2, leave)
    try:
        with pytest.raises(SystemExit, match=f'signal {signal.SIGUSR2:d}'):
            run('import time; time.sleep(60)', tmp_path / 'log.txt')
        assert signal.getsignal(signal.SIGUSR2) is leave
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert started[0].poll() is not None


def test_signal_while_handlers_are_put_back_leaves_all_of_them_at_work(monkeypatch):
    arrived, real = [], signal.signal

    def put_back(number, handler):
        found = real(number, handler)
        if number == signal.SIGINT and handler is signal.default_int_handler and holding:
            signal.raise_signal(signal.SIGINT)
        return found

    before = {signal.SIGINT: signal.default_int_handler, signal.SIGUSR2: lambda number, frame: arrived.append(number)}
    before = {number: (handler, real(number, handler)) for number, handler in before.items()}
    holding = False
    monkeypatch.setattr(signal, 'signal', put_back)
    try:
        with pytest.raises(KeyboardInterrupt), jobs._signals_held_back():
            holding = True
        signal.raise_signal(signal.SIGUSR2)
        assert arrived == [signal.SIGUSR2]
    finally:
        for number, (_, old) in before.items():
            real(number, old)


def test_error_in_the_work_ends_the_rest(tmp_path):
    def do(item):
        raise ValueError(item)

    with pytest.raises(ValueError, match='0'):
        work_through([0, 1], do, lambda *pair: None, Processes(1))


@pytest.mark.parametrize(
    ('seconds', 'words'), [(1, '1 seconds'), (150, '2 minutes'), (7300, '2 hours'), (200000, '2.3 days')]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='of Linux alone')
def test_threads_are_shares_of_the_cores_that_a_job_was_given(monkeypatch):
    monkeypatch.setattr('os.cpu_count', lambda: 128)
    monkeypatch.setattr('os.sched_getaffinity', lambda process: set(range(8)))
    assert [threads_each(workers) for workers in (1, 3, 8, 20)] == [8, 2, 1, 1]
