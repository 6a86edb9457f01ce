"""The set-up: what it says when something is missing, what it installs from where, and what an interruption leaves."""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tools' / 'bootstrap.py'


def load(name, path):
    """Import a module of tools/, which is no package, by its path."""
    places = [str(path.parent)] if path.name == '__init__.py' else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load('bootstrap_steps', ROOT / 'tools' / 'bootstrap_steps' / '__init__.py')
environment, machine, mmcv_wheel, packages = (
    importlib.import_module(f'bootstrap_steps.{name}') for name in ('environment', 'machine', 'mmcv_wheel', 'packages')
)
bootstrap = load('bootstrap_under_test', SCRIPT)


def make_env(tmp_path, **changes):
    options = {'stack': 'onedl', 'venv': str(tmp_path / 'venv'), 'device': 'auto', 'torch_index': None, **changes}
    env = environment.Environment(argparse.Namespace(**options))
    env.home.mkdir(parents=True, exist_ok=True)
    env.cache = tmp_path / 'cache'
    return env


def run_script(*arguments, env=None, python=sys.executable, timeout=300):
    return subprocess.run(
        [python, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        timeout=timeout,
    )


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# ---------------------------------------------------------------------------------------------- what the machine lacks


def one_sentence(result):
    """Return the one line of error of a run that failed."""
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith('error: ')
    return lines[0]


def test_unsupported_python_is_told(tmp_path):
    """With a Python that is too new, and only a python3.12 on the PATH that does not run."""
    executable(tmp_path / 'bin' / 'python3.12', '#!/bin/sh\necho "python3.12: not selected" >&2\nexit 127\n')
    code = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
sys.version_info = type('V', (tuple,), {{}})((3, 13, 0, 'final', 0))
sys.argv = [{str(SCRIPT)!r}, 'setup', '--venv', {str(tmp_path / 'venv')!r}]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
    ran = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PATH': str(tmp_path / 'bin')}
    )
    said = one_sentence(ran)
    assert '3.13.0' in said
    assert 'install one' in said
    assert not (tmp_path / 'venv').exists()


def test_another_python_on_the_path_is_used(tmp_path, monkeypatch):
    """One that is on the PATH but does not run is passed over."""
    executable(tmp_path / 'python3.12', '#!/bin/sh\nexit 127\n')
    executable(tmp_path / 'python3.11', f'#!/bin/sh\necho "(3, 11) {tmp_path}/real"\n')
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(machine.sys, 'version_info', (3, 9, 18))
    assert machine.find_python() == f'{tmp_path}/real'


def test_this_python_is_kept_where_it_is_supported(monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    assert machine.find_python() == sys.executable


@pytest.mark.parametrize(
    ('compiler', 'told'),
    [(None, 'install one'), ('/nowhere/c++', 'CXX=/nowhere/c++ is not on the PATH'), ('false', 'false cannot build')],
)
def test_missing_compiler_is_told_before_anything_is_made(tmp_path, compiler, told):
    env = {'PATH': str(tmp_path), 'CXX': compiler or ''}
    if compiler == 'false':
        executable(tmp_path / 'false', '#!/bin/sh\nexit 1\n')
    said = one_sentence(run_script('setup', '--venv', tmp_path / 'venv', env=env))
    assert told in said
    assert not (tmp_path / 'venv' / 'bin').exists()


@pytest.mark.skipif(not shutil.which('c++'), reason='no compiler here')
def test_compiler_is_tried_for_real(monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    assert machine.find_compiler() in ('c++', 'g++', 'clang++')
    monkeypatch.setenv('CXX', shutil.which('c++'))
    assert machine.find_compiler() == shutil.which('c++')


def test_missing_python_headers_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.sysconfig, 'get_paths', lambda: {'include': str(tmp_path)})
    monkeypatch.setenv('CXX', sys.executable)
    with pytest.raises(machine.SetUpError, match=r'Python\.h is missing.*install the headers'):
        machine.find_compiler()


def test_full_disk_is_told(tmp_path, monkeypatch):
    machine.check_disk(tmp_path, 0.0, 'nothing')
    monkeypatch.setattr(machine.shutil, 'disk_usage', lambda path: argparse.Namespace(free=1.2e9))
    with pytest.raises(machine.SetUpError, match=r'takes about 3\.5 GB and .* has 1\.2 GB free; make room'):
        machine.check_disk(tmp_path / 'not' / 'there', 3.5, 'the environment')


def test_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('dear')
    said = one_sentence(run_script('setup', '--venv', tmp_path / 'mine'))
    assert 'not empty and not a virtual environment' in said
    assert (tmp_path / 'mine' / 'thesis.tex').read_text() == 'dear'


def test_environment_of_another_origin_is_kept(tmp_path):
    """Such as uv makes them, without pip."""
    home = tmp_path / 'theirs'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(home)], check=True)
    (home / 'notes.txt').write_text('dear')
    said = one_sentence(run_script('setup', '--venv', home))
    assert 'an environment of another origin' in said
    assert (home / 'notes.txt').read_text() == 'dear'
    assert (home / 'bin' / 'python').exists()


