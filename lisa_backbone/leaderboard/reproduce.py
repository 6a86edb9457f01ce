"""How to make a row of the leaderboard again: the commands from data to figure, what to expect, and what it takes."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import quiet
from ..collect import METRICS_FILE, RECORD_FILE, attention_of
from ..config import load_config, nearest, parse_options
from ..data.mini_sets import mini_set
from ..errors import UserError
from ..jobs import Processes, duration, threads_each
from ..provenance import code_state, commit_words, config_of
from ..records import MEASURED
from ..tasks import MINI_CONTROLS, MINI_TASKS, REAL_TASKS, Task
from .lint import is_this_stack
from .models import PRETRAINED, Model, attention_options, first_of, is_local, recipe_options, weights_of
from .recipes import count_iterations, describe_batch

__all__ = [
    'Expected',
    'Step',
    'Training',
    'compare',
    'expected',
    'find',
    'needed_hours',
    'plan',
    'reproduce',
    'run_steps',
    'sequence',
]

LEAST_TOLERANCE = 0.01  # a point
ONE_SEED_TOLERANCE = 0.05

# Published rows of the models that have configs, by their names there.
PUBLISHED = {
    'r50': ('ResNet-50',),
    'swin-t': ('Swin-T',),
    'convnext-t': ('ConvNeXt-T',),
    'pvtv2-b2': ('PVTv2-B2',),
    'swin-tiny': ('Video Swin-T',),
    'uniformer-small': ('UniFormer-S (h14)',),
    'tsm-r50': ('TSM-R50 (8f)',),
}
# What the published training has other than the config, where it is not the same recipe: its figure is no goal then.
OTHER_RECIPES = {
    ('COCO Mask R-CNN 1x', 'r50'): 'SGD, with frozen norms and first stage',
    ('COCO Mask R-CNN 1x', 'pvtv2-b2'): 'AdamW at 2e-4 with weight decay 1e-4',
    ('ADE20K UPerNet 160k', 'r50'): 'SGD at 0.01',
    ('ADE20K UPerNet 160k', 'convnext-t'): 'AdamW at 1e-4 with a rate that decays from layer to layer',
    **{
        (task, model): 'other frames, views, augmentation and schedule'
        for task in ('Kinetics-400 8x8', 'Kinetics-400 16x4', 'Something-Something-V2')
        for model in ('swin-tiny', 'uniformer-small', 'tsm-r50')
    },
}


@dataclass(frozen=True)
class Training:
    """One training of a row: the last, which is tested, or that of the weights from which it starts.

    Attributes:
        task: What it is trained on.
        model: The model.
        seed: Seed of everything random.
        config: The config, relative to the checkout.
        options: Overrides that are part of the setting, in training and testing.
        weights: Overrides that name the weights to start from, which are for training alone.
        processes: Processes that train.
        digest: SHA-256 of the setting, of what it starts from as well.
        record: The record of it, where there is one.
    """

    task: Task
    model: Model
    seed: int
    config: str
    options: tuple[str, ...]
    weights: tuple[str, ...]
    processes: int
    digest: str
    record: dict[str, Any] | None = None

    @property
    def work_dir(self) -> str:
        """Where it writes: a folder for each setting, so that none is taken for another."""
        row = re.sub(r'[^\w.=-]+', '_', str(self.model))
        return f'work_dirs/reproduce/{self.task.key}/{row}/{self.digest[:8]}-{self.seed}'


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        what: What it does.
        words: The command, after the Python interpreter.
        work_dir: Where it writes; none for data.
        start: Work directory whose best checkpoint it starts from.
        processes: Processes that it runs in.
    """

    what: str
    words: tuple[str, ...]
    work_dir: str = ''
    start: str = ''
    processes: int = 1

    def line(self) -> str:
        """The command as a shell takes it."""
        line = 'python ' + shlex.join(self.words)
        return (
            f'{line} {PRETRAINED}="$(ls -t {shlex.quote(self.start)}/best_*.pth | head -n 1)"' if self.start else line
        )


