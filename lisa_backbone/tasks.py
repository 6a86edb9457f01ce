"""The tasks of the leaderboard: families of configs that differ by the backbone alone, and the metrics that count."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .config import load_config, nearest
from .data.mini import RECORD
from .data.mini_sets import mini_set
from .dataset_checks import check_data
from .errors import UserError
from .provenance import data_of

__all__ = [
    'MINI_CONTROLS',
    'MINI_TASKS',
    'REAL_TASKS',
    'Metric',
    'Task',
    'check_real_data',
    'choose',
    'make_data',
    'task_of',
]


@dataclass(frozen=True)
class Metric:
    """A figure that a test gives.

    Attributes:
        key: Its name in metrics.json.
        name: What tables call it.
        unit: What the test's number is multiplied by to be a share of one: 0.01 where it is in percent.
    """

    key: str
    name: str
    unit: float = 1.0


@dataclass(frozen=True)
class Task:
    """What models are trained and tested on.

    Attributes:
        name: What tables call it.
        config: The configs, relative to the checkout, ``{model}`` standing for the model.
        metrics: The metrics, the main one first.
        status: Of its records: ``'mini'`` or ``'reproduced'``.
        data: Folder of the data set below ``data/``.
        mini: Name of its generator in tools/make_mini_data.py; of mini tasks.
        initial: Name of the task whose trained weights it starts from. Of real tasks, models without a config for
            that one start from public weights.
        options: Overrides of its configs in every run of a sweep.
    """

    name: str
    config: str
    metrics: tuple[Metric, ...]
    status: str = 'reproduced'
    data: str = ''
    mini: str = ''
    initial: str = ''
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name as command lines and folders have it."""
        return self.name.lower().replace(' ', '-')

    @property
    def prepared_as(self) -> str:
        """What tools/prepare_data.py calls the data set of a real task."""
        return {'ade/ADEChallengeData2016': 'ade20k', 'sthv2': 'ssv2'}.get(self.data, self.data)

    @property
    def axes(self) -> int:
        """Axes of the grid of tokens of a LiSA backbone: 2 of images, 3 of videos."""
        return 3 if self.config.startswith('configs/action/') else 2

    def config_of(self, model: str) -> str:
        """The config of a model, relative to the checkout."""
        return self.config.format(model=model)

    def model_of(self, config: str) -> str | None:
        """The model that a config of this task is of; ``None`` for another config."""
        head, _, tail = self.config.partition('{model}')
        found = re.fullmatch(re.escape(head) + r'([\w.]+(?:-[\w.]+)*)' + re.escape(tail), config)
        return found and found[1]


def _length(unit: str, length: int, warm_up: int = 0) -> tuple[str, ...]:
    """Overrides that shorten a training: those of a sweep start from trained weights, and six models make many."""
    warmer = (f'param_scheduler.0.end={warm_up}',) if warm_up else ()
    return (f'train_cfg.{unit}={length}', f'train_cfg.val_interval={length}', *warmer)


_BOXES_AND_MASKS = (Metric('coco/bbox_mAP', 'box AP'), Metric('coco/segm_mAP', 'mask AP'))
_MIOU = (Metric('mIoU', 'mIoU', 0.01),)
_TOP1 = (Metric('acc/top1', 'top-1'),)

MINI_TASKS = (
    Task(
        'mini ImageNet',
        'configs/pretrain/{model}_mini-imagenet.py',
        (Metric('accuracy/top1', 'top-1', 0.01),),
        'mini',
        'mini_imagenet',
        'imagenet',
    ),
    Task(
        'mini COCO',
        'configs/det/mask-rcnn_{model}_fpn_mini-coco.py',
        _BOXES_AND_MASKS,
        'mini',
        'mini_coco',
        'coco',
        'mini ImageNet',
        options=_length('max_epochs', 4),
    ),
    Task(
        'mini ADE20K',
        'configs/seg/{model}_fpn_mini-ade20k-128x128.py',
        _MIOU,
        'mini',
        'mini_ade20k',
        'ade20k',
        'mini ImageNet',
        options=_length('max_iters', 600),
    ),
    Task(
        'mini Kinetics',
        'configs/action/{model}_8x2x1_mini-kinetics-rgb.py',
        _TOP1,
        'mini',
        'mini_kinetics',
        'kinetics',
        'mini ImageNet',
        options=_length('max_epochs', 5, warm_up=80),
    ),
    Task(
        'mini SSv2',
        'configs/action/{model}_u8_mini-ssv2-rgb.py',
        _TOP1,
        'mini',
        'mini_ssv2',
        'ssv2',
        'mini ImageNet',
        options=_length('max_epochs', 8, warm_up=80),
    ),
)

# Not tasks but controls, of LiSA alone. With one frame it ought to stay at chance, one in ten. Frame by frame nothing
# but the operator relates the frames: the stem of mini SSv2 takes two at a time, which is enough to see a motion.
MINI_CONTROLS = tuple(
    Task(
        f'mini SSv2 {name}',
        f'configs/action/{{model}}_{views}_mini-ssv2-rgb.py',
        _TOP1,
        'mini',
        'mini_ssv2',
        'ssv2',
        'mini ImageNet',
        options=_length('max_epochs', 8, warm_up=80),
    )
    for name, views in (('one frame', '1x1x1'), ('frame by frame', 'u8-frame-by-frame'))
)


