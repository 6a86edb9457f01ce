#!/usr/bin/env python3
"""Set up the whole project in its own virtual environment, then run the demo, a leaderboard or the tests in it.

    python3 tools/bootstrap.py setup         # environment only
    python3 tools/bootstrap.py demo          # environment, mini COCO, train Mask R-CNN, test it, draw its detections
    python3 tools/bootstrap.py leaderboard   # environment, a small leaderboard of five models and its page
    python3 tools/bootstrap.py test          # environment, lint, tests; further pytest arguments after --

Needs Python 3.10 to 3.12, a C++ compiler and pip; imports the standard library alone, and runs on older Pythons as far
as saying what is missing. A finished set-up is recognised in well under a second; an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from bootstrap_steps.environment import ROOT, STACKS, Environment, duration
from bootstrap_steps.machine import SetUpError, find_python, jobs
from bootstrap_steps.packages import set_up

SOURCES = ('lisa_backbone', 'tools', 'configs', 'tests')
CONFIGS_REHEARSED = 2
DEMO_CONFIG = 'configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py'
# Two tasks with short schedules, one of images and one of videos; swin-p learns too little in them.
SMALL_LEADERBOARD = (
    '--tasks mini-imagenet mini-kinetics --models lisa-p pvtv2-p convnext-p resnet-p '
    '--attention LiSAttention SelfAttention --schedule 0.4'
)


def run_tool(env: Environment, *command, **variables: str) -> int:
    """Run a command of the environment in the checkout with its output shown; return its exit status."""
    print('\n$ python ' + ' '.join(map(str, command)), flush=True)
    kept = {key: value for key, value in env.variables().items() if not key.startswith('PIP_')}
    ran = subprocess.run([str(env.python), *map(str, command)], cwd=str(ROOT), env={**kept, **variables})
    return ran.returncode


def demo(env: Environment, arguments: list) -> int:
    """Make the mini data where it is missing, train the detector, test it, and say where its pictures are.

    A training that was interrupted is resumed; one that was finished is made again.
    """
    work = ROOT / 'work_dirs' / Path(DEMO_CONFIG).stem
    if not (ROOT / 'data' / 'mini_coco' / 'annotations' / 'instances_val2017.json').is_file():
        status = run_tool(env, 'tools/make_mini_data.py', 'coco')
        if status:
            return status
    resume = ['--resume'] if is_interrupted(work) else []
    status = run_tool(env, 'tools/train.py', DEMO_CONFIG, '--work-dir', work, *resume, *arguments)
    if status:
        return status
    trained = read_records(work).get('train')
    if trained is None:  # after arguments such as --rehearse there is nothing to test
        return 0
    pictures = work / 'pictures'
    shutil.rmtree(pictures, ignore_errors=True)  # those of an earlier run
    command = ['tools/test.py', DEMO_CONFIG, trained['checkpoint'], '--work-dir', work, '--show-dir', pictures]
    status = run_tool(env, *command)
    if status:
        return status
    scores = read_records(work)['test']['metrics']
    drawn = sorted(path for path in pictures.rglob('*') if path.suffix in ('.png', '.jpg'))
    print(f'\ntrained in {duration(trained["seconds"])}; weights: {trained["checkpoint"]}')
    print('  '.join(f'{name} {scores[name]:.3f}' for name in sorted(scores) if name.endswith('_mAP')))
    print(f'{len(drawn)} pictures of its detections: {drawn[0].parent if drawn else pictures}')
    return 0


def leaderboard(env: Environment, arguments: list) -> int:
    """Train and test a few models on two mini tasks, and write the page of their results; goes on where it stopped."""
    out = ROOT / 'work_dirs' / 'small-leaderboard'
    results = out / 'results.jsonl'
    settings = ['--jobs', jobs(gigabytes=4), '--work-dir', out / 'runs', '--results', results]
    status = run_tool(env, 'tools/leaderboard.py', 'run', *SMALL_LEADERBOARD.split(), *settings, *arguments)
    if status:
        return status
    return run_tool(env, 'tools/leaderboard.py', 'report', '--results', results, '--out', out)


def read_records(work: Path) -> dict:
    """Return what training and testing noted down in a work directory."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((work / 'metrics.json').read_text(encoding='utf-8'))
    return {}