@dataclass(frozen=True)
class Expected:
    """A figure to be met.

    Attributes:
        metric: Its name.
        value: The mean over the seeds, or the published figure.
        tolerance: How far off a single run may be; ``None`` where the figure is of another recipe and no goal.
        why: Where the figure and its tolerance come from.
    """

    metric: str
    value: float
    tolerance: float | None
    why: str

    def __str__(self) -> str:
        if self.tolerance is None:
            return f'{self.metric} {100 * self.value:.1f} ({self.why})'
        return f'{self.metric} {100 * self.value:.1f} ± {100 * self.tolerance:.1f} ({self.why})'


def find(task: str, model: str, root: Path) -> tuple[Task, Model]:
    """The task and the model of a row.

    Args:
        task: Key of a task, such as ``mini-coco`` or ``coco-mask-r-cnn-1x``.
        model: As tables name it: ``lisa-p, SelfAttention`` or ``swin-t``; a LiSA backbone without an operator has that
            of its config.
        root: The checkout.

    Raises:
        UserError: The task or the operator is unknown, or the model has no config for the task or takes no operator.
    """
    known = {one.key: one for one in MINI_TASKS + MINI_CONTROLS + REAL_TASKS}
    if task not in known:
        raise UserError(f'task {task!r} is unknown{nearest(task, known)}; there are {", ".join(known)}')
    found = known[task]
    name, _, attention = (part.strip() for part in model.partition(','))
    attention_options(attention)
    config = found.config_of(name)
    if not (root / config).is_file():
        raise UserError(f'{name} has no config for {found.name}: there is no {config}')
    own = attention_of(load_config(root / config).model.backbone)
    if attention and own is None:
        raise UserError(f'{name} takes no operator; leave {attention!r} out')
    return found, Model(name, attention or own or '')


def plan(
    task: Task, model: Model, seed: int, root: Path, gpus: int | None = None, records: Sequence[dict[str, Any]] = ()
) -> list[Training]:
    """The trainings that make a row: with the overrides of its record where there is one, else those of a sweep.

    Args:
        task: The task.
        model: The model.
        seed: The seed.
        root: The checkout.
        gpus: Processes, each on a GPU where there are some; by default those of the record, else one.
        records: Records, among which those of the row may be.

    Returns:
        That of the weights to start from, where they are trained here, and that of the row.

    Raises:
        UserError: The row cannot be made as it was recorded: its config is another now, it had another number of
            processes, or what it started from is not known.
    """
    config, record = task.config_of(model.name), _record_of(records, task, model, seed)
    first = first_of(task, model, root)
    if record is None:
        if task.mini and gpus not in (None, 1):
            raise UserError(f'--gpus {gpus} would train {task.name} with {gpus} times its batch; leave it out')
        processes = gpus or 1
        options = recipe_options(task, model, root, processes)
        weights = [pair for pair in weights_of(task, model, root) if is_local(pair)]
    else:
        processes = record['machine']['processes']
        if gpus not in (None, processes):
            raise UserError(
                f'--gpus {gpus}: {task.name}, {model} was recorded with {processes} processes, and another number is '
                f'another batch; give --gpus {processes}, or leave it out'
            )
        options = record['config']['overrides']
        _check_config(record, root)
        weights, first = _recorded_start(record, first, task, model)
    before = _first_plan(first, model, seed, root, processes, records, options, record) if first else []
    digest = config_of(str(root / config), parse_options(list(options)))['digest']
    parts = [digest, list(weights), processes, [one.digest for one in before]]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    own = Training(task, model, seed, config, tuple(options), tuple(weights), processes, digest, record)
    return [*before, own]


def sequence(trainings: Sequence[Training]) -> list[Step]:
    """The commands that make a row, from data to figure.

    Args:
        trainings: What :func:`plan` gave.
    """
    steps = list(dict.fromkeys(_data(one.task) for one in trainings))
    start = ''
    for one in trainings:
        steps.append(_command('train', one, start))
        start = one.work_dir
    return [*steps, _command('test', trainings[-1])]