def test_cache_that_cannot_be_written_is_told_before_anything_is_installed(tmp_path):
    (tmp_path / 'file').write_text('')
    said = one_sentence(
        run_script('setup', '--venv', tmp_path / 'venv', env={'LISA_CACHE_DIR': str(tmp_path / 'file' / 'cache')})
    )
    assert 'name another folder by LISA_CACHE_DIR' in said
    assert not (tmp_path / 'venv' / 'bin').exists()


def test_unreachable_index_is_told_and_leaves_no_finished_environment(tmp_path):
    """A real run, with pip pointed at a port where nothing listens."""
    env = {
        'PIP_CONFIG_FILE': os.devnull,
        'PIP_INDEX_URL': 'http://127.0.0.1:9/simple',
        'PIP_EXTRA_INDEX_URL': '',
        'PIP_FIND_LINKS': '',
        'PIP_RETRIES': '1',
    }
    venv = tmp_path / 'venv'
    ran = run_script('setup', '--venv', venv, env=env)
    said = one_sentence(ran)
    assert 'the package index cannot be reached' in said
    assert str(venv / 'bootstrap.log') in said
    assert 'Connection refused' in (venv / 'bootstrap.log').read_text()
    assert not (venv / 'bootstrap-stamp.json').exists()
    # The same command goes on with the environment that is there, and stops at the same place.
    again = run_script('setup', '--venv', venv, env=env)
    assert 'virtual environment' in ran.stdout
    assert 'virtual environment' not in again.stdout
    assert one_sentence(again) == said


LOGS = {
    'OSError: [Errno 28] No space left on device': 'the disk is full',
    "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution'": 'cannot be reached',
    'ERROR: Could not find a version\nERROR: No matching distribution found for torch==9': 'has no torch==9',
    'c++: fatal error: Killed signal terminated program cc1plus': 'MAX_JOBS=1',
    'probe.cpp:1:10: fatal error: Python.h: No such file or directory': 'headers of Python',
    'RuntimeError: The detected CUDA version (12.4) mismatches the version that was used': 'set CUDA_HOME',
    'error: something else entirely': 'something else entirely',
    'silence': 'status 1',
}


@pytest.mark.parametrize(('log', 'told'), LOGS.items())
def test_causes_are_read_from_the_log(log, told):
    said = environment.explain(log, 1)
    assert told in said
    assert '\n' not in said


def test_killed_command_is_told():
    assert 'MAX_JOBS=1' in environment.explain('', -9)


# -------------------------------------------------------------------------------------------------------- requirements


def lines(name):
    text = (ROOT / 'requirements' / f'{name}.txt').read_text()
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith('#')]


def canonical(name):
    return re.sub(r'[-_.]+', '-', name).lower()


@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12'])
def test_everything_is_pinned_once_and_exactly(python):
    target = {'python_version': python, 'python_full_version': f'{python}.0'}
    pinned = [one for one in lines('constraints') if one.marker is None or one.marker.evaluate(target)]
    names = [canonical(one.name) for one in pinned]
    assert len(set(names)) == len(names)
    for one in (*lines('constraints'), *lines('constraints-cuda'), *lines('onedl'), *lines('openmmlab')):
        assert re.fullmatch(r'==[\w.]+', str(one.specifier)), one
    for name in ('build', 'runtime', 'dev'):
        assert {canonical(one.name) for one in lines(name)} <= set(names)