def is_interrupted(work: Path) -> bool:
    """Tell whether a work directory holds a training that saved something and did not come to its end since."""
    if not (work / 'last_checkpoint').is_file():
        return False
    with contextlib.suppress(KeyError, ValueError):
        finished = datetime.strptime(read_records(work)['train']['finished'], '%Y-%m-%dT%H:%M:%S%z').timestamp()
        return (work / 'last_checkpoint').stat().st_mtime > finished + 1  # it is noted down to the second
    return True


def test(env: Environment, arguments: list) -> int:
    """Run the linters, a sample of the configs that differs from day to day, and the tests, a file per process.

    Pytest's closing line is the last one printed. With arguments for pytest, the configs are left out.
    """
    lint = [run_tool(env, '-m', 'ruff', *words, *SOURCES) for words in (('check',), ('format', '--check'))]
    if any(lint):
        print('\nerror: the lint rules are broken (above); the tests run all the same', flush=True)
    rehearsed = 0 if arguments else run_tool(env, 'tools/rehearse.py', '--sample', CONFIGS_REHEARSED, '--again')
    if rehearsed:
        print('\nerror: a config failed its rehearsal (above); the tests run all the same', flush=True)
    published = 0 if arguments else run_tool(env, 'tools/leaderboard.py', 'lint')
    if published:
        print('\nerror: something published is not so (above); the tests run all the same', flush=True)
    workers = min(jobs(gigabytes=4), 8)
    threads = {} if workers == 1 else {'OMP_NUM_THREADS': '1'}  # else the threads of each would compete for the cores
    tested = run_tool(env, '-m', 'pytest', '-n', workers, '--dist', 'loadfile', *arguments, **threads)
    return tested or max(*lint, rehearsed, published)


def parse(arguments: list) -> tuple[argparse.Namespace, list]:
    """Parse the command line; what follows ``--`` goes to pytest, tools/train.py or tools/leaderboard.py run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', nargs='?', choices=('setup', *COMMANDS), default='setup', help='what to do')
    parser.add_argument('--stack', choices=sorted(STACKS), default='onedl', help='which OpenMMLab packages (onedl)')
    parser.add_argument('--venv', metavar='DIR', help='where the environment lies (.venv-STACK in the checkout)')
    parser.add_argument(
        '--device',
        choices=('auto', 'cpu', 'cuda'),
        help='which build of torch: by what is visible here (auto), or as named; a login node of a cluster needs cuda '
        '(that of the set-up before, else auto)',
    )
    parser.add_argument('--repair', action='store_true', help='go through the set-up again though it was finished')
    parser.add_argument('--torch-index', metavar='URL', help='package index for torch and torchvision')
    cut = arguments.index('--') if '--' in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    rest = arguments[cut + 1 :]
    if rest and options.command == 'setup':
        parser.error('setup takes no arguments after --')
    return options, rest


def main() -> int:
    """Run the command line under a Python that the project supports."""
    options, rest = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as batch systems end a job: like Ctrl-C
    try:
        python = find_python()
        if python != sys.executable:
            print(f'this is Python {platform.python_version()}; going on with {python}', flush=True)
            os.execv(python, [python, str(Path(__file__).resolve()), *sys.argv[1:]])
        env = Environment(options)
        set_up(env, options.repair)
    except SetUpError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    if options.command == 'setup':
        return 0
    return COMMANDS[options.command](env, rest)


COMMANDS = {'demo': demo, 'leaderboard': leaderboard, 'test': test}

if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on from here', file=sys.stderr)
        sys.exit(130)