def expected(records: Sequence[dict[str, Any]], task: Task, model: Model) -> list[Expected]:
    """What a run of a row is to give: the figures of its records, else those that were published.

    The tolerance is three sample standard deviations over the seeds, at least a point; with one seed it is five points.
    A published figure has a tolerance of a point, if the config has the recipe by which it was made.

    Args:
        records: All records.
        task: The task.
        model: The model.
    """
    runs = _runs(records, task, model)
    figures = []
    for metric in runs[0]['metrics'] if runs else ():
        values = [run['metrics'][metric] for run in runs]
        if len(values) > 1:
            tolerance = max(3 * statistics.stdev(values), LEAST_TOLERANCE)
            why = f'three standard deviations over {len(values)} seeds, at least a point'
        else:
            tolerance, why = ONE_SEED_TOLERANCE, 'five points, since there is one seed alone'
        figures.append(Expected(metric, statistics.fmean(values), tolerance, why))
    return figures or _published(records, task, model)


def needed_hours(trainings: Sequence[Training], root: Path, iterations: Sequence[float] | None = None) -> str:
    """How long the trainings of a row take, as a sentence.

    Args:
        trainings: What :func:`plan` gave.
        root: The checkout.
        iterations: Measured seconds of an iteration of each training, as the log of its first minutes shows them, on
            as many processes.

    Raises:
        UserError: There are not as many seconds as trainings, or the length of one is not known.
    """
    names = ' and '.join(f'that on {one.task.name}' for one in trainings)
    if iterations is None:
        costs = [one.record['cost']['train_seconds'] if one.record else None for one in trainings]
        if None in costs:
            return f'how long it takes was not measured; give --iteration-seconds for {names}'
        machine = trainings[-1].record['machine']
        count = f', {machine["processes"]} processes' if machine['processes'] > 1 else ''
        several = f', that of the weights to start from {duration(costs[0])} of it,' if len(costs) > 1 else ''
        return (
            f'training took {duration(sum(costs))}{several} on {machine["device"]}{count}, {machine["threads"]} threads'
        )
    if len(iterations) != len(trainings):
        raise UserError(
            f'--iteration-seconds has {len(iterations)} numbers and the row {len(trainings)} trainings; give the '
            f'seconds of an iteration of {names}, in this order'
        )
    parts, total = [], 0.0
    for one, seconds in zip(trainings, iterations, strict=True):
        cfg = load_config(root / one.config, parse_options(list(one.options)))
        count = count_iterations(cfg, one.processes)
        total += count * seconds / 3600
        parts.append(f'{count} iterations of {seconds:g} s on {one.task.name}')
    processes = trainings[-1].processes
    verb = 'take' if len(parts) == 1 else 'together take'
    return f'{" and ".join(parts)} {verb} {total:.1f} hours, {total * processes:.1f} GPU hours on {processes} GPUs'