# What the frameworks ask for and do not get: the headless OpenCV serves for the others, decord is no longer kept up,
# and imagecorruptions serves an augmentation that is imported when it is asked for.
LEFT_OUT = {'opencv-python', 'opencv-contrib-python', 'decord', 'imagecorruptions-imaug'}


def test_dependencies_of_the_installed_frameworks_are_listed():
    """The frameworks are installed without their lists, so requirements/ must name what those name."""
    names = {canonical(one.name) for one in (*lines('runtime'), *lines('build'), *lines('onedl'), *lines('openmmlab'))}
    checked = 0
    for one in {canonical(one.name): one for one in (*lines('onedl'), *lines('openmmlab'))}.values():
        with contextlib.suppress(metadata.PackageNotFoundError):
            for need in map(Requirement, metadata.requires(one.name) or []):
                if need.marker is None or need.marker.evaluate({'extra': ''}):
                    assert canonical(need.name) in names | LEFT_OUT, f'{one.name} needs {need.name}'
            checked += 1
    assert checked >= 4


# ------------------------------------------------------------------------------------------------- where torch is from

CUDA_WHEEL = ['filelock', 'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"', 'triton==3.7.1']
CPU_WHEEL = ['filelock', 'sympy>=1.13.3']


@pytest.mark.skipif(sys.platform != 'linux', reason='CUDA builds are for Linux')
@pytest.mark.parametrize(
    ('wheel', 'gpu', 'device', 'index', 'words'),
    [
        (CUDA_WHEEL, False, 'auto', [packages.CPU_INDEX], 'CPU build (no NVIDIA GPU'),
        (CUDA_WHEEL, True, 'auto', [], 'CUDA build'),
        (CUDA_WHEEL, False, 'cuda', [], 'CUDA build'),
        (CUDA_WHEEL, True, 'cpu', [packages.CPU_INDEX], 'CPU build (as asked)'),
        (CPU_WHEEL, False, 'auto', [], 'CPU build'),
        (CPU_WHEEL, True, 'auto', [], 'CPU build'),
        (CPU_WHEEL, False, 'cpu', [], 'CPU build'),
        (CPU_WHEEL, False, 'cuda', [packages.CUDA_INDEX], 'CUDA build'),
    ],
)
def test_torch_comes_from_the_right_index(tmp_path, monkeypatch, wheel, gpu, device, index, words):
    """The index that pip is configured with is left only where what it serves does not suit the machine."""
    env = make_env(tmp_path, device=device)
    asked = []

    def pip(*arguments, doing):
        asked.extend(map(str, arguments))
        report = Path(arguments[arguments.index('--report') + 1])
        report.write_text(json.dumps({'install': [{'metadata': {'requires_dist': wheel}}]}))

    monkeypatch.setattr(env, 'pip', pip)
    monkeypatch.setattr(packages, 'gpu_visible', lambda: gpu)
    options, told = packages.choose_torch(env)
    assert options == (['--index-url', *index] if index else [])
    assert told.startswith(words)
    assert '--dry-run' in asked
    assert 'torch==2.13.0' in asked
    assert bool(env.notes) == (wheel is CPU_WHEEL and gpu and device == 'auto')


def answer(env, monkeypatch, said):
    monkeypatch.setattr(env, 'ask', lambda code, doing: said)


def test_named_index_wins(tmp_path):
    env = make_env(tmp_path, torch_index='https://example.org/whl')
    assert packages.choose_torch(env)[0] == ['--index-url', 'https://example.org/whl']


