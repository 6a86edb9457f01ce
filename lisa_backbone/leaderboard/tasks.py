"""The tasks of the leaderboard: one config, one data set and the metrics that count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import nearest
from ..data.mini import RECORD
from ..data.mini_sets import mini_set
from ..errors import UserError

__all__ = ['MINI_CONTROLS', 'MINI_TASKS', 'Metric', 'Task', 'choose', 'make_data']


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
    """What one model is trained and tested on.

    Attributes:
        name: What tables call it.
        config: The config, relative to the checkout.
        data: Folder of the data set below ``data/``.
        mini: Name of its generator in tools/make_mini_data.py.
        metrics: The metrics, the main one first.
    """

    name: str
    config: str
    data: str
    mini: str
    metrics: tuple[Metric, ...]

    @property
    def key(self) -> str:
        """The name as command lines and folders have it."""
        return self.name.lower().replace(' ', '-')


MINI_TASKS = (
    Task(
        'mini COCO',
        'configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py',
        'mini_coco',
        'coco',
        (Metric('coco/bbox_mAP', 'box AP'), Metric('coco/segm_mAP', 'mask AP')),
    ),
    Task(
        'mini ADE20K',
        'configs/seg/lisa-p_fpn_mini-ade20k-128x128.py',
        'mini_ade20k',
        'ade20k',
        (Metric('mIoU', 'mIoU', 0.01),),
    ),
    Task(
        'mini Kinetics',
        'configs/action/lisa-p_8x2x1-15e_mini-kinetics-rgb.py',
        'mini_kinetics',
        'kinetics',
        (Metric('acc/top1', 'top-1'),),
    ),
    Task(
        'mini SSv2',
        'configs/action/lisa-p_u8-30e_mini-ssv2-rgb.py',
        'mini_ssv2',
        'ssv2',
        (Metric('acc/top1', 'top-1'),),
    ),
    Task(
        'mini ImageNet',
        'configs/pretrain/lisa-p_mini-imagenet.py',
        'mini_imagenet',
        'imagenet',
        (Metric('accuracy/top1', 'top-1', 0.01),),
    ),
)

# Not a task but a control: it ought to stay at chance, one in ten.
MINI_CONTROLS = (
    Task(
        'mini SSv2 one frame',
        'configs/action/lisa-p_1x1x1_mini-ssv2-rgb.py',
        'mini_ssv2',
        'ssv2',
        (Metric('acc/top1', 'top-1'),),
    ),
)


def choose(names: Sequence[str] | None) -> tuple[Task, ...]:
    """Tasks and controls by their keys; all tasks by default.

    Raises:
        UserError: A key is unknown.
    """
    known = {task.key: task for task in MINI_TASKS + MINI_CONTROLS}
    for name in names or ():
        if name not in known:
            raise UserError(f'task {name!r} is unknown{nearest(name, known)}; there are {", ".join(known)}')
    return tuple(known[name] for name in dict.fromkeys(names)) if names else MINI_TASKS


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
        record = json.loads((root / RECORD).read_text())
        if record.get('set') == kind.name and record.get('fingerprint'):
            return record
    return kind.make(root)