def _real(name: str, config: str, metrics: tuple[Metric, ...], data: str) -> Task:
    return Task(name, f'configs/{config}.py', metrics, data=data, initial='ImageNet-1K')


_ADE = 'ade/ADEChallengeData2016'
REAL_TASKS = (
    Task(
        'ImageNet-1K',
        'configs/pretrain/{model}_16xb64_in1k.py',
        (Metric('accuracy/top1', 'top-1', 0.01),),
        data='imagenet',
    ),
    _real('COCO Mask R-CNN 1x', 'det/mask-rcnn_{model}_fpn_1x_coco', _BOXES_AND_MASKS, 'coco'),
    _real('COCO Mask R-CNN 3x', 'det/mask-rcnn_{model}_fpn_amp-ms-crop-3x_coco', _BOXES_AND_MASKS, 'coco'),
    _real(
        'COCO Cascade Mask R-CNN 3x',
        'det/cascade-mask-rcnn_{model}_fpn_amp-ms-crop-3x_coco',
        _BOXES_AND_MASKS,
        'coco',
    ),
    _real('COCO RetinaNet 1x', 'det/retinanet_{model}_fpn_1x_coco', _BOXES_AND_MASKS[:1], 'coco'),
    _real('ADE20K UPerNet 160k', 'seg/{model}_upernet_8xb2-160k_ade20k-512x512', _MIOU, _ADE),
    _real('ADE20K Semantic FPN 80k', 'seg/{model}_fpn_8xb2-80k_ade20k-512x512', _MIOU, _ADE),
    _real('Kinetics-400 8x8', 'action/{model}_8xb8-amp-8x8x1-30e_kinetics400-rgb', _TOP1, 'kinetics400'),
    _real('Kinetics-400 16x4', 'action/{model}_8xb8-amp-16x4x1-30e_kinetics400-rgb', _TOP1, 'kinetics400'),
    _real('Something-Something-V2', 'action/{model}_8xb8-amp-u16-30e_sthv2-rgb', _TOP1, 'sthv2'),
)


def task_of(config: str) -> tuple[Task, str] | None:
    """The task and the model that a config belongs to.

    Args:
        config: The config, relative to the checkout.

    Returns:
        Both, or ``None`` for a config of no task.
    """
    for task in MINI_TASKS + MINI_CONTROLS + REAL_TASKS:
        model = task.model_of(config)
        if model:
            return task, model
    return None


def choose(names: Sequence[str] | None) -> tuple[Task, ...]:
    """Tasks by their keys; the mini tasks by default.

    Raises:
        UserError: A key is unknown, or mini and real tasks are mixed.
    """
    known = {task.key: task for task in MINI_TASKS + MINI_CONTROLS + REAL_TASKS}
    for name in names or ():
        if name not in known:
            raise UserError(f'task {name!r} is unknown{nearest(name, known)}; there are {", ".join(known)}')
    chosen = tuple(known[name] for name in dict.fromkeys(names or ())) or MINI_TASKS
    if len({task.status for task in chosen}) > 1:
        mini = ', '.join(task.key for task in chosen if task.mini)
        raise UserError(f'--tasks mixes mini tasks ({mini}) with real ones; run them in two commands')
    return chosen


def make_data(task: Task, data: Path) -> dict:
    """Make the mini set of a task with its usual parameters, unless one of its kind is there, whatever its own.

    Args:
        task: The task.
        data: Folder of the mini sets.

    Returns:
        The record of the set, with its ``'fingerprint'``.

    Raises:
        UserError: Something else is in its place.
    """
    kind, root = mini_set(task.mini), data / task.data
    if (root / RECORD).is_file():
        with suppress(ValueError, AttributeError):  # no record: told by the maker, with the mend
            record = json.loads((root / RECORD).read_text())
            if record.get('set') == kind.name and record.get('fingerprint'):
                return record
    return kind.make(root)


def check_real_data(task: Task, config: Path, data: Path) -> dict[str, str]:
    """Look at the data set of a real task as its training will, without decoding anything.

    Args:
        task: The task.
        config: The config of a model for it.
        data: Folder of the data sets.

    Returns:
        Name and fingerprint of what is tested on, as records have them.

    Raises:
        UserError: It is missing or broken.
    """
    folder = data / task.data
    command = f'tools/prepare_data.py {task.prepared_as} --root {folder}'
    if not folder.is_dir():
        raise UserError(
            f'{task.name} has no data: there is no folder {folder}; put the set there (docs/data.md) or name the '
            f'folder above it with --data, and check it with `python {command}`'
        )
    cfg = load_config(config, {'data_root': str(folder)})
    try:
        check_data(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'), check_images='none')
    except UserError as error:
        raise UserError(f'{task.name} has no data that can be used: {error} (`python {command}` tells more)') from error
    return data_of(cfg)