@pytest.mark.parametrize(
    ('said', 'words', 'index', 'expected'),
    [
        ('none', 'CUDA build', None, 'none'),
        ('CPU', 'CPU build (as asked)', None, 'this'),
        ('CPU', 'CUDA build, as asked', None, 'other'),
        ('13.0', 'CUDA build', None, 'this'),
        ('13.0', 'CPU build', None, 'other'),
        ('13.0', 'from https://example.org/whl', 'https://example.org/whl', 'other'),
    ],
)
def test_installed_torch_is_told_from_another_build(tmp_path, monkeypatch, said, words, index, expected):
    env = make_env(tmp_path, torch_index=index)
    answer(env, monkeypatch, said)
    assert packages.installed_torch(env, words) == expected


def test_installed_torch_is_asked_for(tmp_path, monkeypatch):
    """The line that asks runs, with a torch and without."""
    env = make_env(tmp_path)
    asked = []
    monkeypatch.setattr(env, 'ask', lambda code, doing: asked.append(code) or 'none')
    packages.installed_torch(env, 'CPU build')
    for words, expected in (((), torch.version.cuda or 'CPU'), (('-S', '-I'), 'none')):
        ran = subprocess.run([sys.executable, *words, '-c', asked[0]], capture_output=True, text=True)
        assert ran.stdout.strip() == expected, ran.stderr


# --------------------------------------------------------------------------------------------------- the wheel of mmcv


def test_cache_key_tells_builds_apart(tmp_path, monkeypatch):
    env = make_env(tmp_path)
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)
    keys = []
    for said, nvcc in (
        ('2.13.0+cpu||', '13.0'),
        ('2.14.0+cpu||', '13.0'),
        ('2.13.0+cu130|13.0|8.0', '13.0'),
        ('2.13.0+cu130|13.0|9.0', '13.0'),
        ('2.13.0+cu130|13.0|9.0', '13.1'),
        ('2.13.0+cu130|13.0|9.0', None),
        ('2.13.0+cu130|13.0|9.0', '12.4'),
    ):
        answer(env, monkeypatch, said)
        monkeypatch.setattr(mmcv_wheel, 'cuda_toolkit', lambda nvcc=nvcc: nvcc)
        env.notes.clear()
        key, build = mmcv_wheel.mmcv_plan(env)
        keys.append(key)
        with_ops = '+cu' in said and nvcc in ('13.0', '13.1')
        assert build['FORCE_CUDA'] == str(int(with_ops))
        assert ('no CUDA ops' in ' '.join(env.notes)) == ('+cu' in said and not with_ops)
        assert build.get('TORCH_CUDA_ARCH_LIST') == (said.split('|')[2] if with_ops else None)
    assert len(set(keys[:6])) == 6
    assert keys[6] == keys[5]  # an nvcc that does not fit builds what no nvcc builds
    assert all(f'cp{sys.version_info[0]}{sys.version_info[1]}' in key and 'onedl-mmcv-2.3.6' in key for key in keys)


