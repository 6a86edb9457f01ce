"""mmcv with its ops, built once from its source and kept as a wheel."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

from .environment import REQUIREMENTS, STACKS, Environment, duration, locked
from .machine import SetUpError, check_disk, cuda_toolkit, find_compiler, jobs


def mmcv_plan(env: Environment) -> tuple[str, dict]:
    """Decide how mmcv is built: the key of its wheel in the cache, and the variables of its build."""
    code = (
        'import torch; c = torch.version.cuda or ""; n = torch.cuda.device_count() if c else 0; '
        'print("|".join([torch.__version__, c, " ".join(sorted({"%d.%d" % torch.cuda.get_device_capability(i) '
        'for i in range(n)}))]))'
    )
    torch, cuda, seen = env.ask(code, 'asking torch for its version').split('|')
    arch = os.environ.get('TORCH_CUDA_ARCH_LIST') or seen
    nvcc = cuda_toolkit() if cuda else None
    with_cuda = bool(nvcc) and nvcc.split('.')[0] == cuda.split('.')[0]
    if cuda and not with_cuda:
        lacking = f'nvcc is of CUDA {nvcc}' if nvcc else 'no nvcc was found'
        env.notes.append(
            f'torch is built for CUDA {cuda} but {lacking}, so mmcv has no CUDA ops and detectors cannot train on the '
            f'GPU; install the CUDA {cuda} toolkit, set CUDA_HOME to it and run the same command again'
        )
    name = next(line for line in pins(env) if line.startswith(STACKS[env.stack] + '=='))
    libc = ''.join(platform.libc_ver())
    kind = f'cuda{nvcc}-sm{arch.replace(" ", "+").replace(";", "+") or "all"}' if with_cuda else 'cpu'
    tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    key = f'{name.replace("==", "-")}_torch{torch}_{tag}_{sysconfig.get_platform()}{"-" + libc if libc else ""}_{kind}'
    build = {'MMCV_WITH_OPS': '1', 'FORCE_CUDA': '1' if with_cuda else '0'}
    if with_cuda and arch:
        build['TORCH_CUDA_ARCH_LIST'] = arch
    if cuda and not with_cuda:
        build['CUDA_VISIBLE_DEVICES'] = ''  # mmcv's build takes a visible GPU as a wish for CUDA ops.
    return re.sub(r'[^\w.+-]', '-', key), build


def pins(env: Environment) -> list:
    """Return the pinned lines of the stack."""
    lines = (REQUIREMENTS / f'{env.stack}.txt').read_text().splitlines()
    return [line.strip() for line in lines if '==' in line and not line.startswith('#')]


class Progress:
    """Shows ninja's ``[12/78]`` with the time gone and an estimate of the time left.

    Args:
        clock: Gives the time in seconds.
    """

    def __init__(self, clock=time.time) -> None:
        self.clock = clock
        self.begun = clock()
        self.first = None
        self.shown = 0.0

    def __call__(self, line: str) -> None:
        """Take in one line of the build's output, and print where it tells of progress."""
        found = re.match(r'\s*\[(\d+)/(\d+)\]', line)
        if not found:
            return
        done, total = map(int, found.groups())
        now = self.clock()
        self.first = self.first or (now, done)
        # On a terminal the line is rewritten; in a log one line a minute is enough.
        if done < total and now - self.shown < (0.5 if sys.stdout.isatty() else 60):
            return
        self.shown = now
        since, finished = now - self.first[0], done - self.first[1]
        left = f', about {duration(since / finished * (total - done))} left' if finished else ''
        text = f'    [{done}/{total}] {duration(now - self.begun)} gone{left}'
        print(
            ('\r' + text + ' ' * 12) if sys.stdout.isatty() else text,
            end='' if sys.stdout.isatty() else '\n',
            flush=True,
        )


