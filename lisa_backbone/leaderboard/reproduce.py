"""How to make a row of the leaderboard again: the commands from data to figure, what to expect, and what it takes."""

from __future__ import annotations

import json
import math
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import load_config, nearest
from ..errors import UserError
from ..jobs import Processes, duration, threads_each
from ..runner import METRICS_FILE, total_batch
from .collect import RECORD_FILE
from .sweep import PRETRAINED, Model, attention_options
from .tasks import MINI_TASKS, REAL_TASKS, Task

__all__ = ['Expected', 'Step', 'compare', 'expected', 'find', 'needed_hours', 'reproduce', 'run_steps', 'sequence']

# Training images or videos, for the length of an epoch: COCO's with boxes, Kinetics' as of its list of 2019.
TRAINING_SAMPLES = {'coco': 117266, 'imagenet': 1281167, 'kinetics400': 240436, 'sthv2': 168913}
LEAST_TOLERANCE = 0.01  # a point
ONE_SEED_TOLERANCE = 0.05


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        what: What it does.
        words: The command, after the Python interpreter.
        work_dir: Where it writes; none for data.
        start: Work directory whose latest checkpoint it starts from.
    """

    what: str
    words: tuple[str, ...]
    work_dir: str = ''
    start: str = ''

    def line(self) -> str:
        """The command as a shell takes it."""
        words = [*self.words, f'{PRETRAINED}=@'] if self.start else list(self.words)
        return 'python ' + shlex.join(words).replace(f"'{PRETRAINED}=@'", self._from()).replace(
            f'{PRETRAINED}=@', self._from()
        )

    def _from(self) -> str:
        return f'{PRETRAINED}="$(cat {shlex.quote(self.start + "/last_checkpoint")})"' if self.start else ''


@dataclass(frozen=True)
class Expected:
    """A figure to be met.

    Attributes:
        metric: Its name.
        value: The mean over the seeds.
        tolerance: How far off a single run may be.
        why: Where the tolerance comes from.
    """

    metric: str
    value: float
    tolerance: float
    why: str


def find(task: str, model: str) -> tuple[Task, Model]:
    """The task and the model of a row.

    Args:
        task: Key of a task, such as ``mini-coco`` or ``coco-mask-r-cnn-1x``.
        model: As tables name it: ``lisa-p, SelfAttention`` or ``swin-t``.

    Raises:
        UserError: The task or the operator is unknown.
    """
    known = {one.key: one for one in MINI_TASKS + REAL_TASKS}
    if task not in known:
        raise UserError(f'task {task!r} is unknown{nearest(task, known)}; there are {", ".join(known)}')
    name, _, attention = (part.strip() for part in model.partition(','))
    attention_options(attention)
    return known[task], Model(name, attention)


def sequence(task: Task, model: Model, seed: int, root: Path, gpus: int = 1) -> list[Step]:
    """The commands that make a row, from data to figure.

    Args:
        task: The task.
        model: The model.
        seed: The seed.
        root: The checkout.
        gpus: GPUs of the machine, for tasks on real data.

    Raises:
        UserError: The model has no config for the task.
    """
    config = task.config_of(model.name)
    if not (root / config).is_file():
        raise UserError(f'{model.name} has no config for {task.name}: there is no {config}')
    first = next((one for one in MINI_TASKS + REAL_TASKS if one.name == (task.initial or _pretraining(task))), None)
    if first and not (root / first.config_of(model.name)).is_file():
        first = None  # its weights come from its authors; the config says from where
    steps = [_data(one) for one in (first, task) if one]
    options = attention_options(model.attention)
    start = ''
    if first:
        start = _work_dir(first, model, seed)
        more = [*options, *first.options]
        steps.append(_command('train', first, model, seed, more, gpus, what=f'pretrain on {first.name}'))
    options = [*options, *task.options]
    steps.append(_command('train', task, model, seed, options, gpus, start, f'train on {task.name}'))
    steps.append(_command('test', task, model, seed, options, gpus, what='test'))
    return steps


def expected(records: Sequence[dict[str, Any]], task: Task, model: Model) -> list[Expected]:
    """What a run of a row is to give, from the records of it.

    The tolerance is three sample standard deviations over the seeds, at least a point; with one seed it is five points.

    Args:
        records: All records.
        task: The task.
        model: The model.
    """
    runs = [
        one for one in records if (one['task'], one['model']) == (task.name, str(model)) and one['seed'] is not None
    ]
    figures = []
    for metric in runs[0]['metrics'] if runs else ():
        values = [run['metrics'][metric] for run in runs]
        if len(values) > 1:
            tolerance = max(3 * statistics.stdev(values), LEAST_TOLERANCE)
            why = f'three standard deviations over {len(values)} seeds, at least a point'
        else:
            tolerance, why = ONE_SEED_TOLERANCE, 'five points, since there is one seed alone'
        figures.append(Expected(metric, statistics.fmean(values), tolerance, why))
    return figures


def needed_hours(
    records: Sequence[dict[str, Any]],
    task: Task,
    model: Model,
    root: Path,
    iteration: float | None = None,
    gpus: int = 1,
) -> str:
    """How long the training of a row takes, as a sentence.

    Args:
        records: All records; those of the row tell what it took.
        task: The task.
        model: The model.
        root: The checkout.
        iteration: Measured seconds of an iteration, as the log of a rehearsal or of the first minutes shows them.
        gpus: GPUs that the iteration was measured on.
    """
    took = [
        one
        for one in records
        if (one['task'], one['model']) == (task.name, str(model)) and one['cost'] and one['cost']['train_seconds']
    ]
    if iteration is None:
        if not took:
            return 'how long it takes was not measured; give the seconds of an iteration with --iteration-seconds'
        mean = statistics.fmean(one['cost']['train_seconds'] for one in took)
        machine = took[0]['machine']
        return f'training took {duration(mean)} on {machine["device"]}, {machine["threads"]} threads'
    count = _iterations(task, model, root)
    hours = count * iteration / 3600
    return f'{count} iterations of {iteration:g} s take {hours:.1f} hours, {hours * gpus:.1f} GPU hours on {gpus} GPUs'


def reproduce(
    records: Sequence[dict[str, Any]],
    task: str,
    model: str,
    seed: int,
    *,
    gpus: int = 1,
    iteration: float | None = None,
    run: bool = False,
) -> int:
    """Print the commands that make a row, what to expect of them and what they take; or run them and compare.

    Args:
        records: All records.
        task: Key of the task.
        model: The model, as tables name it.
        seed: The seed.
        gpus: GPUs of the machine.
        iteration: Measured seconds of an iteration.
        run: Run the commands, in the current folder, which has to be the checkout.

    Returns:
        Exit status: 1 where a figure was missed.

    Raises:
        UserError: The row is unknown, or a command failed.
    """
    root = Path()
    found, row = find(task, model)
    steps = sequence(found, row, seed, root, gpus)
    figures = expected(records, found, row)
    print(f'# {found.name}, {row}, seed {seed}: {needed_hours(records, found, row, root, iteration, gpus)}')
    for one in figures:
        print(f'# expected: {one.metric} {100 * one.value:.1f} ± {100 * one.tolerance:.1f} ({one.why})')
    if not figures:
        print('# no run of this row is recorded, so no figure can be expected of it')
    if not run:
        print('\n'.join(step.line() for step in steps))
        return 0
    made = json.loads((run_steps(steps, root) / RECORD_FILE).read_text())
    lines = compare(made, figures)
    print('\n'.join(lines) or f'figures: {made["metrics"]}')
    return int(any(line.startswith('MISSED') for line in lines))


def run_steps(steps: Sequence[Step], root: Path) -> Path:
    """Run the commands one after the other, each with all processors; a training that is finished is not run again.

    Args:
        steps: The commands.
        root: The checkout, which has to be the current folder.

    Returns:
        The work directory of the last.

    Raises:
        UserError: One failed.
    """
    processes = Processes(threads_each(1))
    for step in steps:
        print(f'$ {step.line()}', flush=True)
        if step.work_dir and 'tools/train.py' in step.words and 'train' in _entries(root / step.work_dir):
            continue
        words = list(step.words)
        if step.start:
            words.append(f'{PRETRAINED}={(root / step.start / "last_checkpoint").read_text().strip()}')
        log = (root / step.work_dir if step.work_dir else root / 'work_dirs') / 'reproduce.txt'
        outcome = processes.run([sys.executable, *words], log)
        if outcome.status:
            raise UserError(f'`{step.line()}` failed: {outcome.sentence}')
    return root / steps[-1].work_dir


def compare(record: dict[str, Any], figures: Sequence[Expected]) -> list[str]:
    """Compare a run with what was expected.

    Returns:
        A sentence for each figure, ``met`` or ``MISSED``.
    """
    lines = []
    for one in figures:
        value = record['metrics'][one.metric]
        met = abs(value - one.value) <= one.tolerance
        lines.append(
            f'{"met" if met else "MISSED"}: {one.metric} {100 * value:.1f}, expected {100 * one.value:.1f} ± '
            f'{100 * one.tolerance:.1f} ({one.why})'
        )
    return lines


def _pretraining(task: Task) -> str:
    return '' if task.mini or task.name == 'ImageNet-1K' else 'ImageNet-1K'


def _data(task: Task) -> Step:
    if task.mini:
        words = ('tools/make_mini_data.py', task.mini, '--out', f'data/{task.data}')
        return Step(f'make {task.name.removesuffix(" one frame")}', words)
    known = {'ImageNet': 'imagenet', 'COCO': 'coco', 'ADE20K': 'ade20k', 'Kinetics': 'kinetics400'}
    kind = next((name for start, name in known.items() if task.name.startswith(start)), 'ssv2')
    return Step(f'prepare the data of {task.name}', ('tools/prepare_data.py', kind))


def _work_dir(task: Task, model: Model, seed: int) -> str:
    row = str(model).replace(', ', '_').replace(':', '_').replace(',', '_')
    return f'work_dirs/reproduce/{task.key}/{row}/seed-{seed}'


def _command(
    mode: str, task: Task, model: Model, seed: int, options: list[str], gpus: int, start: str = '', what: str = ''
) -> Step:
    work_dir = _work_dir(task, model, seed)
    words = [f'tools/{mode}.py', task.config_of(model.name), '--work-dir', work_dir, '--seed', str(seed)]
    if gpus > 1:
        words = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(gpus), *words]
        words += ['--launcher', 'pytorch']
    if mode == 'train':
        words.append('--resume')
        words += [] if task.mini else ['--auto-scale-lr']  # whatever the number of GPUs
    data = [f'data_root=data/{task.data}'] if task.mini else []
    pairs = [*data, *options]
    if pairs or start:
        words += ['--cfg-options', *pairs]
    return Step(what, tuple(words), work_dir, start)


def _iterations(task: Task, model: Model, root: Path) -> int:
    cfg = load_config(root / task.config_of(model.name))
    if 'max_iters' in cfg.train_cfg:
        return int(cfg.train_cfg.max_iters)
    name = next((name for name in TRAINING_SAMPLES if name in str(cfg.get('data_root', '')).replace('_', '')), None)
    if name is None:
        raise UserError(f'{task.name} is counted in epochs of a length that is not known; see the log of a training')
    batch = (cfg.get('auto_scale_lr') or {}).get('base_batch_size') or total_batch(cfg)
    return int(cfg.train_cfg.max_epochs) * math.ceil(TRAINING_SAMPLES[name] / batch)


def _entries(work_dir: Path) -> dict:
    try:
        return json.loads((work_dir / METRICS_FILE).read_text())
    except FileNotFoundError:
        return {}