def prepare_build(tmp_path, monkeypatch, outcome):
    """Make an environment whose pip, asked to build, does what ``outcome`` says."""
    env = make_env(tmp_path)
    monkeypatch.setattr(mmcv_wheel, 'find_compiler', lambda: 'c++')

    def fetch(env, name, workshop):
        (workshop / 'source').mkdir(parents=True)
        (workshop / 'source' / 'setup.py').touch()

    def pip(*arguments, doing, **kwargs):
        out = Path(arguments[arguments.index('-w') + 1])
        out.mkdir(parents=True)
        (out / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl').write_text('half')
        (out.parent / 'source' / 'objects').write_text('one of two')
        outcome()
        (out / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl').write_text('whole')

    monkeypatch.setattr(mmcv_wheel, 'fetch_source', fetch)
    monkeypatch.setattr(env, 'pip', pip)
    return env


def test_interrupted_build_leaves_no_wheel_and_goes_on(tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    build = {'MMCV_WITH_OPS': '1', 'FORCE_CUDA': '0'}
    env = prepare_build(tmp_path, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        mmcv_wheel.build_mmcv(env, 'key', build)
    assert not list((env.cache / 'wheels').rglob('*.whl'))
    assert (env.cache / 'build' / 'key' / 'source' / 'objects').read_text() == 'one of two'

    env = prepare_build(tmp_path, monkeypatch, lambda: None)
    monkeypatch.setattr(mmcv_wheel, 'fetch_source', None)  # the source that is there is used
    wheel = mmcv_wheel.build_mmcv(env, 'key', build)
    assert wheel.read_text() == 'whole'
    assert wheel.parent == env.cache / 'wheels' / 'key'
    assert not (env.cache / 'build' / 'key').exists()

    monkeypatch.setattr(env, 'pip', None)  # and then the cache alone
    assert mmcv_wheel.build_mmcv(env, 'key', build) == wheel


def test_cached_wheel_that_does_not_load_is_built_anew(tmp_path, monkeypatch):
    env = make_env(tmp_path)
    shelf = env.cache / 'wheels' / 'key'
    shelf.mkdir(parents=True)
    (shelf / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl').write_text('old')
    installed = []

    def build(env, key, build):
        shelf.mkdir(parents=True, exist_ok=True)
        wheels = list(shelf.glob('*.whl'))
        if not wheels:
            wheels = [shelf / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl']
            wheels[0].write_text('new')
        return wheels[0]

    def ask(code, doing):
        if installed[-1] == 'old':
            raise machine.SetUpError('undefined symbol')

    monkeypatch.setattr(mmcv_wheel, 'mmcv_plan', lambda env: ('key', {}))
    monkeypatch.setattr(mmcv_wheel, 'build_mmcv', build)
    monkeypatch.setattr(env, 'pip', lambda *arguments, doing: installed.append(Path(arguments[-1]).read_text()))
    monkeypatch.setattr(env, 'ask', ask)
    mmcv_wheel.install_mmcv(env)
    assert installed == ['old', 'new']


def test_progress_of_the_build(capsys):
    now = iter([0, 60, 120, 121, 600, 660])
    progress = mmcv_wheel.Progress(clock=lambda: next(now))
    for line in ('copying', '  [1/11] c++ a', '[2/11] c++ b', '[3/11] c++ c', '[10/11] c++ d', '[11/11] c++ e'):
        progress(line)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        '[1/11] 60 s gone',
        '[2/11] 2 min gone, about 9 min left',
        '[10/11] 10 min gone, about 60 s left',
        '[11/11] 11 min gone, about 0.0 s left',
    ]


# ----------------------------------------------------------------------------------------------- once more, in seconds


def finish(env):
    env.python.parent.mkdir(parents=True, exist_ok=True)
    env.python.touch()
    env.stamp.write_text(json.dumps({'wanted': env.wanted()}))


def test_finished_set_up_is_recognised_until_something_changes(tmp_path, monkeypatch):
    env = make_env(tmp_path)
    assert not env.is_ready()
    finish(env)
    assert env.is_ready()
    assert not make_env(tmp_path, device='cuda').is_ready()
    assert not make_env(tmp_path, stack='openmmlab').is_ready()
    monkeypatch.setattr(environment, 'REQUIREMENTS', tmp_path / 'requirements')
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    assert env.is_ready()
    with open(tmp_path / 'requirements' / 'constraints.txt', 'a', encoding='utf-8') as file:
        file.write('einops==0.8.1\n')
    assert not env.is_ready()


def test_what_is_not_given_stays_as_it_was_set_up(tmp_path):
    """A login node sees no GPU: without the option the CUDA build that was asked for there stays."""
    asked = {'device': 'cuda', 'torch_index': 'https://example.org/whl'}
    finish(make_env(tmp_path, **asked))
    again = make_env(tmp_path, device=None, torch_index=None)
    assert (again.device, again.torch_index) == tuple(asked.values())
    assert again.is_ready()
    assert make_env(tmp_path, device='auto').device == 'auto'
    assert make_env(tmp_path / 'new', device=None).device == 'auto'


def test_damaged_stamp_is_no_stamp(tmp_path):
    env = make_env(tmp_path)
    finish(env)
    env.stamp.write_text('{"wanted": {')
    assert not env.is_ready()


def test_finished_set_up_starts_at_once_without_a_compiler_or_network(tmp_path):
    env = make_env(tmp_path)
    finish(env)
    ran = run_script('setup', '--venv', env.home, env={'PATH': '/nowhere'}, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert 'is ready' in ran.stdout


def test_second_process_waits_for_the_first(tmp_path):
    lock = tmp_path / 'lock'
    code = f"""
import fcntl, time
file = open({str(lock)!r}, 'a')
fcntl.flock(file, fcntl.LOCK_EX)
print('held', flush=True)
time.sleep(2)
"""
    holder = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    holder.stdout.readline()
    begun = time.monotonic()
    with environment.locked(lock, 'setting up'):
        waited = time.monotonic() - begun
    holder.wait()
    assert waited > 1


def test_interruption_ends_what_was_started(tmp_path):
    """The compilers of a build must not go on after Ctrl-C."""
    env = make_env(tmp_path)
    executable(env.python, '#!/bin/sh\nsleep 60 &\necho $!\nwait\n')
    started = []

    def interrupt(line):
        started.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        env.run([env.python], 'building', on_line=interrupt)
    for _ in range(50):
        if not Path(f'/proc/{started[0]}').exists() or 'Z' in Path(f'/proc/{started[0]}/stat').read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail('a child of the interrupted command is still running')


def test_environment_of_commands_is_clean(tmp_path, monkeypatch):
    """A PYTHONPATH or a pip target of the user must not leak into what is installed."""
    for name in ('PYTHONPATH', 'PIP_TARGET', 'PIP_USER', 'PIP_CONSTRAINT'):
        monkeypatch.setenv(name, 'elsewhere')
    monkeypatch.setenv('PIP_INDEX_URL', 'https://example.org/simple')
    variables = make_env(tmp_path).variables()
    assert not {'PYTHONPATH', 'PIP_TARGET', 'PIP_USER', 'PIP_CONSTRAINT'} & set(variables)
    assert variables['PIP_INDEX_URL'] == 'https://example.org/simple'
    assert variables['PATH'].startswith(str(tmp_path / 'venv' / 'bin'))


# ------------------------------------------------------------------------------------------------------- demo and test

FAKE_PYTHON = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
  *tools/make_mini_data.py*) mkdir -p {root}/data/mini_coco/annotations
     touch {root}/data/mini_coco/annotations/instances_val2017.json;;
  *tools/train.py*) mkdir -p {work}
     echo {work}/iter_1.pth > {work}/last_checkpoint
     [ -e {root}/interrupt ] && touch -d +5seconds {work}/last_checkpoint && exit 130
     touch -d -5seconds {work}/last_checkpoint
     echo '{{"train": {{"seconds": 61, "checkpoint": "best.pth", "finished": "'$(date +%Y-%m-%dT%H:%M:%S%z)'"}}}}' \\
       > {work}/metrics.json;;
  *tools/test.py*) mkdir -p {work}/pictures; touch {work}/pictures/1.png
     sed -i 's/}}}}$/}}, "test": {{"metrics": {{"coco\\/bbox_mAP": 0.5123, "coco\\/segm_mAP": 0.4, "time": 1}}}}}}/' \\
       {work}/metrics.json;;
  *ruff*check*) exit {lint};;
  *tools/rehearse.py*) exit {rehearsed};;
  *tools/leaderboard.py*) exit {published};;
  *pytest*) echo '== 3 passed =='; exit {tests};;
