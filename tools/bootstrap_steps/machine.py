"""What the machine offers: a Python, a C++ compiler, disk, a GPU, a CUDA compiler."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SUPPORTED = ((3, 12), (3, 11), (3, 10))


class SetUpError(Exception):
    """A set-up that cannot go on, told in one sentence with the mend."""


def find_python() -> str:
    """Return a Python of a supported version that runs: this one, or else one on the PATH.

    Raises:
        SetUpError: If there is none.
    """
    if sys.version_info[:2] in SUPPORTED:
        return sys.executable
    for major, minor in SUPPORTED:
        name = f'python{major}.{minor}'
        # A version manager may put a python3.x on the PATH that only says it is not selected, so each is tried.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = subprocess.run(
                [shutil.which(name) or name, '-c', 'import sys; print(sys.version_info[:2], sys.executable)'],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=True,
                text=True,
            ).stdout.strip()
            if asked.startswith(f'({major}, {minor}) /'):
                return asked.split(') ', 1)[1]
    mine = '.'.join(map(str, sys.version_info[:3]))
    raise SetUpError(
        f'Python 3.10, 3.11 or 3.12 is needed and this is {mine}, with no python3.12, python3.11 or python3.10 on the '
        'PATH that runs; install one and run `python3.12 tools/bootstrap.py` with the same arguments'
    )


def gpu_visible() -> bool:
    """Tell whether an NVIDIA GPU can be used from here."""
    if any(re.match(r'nvidia\d+$', name) for name in (os.listdir('/dev') if os.path.isdir('/dev') else ())):
        return True
    if not shutil.which('nvidia-smi'):
        return False
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(['nvidia-smi', '-L'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return listed.returncode == 0 and b'GPU ' in listed.stdout
    return False


def find_compiler() -> str:
    """Return the command of a C++ compiler that builds a shared library against Python's headers.

    ``CXX`` is honoured: where it is set it is the only one tried.

    Raises:
        SetUpError: If no compiler is found, or the one found cannot build, or Python's headers are missing.
    """
    named = os.environ.get('CXX', '').strip()
    candidates = [named] if named else ['c++', 'g++', 'clang++']
    usable = [one for one in candidates if shutil.which(one.split()[0])]
    if not usable:
        looked = f'CXX={named} is not on the PATH' if named else 'none of c++, g++ and clang++ is on the PATH'
        raise SetUpError(
            f'a C++ compiler is needed to build mmcv and {looked}; install one (Debian, Ubuntu: sudo apt install g++; '
            'macOS: xcode-select --install; conda: conda install cxx-compiler) or set CXX'
        )
    include = sysconfig.get_paths()['include']
    if not (Path(include) / 'Python.h').is_file():
        raise SetUpError(
            f'{include}/Python.h is missing, without which mmcv cannot be built; install the headers of this Python '
            f'(Debian, Ubuntu: sudo apt install python3.{sys.version_info[1]}-dev) or use another Python'
        )
    said = ''
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'probe.cpp')
        source.write_text(
            '#include <Python.h>\n#include <optional>\n#include <vector>\n'
            'int probe() { std::optional<int> n = Py_IsInitialized(); return std::vector<int>(3, *n).front(); }\n'
        )
        flags = ['-undefined', 'dynamic_lookup'] if sys.platform == 'darwin' else []
        for one in usable:
            command = [*one.split(), '-std=c++17', '-fPIC', '-shared', f'-I{include}', str(source), *flags]
            built = subprocess.run(
                [*command, '-o', f'{folder}/probe.so'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            if built.returncode == 0:
                return one
            said = (built.stdout.decode(errors='replace').strip().splitlines() or ['it said nothing'])[0]
    raise SetUpError(
        f'the C++ compiler {usable[-1]} cannot build a C++17 shared library ({said}); install a full tool chain '
        '(Debian, Ubuntu: sudo apt install build-essential) or name another compiler in CXX'
    )


def check_disk(folder: Path, gigabytes: float, what: str) -> None:
    """Raise :class:`SetUpError` where ``folder`` has fewer than ``gigabytes`` free for ``what``."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(str(folder)).free / 1e9
    if free < gigabytes:
        raise SetUpError(
            f'{what} takes about {gigabytes:.1f} GB and {folder} has {free:.1f} GB free; make room, or choose another '
            'place with --venv and LISA_CACHE_DIR'
        )


def jobs(gigabytes: float) -> int:
    """Return how many processes may run at once: one per core, and so much memory for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    return max(1, min(cores, int(memory / gigabytes)))


def cuda_toolkit() -> str | None:
    """Return the version of the CUDA compiler, such as ``13.0``, or ``None`` where there is no nvcc."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    nvcc = str(Path(home, 'bin', 'nvcc')) if home else (shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc')
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([nvcc, '--version'], stdout=subprocess.PIPE, timeout=60, check=True).stdout.decode()
        found = re.search(r'release (\d+\.\d+)', said)
        return found.group(1) if found else None
    return None