def build_mmcv(env: Environment, key: str, build: dict) -> Path:
    """Build mmcv's wheel from its source, or take it from the cache; return where it lies.

    The wheel reaches the cache by a rename, whole or not at all. The build folder stays until then, so that an
    interrupted build goes on with the object files it has.
    """
    shelf = shelf_of(env, key)
    name = next(line for line in pins(env) if line.startswith(STACKS[env.stack] + '=='))
    workshop = env.cache / 'build' / key
    with locked(env.cache / 'build' / f'{key}.lock', f'building {name}'):
        ready = sorted(shelf.glob('*.whl'))
        if ready:
            return ready[0]
        compiler = find_compiler()
        check_disk(env.cache, 2.5 if build['FORCE_CUDA'] == '1' else 1.0, f'building {name}')
        many = os.environ.get('MAX_JOBS') or str(jobs(gigabytes=2))
        ops = 'C++ and CUDA ops' if build['FORCE_CUDA'] == '1' else 'C++ ops'
        extra = {**build, 'MAX_JOBS': many, 'CXX': compiler}
        if not shutil.which((sysconfig.get_config_var('CC') or 'cc').split()[0]):
            extra.setdefault('CC', os.environ.get('CC') or compiler)
        effort = 'one to two core-hours' if build['FORCE_CUDA'] == '1' else 'about 20 core-minutes'
        with env.step(f'building {name} with {ops}, {many} at a time ({effort}, once)'):
            if not (workshop / 'source' / 'setup.py').is_file():
                fetch_source(env, name, workshop)
            print(flush=True)
            out = workshop / 'wheel'
            shutil.rmtree(out, ignore_errors=True)
            # The cache of pip itself knows a wheel by its source alone, not by the torch it was compiled against.
            options = ['--no-deps', '--no-build-isolation', '--no-cache-dir', '-v', '-w', out]
            env.pip('wheel', *options, workshop / 'source', doing=f'building {name}', on_line=Progress(), extra=extra)
            made = next(out.glob('*.whl'))
            shelf.mkdir(parents=True, exist_ok=True)
            os.replace(made, shelf / made.name)
            shutil.rmtree(workshop, ignore_errors=True)
            print('   ', end=' ')
    return shelf / made.name


def shelf_of(env: Environment, key: str) -> Path:
    """Return the folder of the cache for wheels of one key."""
    return env.cache / 'wheels' / key


def fetch_source(env: Environment, name: str, workshop: Path) -> None:
    """Download mmcv's source and unpack it, whole or not at all."""
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)
    options = ['--no-deps', '--no-build-isolation', '--no-binary', ':all:', '-d', workshop / 'sdist']
    extra = {'MMCV_WITH_OPS': '1', 'FORCE_CUDA': '0'}
    env.pip('download', *options, name, doing=f'downloading the source of {name}', extra=extra)
    with tarfile.open(str(next((workshop / 'sdist').glob('*.tar.gz')))) as archive:
        # The data filter keeps members inside the folder; Pythons before their 2023 updates lack it.
        keep = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
        archive.extractall(str(workshop / 'unpacked'), **keep)
    os.replace(next((workshop / 'unpacked').iterdir()), workshop / 'source')


def install_mmcv(env: Environment) -> None:
    """Install mmcv from the wheel cache, building the wheel first where it is not there or does not load."""
    key, build = mmcv_plan(env)
    for attempt in (1, 2):
        cached = any(shelf_of(env, key).glob('*.whl'))
        wheel = build_mmcv(env, key, build)
        with env.step(f'{wheel.name.split("-cp")[0]}' + (f' from the wheel cache ({env.cache})' if cached else '')):
            env.pip('install', '--no-deps', '--force-reinstall', wheel, doing='installing mmcv')
        try:
            env.ask('import torch, mmcv._ext; print("loads")', 'loading the ops of mmcv')
            return
        except SetUpError:
            if not cached or attempt == 2:
                raise
            print('    the cached wheel does not load here; building it anew', flush=True)
            shutil.rmtree(shelf_of(env, key))