esac
"""


def fake_env(tmp_path, monkeypatch, lint=0, tests=0, rehearsed=0, published=0):
    work = tmp_path / 'work_dirs' / 'mask-rcnn_lisa-p_fpn_mini-coco'
    env = make_env(tmp_path)
    statuses = {'lint': lint, 'tests': tests, 'rehearsed': rehearsed, 'published': published}
    text = FAKE_PYTHON.format(calls=tmp_path / 'calls', root=tmp_path, work=work, **statuses)
    executable(env.python, text)
    monkeypatch.setattr(bootstrap, 'ROOT', tmp_path)
    return env, work, lambda: (tmp_path / 'calls').read_text().splitlines()


def test_demo_makes_data_trains_tests_and_tells(tmp_path, monkeypatch, capfd):
    env, work, calls = fake_env(tmp_path, monkeypatch)
    (tmp_path / 'interrupt').touch()
    assert bootstrap.demo(env, []) == 130
    (tmp_path / 'interrupt').unlink()
    assert bootstrap.demo(env, []) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[-3:] == [
        'trained in 61 s; weights: best.pth',
        'coco/bbox_mAP 0.512  coco/segm_mAP 0.400',
        f'1 pictures of its detections: {work}/pictures',
    ]
    assert bootstrap.demo(env, []) == 0
    (tmp_path / 'interrupt').touch()
    assert bootstrap.demo(env, []) == 130
    (tmp_path / 'interrupt').unlink()
    assert bootstrap.demo(env, ['--seed', '1']) == 0
    config = 'configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py'
    train = f'tools/train.py {config} --work-dir {work}'
    test = f'tools/test.py {config} best.pth --work-dir {work} --show-dir {work}/pictures'
    assert calls() == [
        'tools/make_mini_data.py coco',
        train,
        f'{train} --resume',  # the interrupted run goes on
        test,
        train,  # the finished one is made again
        test,
        train,
        f'{train} --resume --seed 1',  # and interrupted it goes on too, though an older one was finished
        test,
    ]


def test_leaderboard_runs_a_sweep_and_writes_its_page(tmp_path, monkeypatch):
    env, _, calls = fake_env(tmp_path, monkeypatch)
    assert bootstrap.leaderboard(env, ['--seeds', '0', '1']) == 0
    sweep, report = calls()
    out = f'{tmp_path}/work_dirs/small-leaderboard'
    assert sweep.startswith('tools/leaderboard.py run --tasks mini-imagenet mini-kinetics --models lisa-p pvtv2-p ')
    assert sweep.endswith(f'--work-dir {out}/runs --results {out}/results.jsonl --seeds 0 1')
    assert report == f'tools/leaderboard.py report --results {out}/results.jsonl --out {out}'


def test_leaderboard_writes_no_page_of_a_sweep_that_failed(tmp_path, monkeypatch):
    env, _, calls = fake_env(tmp_path, monkeypatch, published=1)
    assert bootstrap.leaderboard(env, []) == 1
    assert len(calls()) == 1


@pytest.mark.parametrize(('lint', 'tests', 'status'), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_test_runs_lint_and_tests_and_ends_with_pytest(tmp_path, monkeypatch, capfd, lint, tests, status):
    env, _, calls = fake_env(tmp_path, monkeypatch, lint, tests)
    assert bootstrap.test(env, ['-k', 'attention']) == status
    assert capfd.readouterr().out.splitlines()[-1] == '== 3 passed =='
    assert [call.split()[1:3] for call in calls()[:2]] == [['ruff', 'check'], ['ruff', 'format']]
    assert re.fullmatch(r'-m pytest -n [1-8] --dist loadfile -k attention', calls()[2])


@pytest.mark.parametrize(('rehearsed', 'published'), [(0, 0), (1, 0), (0, 1)])
def test_test_rehearses_some_configs_and_checks_what_is_published(tmp_path, monkeypatch, capfd, rehearsed, published):
    env, _, calls = fake_env(tmp_path, monkeypatch, rehearsed=rehearsed, published=published)
    assert bootstrap.test(env, []) == max(rehearsed, published)
    assert calls()[2:4] == ['tools/rehearse.py --sample 2 --again', 'tools/leaderboard.py lint']
    assert capfd.readouterr().out.splitlines()[-1] == '== 3 passed =='


def test_continuous_integration_calls_the_test_command(tmp_path):
    """From any folder, with nothing on its standard input."""
    executable(tmp_path / 'python3', f'#!/bin/sh\n(pwd; echo "$@"; cat) > {tmp_path}/seen\nexit 7\n')
    env = {**os.environ, 'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'}
    ran = subprocess.run([str(ROOT / '.ci' / 'run')], cwd=tmp_path, env=env, input=b'typed')
    assert ran.returncode == 7
    assert (tmp_path / 'seen').read_text().splitlines() == [str(ROOT), 'tools/bootstrap.py test']


def test_help_names_the_commands():
    ran = run_script('--help')
    assert ran.returncode == 0
    assert all(word in ran.stdout for word in ('setup', 'demo', 'leaderboard', 'test', '--stack', '--torch-index'))
