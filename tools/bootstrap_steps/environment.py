"""The virtual environment: where it lies, its log and stamp, commands run in it, and what their failures mean."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from .machine import SetUpError

ROOT = Path(__file__).resolve().parent.parent.parent
REQUIREMENTS = ROOT / 'requirements'
STACKS = {'onedl': 'onedl-mmcv', 'openmmlab': 'mmcv'}
STAMP_FORMAT = 1

# What a failed log says, and the sentence that names cause and mend. The first match counts.
CAUSES = (
    (r'No space left on device|Errno 28', 'the disk is full; free some space and run the same command again'),
    (
        r'Temporary failure in name resolution|Name or service not known|nodename nor servname|NameResolutionError|'
        r'Failed to establish a new connection|Network is unreachable|Max retries exceeded|ConnectTimeout|'
        r'ReadTimeout|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED|Connection refused|Connection reset',
        'the package index cannot be reached; check the network and the proxy, or point pip at a mirror with '
        '`pip config set global.index-url URL`, and run the same command again; where it is the index of torch '
        '(download.pytorch.org), give a mirror of it by --torch-index URL, or take what yours has by --device cuda',
    ),
    (
        r'Killed signal terminated|internal compiler error: Killed|out of memory allocating|Killed \(program cc1plus\)',
        'the compiler ran out of memory; run the same command again with MAX_JOBS=1 in front',
    ),
    (r'Python\.h: No such file', 'the headers of Python are missing; install them (Debian, Ubuntu: python3-dev)'),
    (
        r'detected CUDA version \(.*\) mismatches',
        'nvcc and torch are of different CUDA versions; set CUDA_HOME to the CUDA of torch, or give --device cpu',
    ),
    (
        r'No matching distribution found for (?P<what>\S+)',
        'the package index has no {what} for this Python and machine; look at `pip config list` and the Python version',
    ),
    (
        r'hash mismatch|THESE PACKAGES DO NOT MATCH THE HASHES',
        'a download arrived damaged; run the same command again',
    ),
    (r'Permission denied', 'a file cannot be written; see the log for its name, or choose another place with --venv'),
)


class Environment:
    """One virtual environment of the project: where it lies, its log, its stamp, and commands run in it.

    Args:
        options: The command line's ``stack``, ``venv``, ``device`` and ``torch_index``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.stack = options.stack
        self.home = Path(options.venv).absolute() if options.venv else ROOT / f'.venv-{self.stack}'
        self.python = self.home / 'bin' / 'python'
        self.log = self.home / 'bootstrap.log'
        self.stamp = self.home / 'bootstrap-stamp.json'
        # What is not given stays as it was: a login node without a GPU must not replace the torch that was asked for.
        before = self._stamped()
        self.torch_index = options.torch_index or before.get('torch_index')
        self.device = options.device or before.get('device') or 'auto'
        cache = os.environ.get('LISA_CACHE_DIR')
        base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'lisa-backbone')
        try:
            self.cache = Path(cache or base).expanduser().absolute()
        except RuntimeError as error:
            raise SetUpError('this user has no home; name a folder for built wheels by LISA_CACHE_DIR') from error
        self.step_number = 0
        self.started = time.time()
        self.notes: list[str] = []

    # ---- telling

    @contextlib.contextmanager
    def step(self, what: str):
        """Print one line: what is happening, and once it is over how long it took."""
        self.step_number += 1
        begun = time.time()
        print(f'[{self.step_number}] {what} ...', end=' ', flush=True)
        try:
            yield
        except BaseException:
            print(flush=True)
            raise
        print(f'done in {duration(time.time() - begun)}', flush=True)

    # ---- running

    def variables(self) -> dict:
        """Return the environment variables for commands inside: nothing of the user's other Pythons leaks in."""
        dropped = (
            'PYTHONPATH',
            'PYTHONHOME',
            'PIP_TARGET',
            'PIP_PREFIX',
            'PIP_USER',
            'PIP_CONSTRAINT',
            '__PYVENV_LAUNCHER__',
        )
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        kept.update(
            VIRTUAL_ENV=str(self.home),
            PATH=str(self.home / 'bin') + os.pathsep + os.environ.get('PATH', ''),
            PYTHONNOUSERSITE='1',
            PIP_DISABLE_PIP_VERSION_CHECK='1',
            PIP_NO_INPUT='1',
        )
        kept.setdefault('PIP_RETRIES', '3')
        return kept

    def run(self, command: list, doing: str, on_line=None, extra: dict | None = None) -> str:
        """Run a command inside, its output going to the log (and line by line to ``on_line``); return the output.

        Raises:
            SetUpError: If it fails, with the cause read from its output.
        """
        variables = {**self.variables(), **(extra or {})}
        lines = []
        with open(self.log, 'a', encoding='utf-8') as log:
            log.write('\n$ ' + ' '.join(map(str, command)) + '\n')
            log.flush()
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=str(ROOT),
                start_new_session=True,  # so that an interruption ends its compilers too
            )
            try:
                for raw in process.stdout:
                    line = raw.decode(errors='replace')
                    log.write(line)
                    lines.append(line)
                    if on_line:
                        on_line(line)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
            status = process.wait()
        output = ''.join(lines)
        if status:
            raise SetUpError(f'{doing} failed: {explain(output, status)} (full log: {self.log})')
        return output

    def pip(self, *arguments, doing: str, **kwargs) -> str:
        """Run pip inside."""
        return self.run([self.python, '-m', 'pip', *arguments], doing, **kwargs)

    def ask(self, code: str, doing: str) -> str:
        """Run a line of Python inside and return what it prints."""
        return self.run([self.python, '-W', 'ignore', '-c', code], doing).strip().splitlines()[-1]

    # ---- the stamp

    def wanted(self) -> dict:
        """Return what a finished set-up is recognised by."""
        digest = hashlib.sha256()
        for path in (*sorted(REQUIREMENTS.glob('*.txt')), ROOT / 'pyproject.toml'):
            digest.update(path.name.encode() + path.read_bytes())
        return {
            'format': STAMP_FORMAT,
            'requirements': digest.hexdigest(),
            'stack': self.stack,
            'checkout': str(ROOT),
            'device': self.device,
            'torch_index': self.torch_index,
        }

    def _stamped(self) -> dict:
        """Return what a set-up that was finished here was asked for; nothing without one."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return dict(json.loads(self.stamp.read_text())['wanted'])
        return {}

    def is_ready(self) -> bool:
        """Tell whether this very set-up was finished here before."""
        return self._stamped() == self.wanted() and self.python.exists()


def duration(seconds: float) -> str:
    """Write seconds as a person would."""
    return f'{seconds:.1f} s' if seconds < 10 else f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'


def explain(output: str, status: int) -> str:
    """Return the cause of a failure and its mend from a command's output."""
    for pattern, sentence in CAUSES:
        found = re.search(pattern, output)
        if found:
            return sentence.format(**found.groupdict())
    if status in (-9, 137):
        return 'it was killed, most likely for want of memory; run the same command again with MAX_JOBS=1 in front'
    told = [line.strip() for line in output.splitlines() if re.search(r'error', line, re.IGNORECASE)]
    return 'it ended with ' + (repr(told[-1][:300]) if told else f'status {status} and no message')


@contextlib.contextmanager
def locked(path: Path, what: str):
    """Hold a lock file, waiting with a line of explanation while another process holds it."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a', encoding='utf-8') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'another process is {what}; waiting for it to end ...', flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # A file system without locks: the rename at the end of each step is what keeps things whole.
        yield
