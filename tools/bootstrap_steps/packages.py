"""From an empty folder to a checked environment: the virtual environment, torch, the libraries, mmcv, this package."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

from .environment import REQUIREMENTS, ROOT, STACKS, Environment, duration, locked
from .machine import SetUpError, check_disk, find_compiler, gpu_visible
from .mmcv_wheel import install_mmcv

CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
CUDA_INDEX = 'https://download.pytorch.org/whl/cu130'


def make_venv(env: Environment) -> None:
    """Make the virtual environment, or keep the one there if its Python runs and is this version."""
    ours = {'bootstrap.lock', 'bootstrap.log', 'bootstrap-stamp.json'}
    present = {path.name for path in env.home.iterdir()}
    if present - ours and 'pyvenv.cfg' not in present and 'bootstrap.log' not in present:
        raise SetUpError(f'{env.home} is not empty and not a virtual environment; name another folder with --venv')
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        code = 'import sys, pip; print(*sys.version_info[:2], sys.prefix != sys.base_prefix)'
        asked = subprocess.run(
            [str(env.python), '-c', code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
        )
        if asked.stdout.decode().split() == [*map(str, sys.version_info[:2]), 'True']:
            return
    if present - ours and 'bootstrap.log' not in present:
        raise SetUpError(
            f'{env.home} is an environment of another origin, without pip or not of this Python '
            f'({platform.python_version()}); name another folder with --venv, or remove it'
        )
    with env.step(f'virtual environment {env.home} with Python {platform.python_version()}'):
        for path in env.home.iterdir():
            if path.name not in ours:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        made = subprocess.run(
            [sys.executable, '-m', 'venv', str(env.home)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if made.returncode or not env.python.exists():
            env.log.open('a').write(made.stdout.decode(errors='replace'))
            raise SetUpError(
                f'this Python cannot make a virtual environment; install its venv module (Debian, Ubuntu: '
                f'sudo apt install python3.{sys.version_info[1]}-venv) or use another Python (full log: {env.log})'
            )


def choose_torch(env: Environment) -> tuple[list, str]:
    """Decide where torch comes from.

    The index that pip is configured with serves it, unless that is a CUDA build of several gigabytes on a machine
    without an NVIDIA GPU.

    Returns:
        pip's index arguments, and words for what will be installed.
    """
    if env.torch_index:
        return ['--index-url', env.torch_index], f'from {env.torch_index}'
    # Metadata alone is fetched. pip's own choice depends on its configuration, so pip is asked.
    report = env.home / 'torch-report.json'
    pin = re.search(r'^torch==.*', (REQUIREMENTS / 'constraints.txt').read_text(), re.MULTILINE).group(0)
    asked = ['install', '--dry-run', '--ignore-installed', '--no-deps', '--report', report, pin]
    env.pip(*asked, doing='looking for torch')
    found = json.loads(report.read_text())['install'][0]
    report.unlink()
    needs = found['metadata'].get('requires_dist', [])
    is_cuda = sys.platform == 'linux' and any(re.match(r'nvidia-|cuda-|triton', need) for need in needs)
    seen = gpu_visible()
    if is_cuda and (env.device == 'cpu' or (env.device == 'auto' and not seen)):
        why = 'as asked' if env.device == 'cpu' else 'no NVIDIA GPU is visible here; --device cuda takes the CUDA build'
        return ['--index-url', CPU_INDEX], f'CPU build ({why})'
    if not is_cuda and env.device == 'cuda':
        return ['--index-url', CUDA_INDEX], 'CUDA build, as asked'
    if not is_cuda and seen and env.device == 'auto':
        env.notes.append(
            'an NVIDIA GPU is visible but pip is configured to serve a CPU build of torch; '
            'run again with --device cuda for the CUDA build'
        )
    return [], 'CUDA build' if is_cuda else 'CPU build'


def installed_torch(env: Environment, words: str) -> str:
    """Tell whether torch is there and what ``words`` of :func:`choose_torch` announce.

    pip takes a CPU build and a CUDA build of one version for the same.

    Returns:
        ``'none'``, ``'this'`` or ``'other'``; of another index it is always ``'other'``.
    """
    found = '__import__("torch").version.cuda or "CPU"'
    code = f'import importlib.util as u; print({found} if u.find_spec("torch") else "none")'
    try:
        there = env.ask(code, 'asking for the installed torch')
    except SetUpError:
        return 'other'  # it does not import
    if there == 'none':
        return there
    return 'other' if env.torch_index or (there != 'CPU') != words.startswith('CUDA') else 'this'


def install_packages(env: Environment) -> None:
    """Install torch, then everything pinned in requirements/ save mmcv."""
    constraints = ['-c', REQUIREMENTS / 'constraints.txt']
    if not env.torch_index:
        constraints += ['-c', REQUIREMENTS / 'constraints-cuda.txt']
    with env.step('pip and build tools, some seconds'):
        env.pip('install', '-r', REQUIREMENTS / 'build.txt', *constraints, doing='installing the build tools')
    index, words = choose_torch(env)
    there = installed_torch(env, words)
    if there != 'this':
        size = 10.0 if words.startswith('CUDA') else 3.5
        check_disk(env.home, size, f'the environment with the {words.split(",")[0].split(" (")[0]} of torch')
    with env.step(f'torch, {words}, one to five minutes'):
        anew = ['--force-reinstall'] if there == 'other' else []
        env.pip('install', '--no-deps', *anew, 'torch', *index, *constraints, doing='installing torch')
    with env.step('the libraries beside it, about a minute'):
        lists = [part for name in ('runtime', 'dev') for part in ('-r', REQUIREMENTS / f'{name}.txt')]
        env.pip('install', *lists, *constraints, doing='installing the libraries')
    frameworks, vision = [], []
    for line in (REQUIREMENTS / f'{env.stack}.txt').read_text().splitlines():
        name = line.split('==')[0].strip()
        if name and not name.startswith('#') and name != STACKS[env.stack]:
            (vision if name == 'torchvision' else frameworks).append(line.strip())
    with env.step(f'the frameworks of the {env.stack} stack, about a minute'):
        plainly = ['install', '--no-deps', '--no-build-isolation']
        # torchvision comes from where torch came from, so that its compiled part fits.
        env.pip(*plainly, *anew, *vision, *index, doing='installing torchvision')
        env.pip(*plainly, *frameworks, doing='installing the frameworks')


def check_finished(env: Environment) -> None:
    """Ask the doctor which tasks can run: without detection the set-up has failed, the others are noted.

    Raises:
        SetUpError: If detection cannot run.
    """
    with env.step('checking which tasks can run, some seconds'):
        with env.log.open('a', encoding='utf-8') as log:
            command = [str(env.python), str(ROOT / 'tools' / 'doctor.py'), '--json']
            asked = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, env=env.variables(), cwd=str(ROOT))
            log.write(asked.stdout.decode(errors='replace'))
        try:
            tasks = json.loads(asked.stdout.decode())['tasks']
        except ValueError as error:
            raise SetUpError(f'the check of the finished environment failed (full log: {env.log})') from error
        for task, findings in tasks.items():
            bad = next((finding for finding in findings if not finding['good']), None)
            if bad:
                said = f'{bad["what"]}: {bad["detail"]}; {bad["mend"]}'
                if task == 'det':
                    raise SetUpError(f'the environment is complete but detection cannot run: {said}')
                env.notes.append(f'{task} cannot run: {said}')


def set_up(env: Environment, repair: bool = False) -> None:
    """Bring the environment to what requirements/ pins; at once where that was done before.

    Args:
        env: The environment.
        repair: Go through every step even where the set-up was finished before.

    Raises:
        SetUpError: If it cannot be done.
    """
    if env.is_ready() and not repair:
        print(f'environment {env.home} is ready ({duration(time.time() - env.started)})', flush=True)
        return
    if not sys.platform.startswith(('linux', 'darwin')):
        raise SetUpError('Linux or macOS is needed; on Windows run this inside WSL')
    try:
        env.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetUpError(f'{env.home} cannot be made ({error.strerror}); name another folder with --venv') from error
    try:
        env.cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=env.cache).close()
    except OSError as error:
        raise SetUpError(
            f'{env.cache}, where built wheels are kept, cannot be written ({error.strerror}); name another folder by '
            'LISA_CACHE_DIR'
        ) from error
    with locked(env.home / 'bootstrap.lock', f'setting up {env.home}'):
        if env.is_ready() and not repair:
            print(f'environment {env.home} was made ready meanwhile', flush=True)
            return
        env.stamp.unlink() if env.stamp.exists() else None
        find_compiler()
        if not env.python.exists():  # else a part of it takes its place already
            check_disk(env.home, 3.5, 'the environment')
        print(f'setting up {env.home} for the {env.stack} stack; everything said goes to {env.log}', flush=True)
        make_venv(env)
        install_packages(env)
        install_mmcv(env)
        with env.step('this package'):
            env.pip('install', '--no-deps', '--no-build-isolation', '-e', ROOT, doing='installing this package')
        check_finished(env)
        record = {'wanted': env.wanted(), 'python': platform.python_version(), 'notes': env.notes}
        half = env.stamp.with_suffix('.part')
        half.write_text(json.dumps(record, indent=1) + '\n')
        os.replace(half, env.stamp)
    for note in env.notes:
        print(f'note: {note}')
    print(
        f'ready after {duration(time.time() - env.started)}; to work in it: source {env.home}/bin/activate', flush=True
    )
