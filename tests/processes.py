"""The tools in processes of their own: fresh ones, or forked from one that has done the imports already.

A fresh process spends most of a short run on importing torch and the frameworks, and on taking them apart at its end.
The first run of each tool in a process of pytest is therefore a fresh one, as a user has it, and the others are forked.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

REPO = Path(__file__).parents[1]
FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain', 'mmaction')
_seen: set[str] = set()
_start = threading.Lock()


def run_tool(tool, *arguments, cwd=REPO, timeout=600):
    """Run a file of tools/, with one thread, and return what ``subprocess.run`` does of its status and output."""
    words = [str(REPO / 'tools' / tool), *map(str, arguments)]
    if tool in _seen:
        return run_forked(words, cwd, timeout)
    _seen.add(tool)
    return run_fresh(words, cwd, timeout)


def run_fresh(words, cwd, timeout=600):
    """Run a script by an interpreter of its own."""
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout)


def run_forked(words, cwd, timeout=600):
    """Run a script in a fork of the server, or freshly where a test has changed the environment meanwhile."""
    with _start:  # tests run some tools side by side
        address, variables = _server()
    if variables != environment():
        return run_fresh(words, cwd, timeout)
    with contextlib.ExitStack() as stack:
        request, out, err = (stack.enter_context(tempfile.TemporaryFile('w+')) for _ in range(3))
        json.dump({'words': words, 'cwd': str(cwd)}, request)
        request.seek(0)
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(address)
            socket.send_fds(link, [b'.'], [file.fileno() for file in (request, out, err)])
            with link.makefile() as answers:
                pid = int(answers.readline())  # nothing to read: the server is gone, and has said why
                link.settimeout(timeout)
                try:
                    status = int(answers.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    link.settimeout(None)
                    link.recv(99)  # its status: it is gone
                    raise subprocess.TimeoutExpired(words, timeout) from None
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(words, status, out.read(), err.read())


def environment():
    """The variables of a run: those of the tests but for the name of the present one, and one thread."""
    return {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')} | {'OMP_NUM_THREADS': '1'}


@functools.cache
def _server():
    """The address of the server, which is started by the first call, and the environment that it has."""
    folder, variables = tempfile.TemporaryDirectory(), environment()
    address = str(Path(folder.name, 'socket'))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        command, number = [sys.executable, __file__, str(listener.fileno())], listener.fileno()
        process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, pass_fds=[number])

    def stop():
        process.stdin.close()
        process.wait()
        folder.cleanup()

    atexit.register(stop)
    return address, variables


# ------------------------------------------------------------------------------------------------ in the server itself


def serve(listener):
    """Fork for every request until the input ends; in each process that is to run one, return its words."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for the runs
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        link, _ = listener.accept()
        if os.fork():
            link.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        _, numbers, *_ = socket.recv_fds(link, 1, 3)
        if pid := os.fork():
            link.sendall(f'{pid}\n'.encode())
            _, status = os.waitpid(pid, 0)
            link.sendall(f'{os.waitstatus_to_exitcode(status)}\n'.encode())
            os._exit(0)
        link.close()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        with open(numbers[0]) as file:
            request = json.load(file)
        for number, own in zip(numbers[1:], (1, 2), strict=True):
            os.dup2(number, own)
            os.close(number)
        os.chdir(request['cwd'])
        return request['words']
    sys.exit()


if __name__ == '__main__':
    from lisa_backbone import compat

    compat.apply()
    for name in ('runner', 'leaderboard', 'benchmarking'):
        importlib.import_module(f'lisa_backbone.{name}')
    for name in FRAMEWORKS:
        if importlib.util.find_spec(name):
            importlib.import_module(f'{name}.utils').register_all_modules(init_default_scope=False)
    sys.argv = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(sys.argv[0]).parent)
    # As an interpreter ends, but without taking the frameworks apart, which takes seconds in a fork.
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
        status = 0
    except SystemExit as error:
        status = error.code
        if not isinstance(status, int | None):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)
