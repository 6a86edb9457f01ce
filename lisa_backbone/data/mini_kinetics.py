"""Mini Kinetics: an action recognition set of clips in which a handwritten digit moves; which digit is the class.

Appearance decides: every digit moves in every way.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from .digits import DIGIT_NAMES, SPLITS
from .mini import MiniSet, MiniVideoParams, balanced_label, fingerprint
from .prepare import prepare_kinetics
from .scenes import Scene, SceneStyle, draw_scene, paint_ground, render, scene_rng
from .video import encode_clip

__all__ = ['MINI_KINETICS', 'MiniKineticsParams', 'draw_moving', 'make_mini_kinetics']

_ANNOTATIONS = {'train': 'train', 'val': 'validate'}  # how Kinetics calls its splits
_HEADER = ('label', 'youtube_id', 'time_start', 'time_end', 'split')


@dataclass(frozen=True)
class MiniKineticsParams(MiniVideoParams):
    """All that a mini Kinetics depends on: see :class:`~lisa_backbone.data.mini.MiniVideoParams`.

    Attributes:
        way: The way that a digit goes, as a share of the side of the frame, at least and at most.
        growth: The most that a digit grows or shrinks.
        turn: The most that a digit turns either way, in degrees.
    """

    train: int = 1000
    val: int = 200
    size: int = 64
    style: SceneStyle = field(
        default_factory=lambda: SceneStyle(
            count=(1, 1),
            size=(24.0, 40.0),
            angle=15.0,
            stroke=(0.0, 0.03),
            lightness=(0.08, 0.2),
            contrast=(0.5, 0.7),
            colourfulness=(0.0, 0.1),
            ground_colourfulness=(0.0, 0.1),
            texture=(0.02, 0.1),
            distractors=(0, 2),
        )
    )
    way: tuple[float, float] = (0.2, 0.5)
    growth: float = 1.25
    turn: float = 15.0

    generator: ClassVar[int] = 3


def draw_moving(rng: np.random.Generator, split: str, label: int, params: MiniKineticsParams) -> Scene:
    """Draw the scene of one clip at random: a digit that moves in any direction, grows or shrinks and turns a little.

    Args:
        rng: Source of all randomness.
        split: Whose digits to use, 'train' or 'val'.
        label: The digit.
        params: What the set is like.

    Returns:
        The scene.
    """
    scene = draw_scene(rng, (params.size, params.size), split, params.style, labels=(label,))
    (sprite,) = scene.sprites
    start = sprite.pose
    while True:  # until it ends about as far inside the frame as digits begin
        heading, way = rng.uniform(0, 2 * math.pi), rng.uniform(*params.way) * params.size
        end = replace(
            start,
            x=start.x + way * math.cos(heading),
            y=start.y + way * math.sin(heading),
            size=start.size * params.growth ** rng.uniform(-1, 1),
            angle=start.angle + rng.uniform(-params.turn, params.turn),
        )
        margin = 0.4 * end.size
        if all(margin <= centre <= params.size - 1 - margin for centre in (end.x, end.y)):
            return replace(scene, sprites=(replace(sprite, end=end),))


def _write(root: Path, params: MiniKineticsParams, done: Callable[[], object]) -> None:
    (root / 'annotations').mkdir()
    seconds = math.ceil(params.frames / params.rate)
    for split in SPLITS:
        rows = []
        for name in DIGIT_NAMES:
            (root / f'videos_{split}' / name).mkdir(parents=True)
        for number in range(1, params.count(split) + 1):
            label = balanced_label(params.seed, split, number - 1)
            rng = scene_rng(params.seed, split, number)
            scene = draw_moving(rng, split, label, params)
            identity, start = _youtube_id(params.seed, split, number), int(rng.integers(300))
            name = f'{DIGIT_NAMES[label]}/{identity}_{start:06d}_{start + seconds:06d}.mp4'
            ground = paint_ground(scene)
            frames = (render(scene, t, frame, ground=ground).image for frame, t in enumerate(params.times()))
            encode_clip(root / f'videos_{split}' / name, frames, params.rate)
            rows.append((DIGIT_NAMES[label], identity, start, start + seconds, _ANNOTATIONS[split]))
            done()
        with (root / 'annotations' / f'{_ANNOTATIONS[split]}.csv').open('w', newline='') as file:
            csv.writer(file, lineterminator='\n').writerows([_HEADER, *rows])
    prepare_kinetics(root, check='none', show=False)  # the videos are read for the fingerprint


def _youtube_id(seed: int, split: str, number: int) -> str:
    """Eleven characters of YouTube's alphabet, '-' and '_' among them."""
    digest = hashlib.sha256(f'{seed} {split} {number}'.encode()).digest()
    return base64.urlsafe_b64encode(digest)[:11].decode()


MINI_KINETICS = MiniSet(
    'mini Kinetics',
    'action recognition: which digit moves',
    MiniKineticsParams,
    'clip',
    _write,
    fingerprint,
    (*MiniSet.libraries, 'av'),
)
make_mini_kinetics = MINI_KINETICS.make
