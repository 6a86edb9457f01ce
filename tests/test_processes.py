"""Forked runs of the tools end and print as fresh ones do."""

import os
import subprocess
import textwrap

import processes
import pytest
from processes import run_forked, run_fresh, run_tool

SCRIPTS = {
    'prints': 'print(sys.argv[1:], os.getcwd(), sys.path[0], os.environ["OMP_NUM_THREADS"], __name__)',
    'reads': 'print(repr(sys.stdin.read()))',
    'status': 'print("out"); print("err", file=sys.stderr); sys.exit(3)',
    'sentence': 'sys.exit("a sentence")',
    'error': 'raise ValueError("no such thing")',
    'end': """
        import atexit, threading
        atexit.register(print, "last")
        threading.Timer(0.1, print, ["a thread"]).start()""",
    'signal': 'import signal; os.kill(os.getpid(), signal.SIGTERM)',
    'process': 'import subprocess; print(subprocess.check_output([sys.executable, "-c", "print(1)"]))',
}


@pytest.fixture
def script(tmp_path):
    def write(code):
        (tmp_path / 'script.py').write_text('import os, sys\n' + textwrap.dedent(code))
        return [str(tmp_path / 'script.py'), 'a word', '--and another']

    return write


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_fork_ends_and_prints_as_a_fresh_process(name, script, tmp_path):
    words = script(SCRIPTS[name])
    fresh, forked = (run(words, tmp_path, 60) for run in (run_fresh, run_forked))
    assert (forked.returncode, forked.stdout) == (fresh.returncode, fresh.stdout)
    # The traceback of a fork starts with the lines that run the script.
    assert forked.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_the_first_run_of_each_tool_is_a_fresh_process(monkeypatch):
    monkeypatch.setattr(processes, '_seen', set())
    monkeypatch.setattr(processes, 'run_fresh', lambda *args: 'fresh')
    monkeypatch.setattr(processes, 'run_forked', lambda *args: 'forked')
    tools = ('train.py', 'train.py', 'test.py', 'train.py', 'test.py')
    assert [run_tool(tool) for tool in tools] == ['fresh', 'forked', 'fresh', 'forked', 'forked']


def test_a_fork_has_the_frameworks_and_a_fresh_process_not(script, tmp_path):
    words = script("print('torch' in sys.modules)")
    assert [run(words, tmp_path).stdout for run in (run_fresh, run_forked)] == ['False\n', 'True\n']


def test_another_environment_is_a_fresh_process(script, tmp_path, monkeypatch):
    monkeypatch.setenv('MINE', 'changed')
    assert run_forked(script("print('torch' in sys.modules, os.environ['MINE'])"), tmp_path).stdout == 'False changed\n'


def test_a_fork_is_stopped_when_its_time_is_over(script, tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked(script('import time; open("pid", "w").write(str(os.getpid())); time.sleep(60)'), tmp_path, 1)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)