def reproduce(
    records: Sequence[dict[str, Any]],
    task: str,
    model: str,
    seed: int,
    *,
    gpus: int | None = None,
    iterations: Sequence[float] | None = None,
    run: bool = False,
) -> int:
    """Print the commands that make a row, what to expect of them and what they take; or run them and compare.

    Args:
        records: All records.
        task: Key of the task.
        model: The model, as tables name it.
        seed: The seed.
        gpus: Processes, each on a GPU of this machine where it has some.
        iterations: Measured seconds of an iteration of each training.
        run: Run the commands, in the current folder, which has to be the checkout.

    Returns:
        Exit status: 1 where a figure was missed.

    Raises:
        UserError: The row is unknown or cannot be made as it was, or a command failed.
    """
    if seed < 0 or (gpus is not None and gpus < 1):
        raise UserError(f'--seed {seed} must not be negative, and --gpus {gpus} be positive, where it is given')
    if any(not 0 < seconds < math.inf for seconds in iterations or ()):
        raise UserError('--iteration-seconds must be positive, for each training')
    root = Path()
    with quiet():  # frameworks warn of each other's scopes
        found, row = find(task, model, root)
        trainings = plan(found, row, seed, root, gpus, records)
        hours = needed_hours(trainings, root, iterations)
        batches = [
            describe_batch(load_config(root / one.config, parse_options(list(one.options))), one.processes)
            for one in trainings
        ]
    steps = sequence(trainings)
    figures = expected(records, found, row)
    print(f'# {found.name}, {row}, seed {seed}: {hours}')
    for one, words in zip(trainings, batches, strict=True):
        print(f'# {one.task.name}: {words}')
    for one in figures:
        print(f'# {"expected" if one.tolerance is not None else "no goal, but for comparison"}: {one}')
    if not figures:
        print('# no run of this row is recorded or published, so no figure can be expected of it')
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
        The work directory of the last, with the record that its test has just written.

    Raises:
        UserError: One failed, or the test wrote no record.
    """
    processes = Processes(threads_each(max(step.processes for step in steps)))
    written = _written(root / steps[-1].work_dir)
    for step in steps:
        print(f'$ {step.line()}', flush=True)
        if step.work_dir and 'tools/train.py' in step.words and 'train' in _entries(root / step.work_dir):
            code = _entries(root / step.work_dir)['train'].get('code')
            by = commit_words(code) if code else 'unknown'
            print(f'made before, by commit {by} (now {commit_words(code_state())})', flush=True)
            continue
        words = list(step.words)
        if step.start:
            words.append(f'{PRETRAINED}={_entries(root / step.start)["train"]["checkpoint"]}')
        log = (root / step.work_dir if step.work_dir else root / 'work_dirs') / 'reproduce.txt'
        outcome = processes.run([sys.executable, *words], log)
        if outcome.status:
            raise UserError(f'`{step.line()}` failed: {outcome.sentence}')
    if _written(root / steps[-1].work_dir) == written:
        raise UserError(f'`{steps[-1].line()}` wrote no {RECORD_FILE}; {log} says why')
    return root / steps[-1].work_dir


def compare(record: dict[str, Any], figures: Sequence[Expected]) -> list[str]:
    """Compare a run with what was expected.

    Returns:
        A sentence for each figure: ``met`` or ``MISSED``, or neither for one that is no goal.
    """
    lines = []
    for one in figures:
        value = record['metrics'][one.metric]
        if one.tolerance is None:
            lines.append(f'{one.metric} {100 * value:.1f}, beside {one}')
        else:
            met = abs(value - one.value) <= one.tolerance
            lines.append(f'{"met" if met else "MISSED"}: {one.metric} {100 * value:.1f}, expected {_figure(one)}')
    return lines


def _figure(one: Expected) -> str:
    return str(one).removeprefix(f'{one.metric} ')


def _runs(records: Sequence[dict[str, Any]], task: Task, model: Model) -> list[dict[str, Any]]:
    """The measured records of a row."""
    found = [one for one in records if (one['task'], one['model']) == (task.name, str(model))]
    return [one for one in found if one['status'] in MEASURED]


def _record_of(records: Sequence[dict[str, Any]], task: Task, model: Model, seed: int) -> dict[str, Any] | None:
    """The record of a run, or of another seed of its row."""
    runs = _runs(records, task, model)
    if len({(one['config']['digest'], one['machine']['processes']) for one in runs}) > 1:
        raise UserError(
            f'the records of {task.name}, {model} have several configs or numbers of processes; name the file of one '
            f'of them with --results'
        )
    return next((one for one in runs if one['seed'] == seed), runs[0] if runs else None)


def _check_config(record: dict[str, Any], root: Path) -> None:
    """Stop where a record is of another config than the checkout has now; tell where other frameworks may be why."""
    config = record['config']
    now = config_of(str(root / config['file']), parse_options(list(config['overrides'])))['digest']
    if now == config['digest']:
        return
    what = (
        f'{record["task"]}, {record["model"]} was recorded with another {config["file"]} (digest {config["digest"][:8]}'
    )
    if is_this_stack(record['versions']):
        raise UserError(
            f'{what}, now {now[:8]}); check out commit {record["code"]["commit"][:12]}, or leave its record out of the '
            f'files of --results'
        )
    words = 'other versions of the frameworks are installed, of which its bases are'
    print(f'warning: {what}, now {now[:8]}): {words}', file=sys.stderr)


def _recorded_start(
    record: dict[str, Any], first: Task | None, task: Task, model: Model
) -> tuple[list[str], Task | None]:
    """What a recorded run started from: overrides that name public weights, or the task that they are trained on."""
    named = [one['file'] for one in record['weights']['initial']]
    if not named or any(pair.startswith('model.backbone.pretrained=') for pair in record['config']['overrides']):
        return [], None
    if '://' in named[0]:
        return [f'{PRETRAINED}={named[0]}'], None
    if first is None:
        raise UserError(
            f'{task.name}, {model} started from {named[0]} (SHA-256 {record["weights"]["initial"][0]["sha256"][:12]}), '
            f'which no config of this checkout makes; train from that file with tools/train.py'
        )
    return [], first


def _first_plan(
    first: Task,
    model: Model,
    seed: int,
    root: Path,
    processes: int,
    records: Sequence[dict[str, Any]],
    options: Sequence[str],
    record: dict[str, Any] | None,
) -> list[Training]:
    """The training of the weights that a row starts from."""
    if record and _record_of(records, first, model, seed) is None:
        task = next(one for one in MINI_TASKS + MINI_CONTROLS + REAL_TASKS if one.name == record['task'])
        usual = parse_options(recipe_options(task, model, root, processes))
        if parse_options(list(options)) != usual:
            raise UserError(
                f'{task.name}, {model} was recorded with overrides of its own, and there is no record of the training '
                f'on {first.name} that it starts from; name a file that has both with --results'
            )
    return plan(first, model, seed, root, processes, records)


def _published(records: Sequence[dict[str, Any]], task: Task, model: Model) -> list[Expected]:
    """The published figures of a row; of several, those of the same recipe, else of the protocol with fewest words."""
    names = PUBLISHED.get(model.name, ())
    kind = task.name.rpartition(' ')[0] if task.name.startswith('Kinetics') else task.name
    found = [one for one in records if one['status'] == 'published' and one['task'] == kind and one['model'] in names]
    if not found:
        return []
    # those of mmdet's config, from which ours is
    record = next((one for one in found if one['protocol'].get('training') == 'single scale, mmdet'), None)
    record = record or min(found, key=lambda one: len(one['protocol']))
    other = OTHER_RECIPES.get((task.name, model.name))
    why = f'published for {record["model"]}, {record["source"]}'
    if other:
        return [
            Expected(name, value, None, f'{why}; trained with {other}') for name, value in record['metrics'].items()
        ]
    why += '; a point, for one run'
    return [Expected(name, value, LEAST_TOLERANCE, why) for name, value in record['metrics'].items()]


def _data(task: Task) -> Step:
    if task.mini:
        words = ('tools/make_mini_data.py', task.mini, '--out', f'data/{task.data}')
        return Step(f'make {mini_set(task.mini).name}', words)
    return Step(f'check the data of {task.name}', ('tools/prepare_data.py', task.prepared_as))


def _command(mode: str, one: Training, start: str = '') -> Step:
    words = [f'tools/{mode}.py', one.config, '--work-dir', one.work_dir, '--seed', str(one.seed)]
    if one.processes > 1:
        words = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(one.processes), *words]
        words += ['--launcher', 'pytorch']
    if mode == 'train':
        words.append('--resume')
    data = [f'data_root=data/{one.task.data}'] if one.task.mini else []
    pairs = [*data, *one.options, *(one.weights if mode == 'train' else ())]
    if pairs or start:
        words += ['--cfg-options', *pairs]
    return Step(f'{mode} on {one.task.name}', tuple(words), one.work_dir, start, one.processes)


def _entries(work_dir: Path) -> dict:
    try:
        return json.loads((work_dir / METRICS_FILE).read_text())
    except FileNotFoundError:
        return {}


def _written(work_dir: Path) -> int | None:
    """When a record was written."""
    path = work_dir / RECORD_FILE
    return path.stat().st_mtime_ns if path.exists() else None
