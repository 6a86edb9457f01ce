"""Mini Something-Something V2: clips in which one of several digits acts; what it does is the class.

No frame tells the class. What a digit does is the running of one value, its place across, its place down, its size,
its angle or its opacity, and each such value runs in a circle: what leaves the frame on one side enters on the other,
what has grown to the full is small again, what has wholly appeared is gone and appears anew. A value that is drawn
uniformly on a circle and runs on from there at a steady pace is as uniform at any other time. So the frames of any one
time are distributed alike in all classes, and each class is another one run backwards. Where values had ends, the
first frame of what is to move right would have to lie further left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from .digits import DIGIT_NAMES, SPLITS, glyph
from .mini import MiniSet, MiniVideoParams, balanced_label, fingerprint
from .prepare import prepare_ssv2
from .scenes import Scene, SceneStyle, Sprite, draw_scene, paint_ground, render, scene_rng
from .video import encode_clip

__all__ = ['ACTIONS', 'MINI_SSV2', 'Action', 'ActionClip', 'MiniSsv2Params', 'draw_action', 'make_mini_ssv2']


class Action(NamedTuple):
    """One class.

    Attributes:
        name: Its name.
        template: Its template, with a placeholder in brackets.
        value: The value that runs.
        sign: Which way it runs.
    """

    name: str
    template: str
    value: str
    sign: int


ACTIONS = (
    Action('left', 'Moving [something] from right to left', 'x', -1),
    Action('right', 'Moving [something] from left to right', 'x', 1),
    Action('up', 'Moving [something] up', 'y', -1),
    Action('down', 'Moving [something] down', 'y', 1),
    Action('towards', 'Moving [something] towards the camera', 'size', 1),
    Action('away', 'Moving [something] away from the camera', 'size', -1),
    Action('clockwise', 'Turning [something] clockwise', 'angle', 1),
    Action('counter-clockwise', 'Turning [something] counter-clockwise', 'angle', -1),
    Action('appear', 'Making [something] appear', 'opacity', 1),
    Action('vanish', 'Making [something] vanish', 'opacity', -1),
)
VALUES = ('x', 'y', 'size', 'angle', 'opacity')
_LABELS = range(1, 10)  # of a zero one could not see it turn
_ANNOTATIONS = {'train': 'train', 'val': 'validation'}  # how the data set calls its splits


@dataclass(frozen=True)
class MiniSsv2Params(MiniVideoParams):
    """All that a mini SSv2 depends on: see :class:`~lisa_backbone.data.mini.MiniVideoParams`.

    A style's ``count`` is of the opaque digits, beside the one that is not; its ``angle`` and ``min_visible`` are of no
    effect: digits are drawn at any angle and may overlap.

    Attributes:
        pace: How far each value runs in a clip, as shares of its circle, at least and at most. The circle is the width
            or height of the frame for a place, from the least size to the largest, one turn, and from absent to opaque.
    """

    train: int = 800
    val: int = 200
    size: int = 64
    rate: int = 12
    style: SceneStyle = field(
        default_factory=lambda: SceneStyle(
            count=(1, 1),
            size=(18.0, 42.0),
            stroke=(0.01, 0.03),
            lightness=(0.08, 0.2),
            contrast=(0.5, 0.7),
            colourfulness=(0.0, 0.1),
            ground_colourfulness=(0.0, 0.1),
            texture=(0.02, 0.06),
            noise=(0.005, 0.015),
            distractors=(0, 0),
            min_visible=0.0,
        )
    )
    pace: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {
            'x': (0.4, 0.6),
            'y': (0.4, 0.6),
            'size': (0.7, 0.9),
            'angle': (0.35, 0.5),
            'opacity': (0.7, 0.9),
        }
    )

    generator: ClassVar[int] = 3


@dataclass(frozen=True)
class ActionClip:
    """All that is needed to render one clip.

    Attributes:
        scene: Ground, marks and digits, these at poses that :meth:`at` replaces.
        values: For each digit its values at time 0, each a share of its circle, as in :data:`VALUES`; all digits but
            one are opaque, at 1.
        actor: The number of the digit that acts.
        label: The index of its action in :data:`ACTIONS`.
        pace: How far the value of the action runs from time 0 to 1, as a share of its circle.
        sizes: The least and the largest height of a digit, in pixels.
    """

    scene: Scene
    values: tuple[tuple[float, ...], ...]
    actor: int
    label: int
    pace: float
    sizes: tuple[float, float]

    def values_at(self, time: float) -> np.ndarray:
        """Every digit's values at a time of 0 to 1: float array (digits, 5) of 0..1."""
        values = np.array(self.values)
        action = ACTIONS[self.label]
        running = self.actor, VALUES.index(action.value)
        values[running] = (values[running] + action.sign * self.pace * time) % 1
        return values

    def at(self, time: float) -> Scene:
        """The scene at a time of 0 to 1, with a digit over the edge of the frame drawn on both sides."""
        height, width = self.scene.shape
        least, largest = self.sizes
        sprites = []
        for sprite, (x, y, size, angle, opacity) in zip(self.scene.sprites, self.values_at(time), strict=True):
            tall = least * (largest / least) ** size
            pose = replace(sprite.pose, size=tall, angle=360 * angle, opacity=opacity)
            reach = _reach(sprite, tall)
            for row in _repeats(y * height, height, reach):
                for column in _repeats(x * width, width, reach):
                    sprites.append(replace(sprite, pose=replace(pose, x=column, y=row)))
        return replace(self.scene, sprites=tuple(sprites))


def _repeats(place: float, length: int, reach: float) -> list[float]:
    """The places at which a digit is drawn along an axis of the frame, so that it goes on at the opposite edge."""
    return [at for at in (place - length, place, place + length) if -reach <= at <= length + reach]


def _reach(sprite: Sprite, tall: float) -> float:
    """How far a digit's ink is from its centre at most, in pixels, at any angle and a height."""
    width, height = glyph(sprite.sample).extent
    stretched = width / height * sprite.pose.aspect + abs(sprite.pose.shear)
    return tall * (math.hypot(1, stretched) / 2 + sprite.stroke) + 1


def draw_action(rng: np.random.Generator, split: str, label: int, params: MiniSsv2Params) -> ActionClip:
    """Draw a clip at random.

    Beside the opaque digits, of which one acts in most classes, there is always one of any opacity, which acts in
    'appear' and 'vanish': how many digits a frame shows is no clue.

    Args:
        rng: Source of all randomness.
        split: Whose digits to use, 'train' or 'val'.
        label: The index of the action in :data:`ACTIONS`.
        params: What the set is like.

    Returns:
        The clip.
    """
    style, action = params.style, ACTIONS[label]
    count = (style.count[0] + 1, style.count[1] + 1)
    scene = draw_scene(rng, (params.size, params.size), split, replace(style, count=count), labels=_LABELS)
    values = rng.uniform(0, 1, (len(scene.sprites), len(VALUES)))
    faint = int(rng.integers(len(values)))
    opaque = [number for number in range(len(values)) if number != faint]
    values[opaque, VALUES.index('opacity')] = 1
    actor = faint if action.value == 'opacity' else opaque[rng.integers(len(opaque))]
    pace = float(rng.uniform(*params.pace[action.value]))
    return ActionClip(scene, tuple(map(tuple, values.tolist())), actor, label, pace, style.size)


def _write(root: Path, params: MiniSsv2Params, done: Callable[[], object]) -> None:
    for folder in ('annotations', 'videos'):
        (root / folder).mkdir()
    for split in SPLITS:
        rows = []
        for number in range(1, params.count(split) + 1):
            label = balanced_label(params.seed, split, number - 1)
            clip = draw_action(scene_rng(params.seed, split, number), split, label, params)
            identity = str(number if split == 'train' else params.train + number)
            ground = paint_ground(clip.scene)
            frames = (render(clip.at(t), 0.0, frame, ground=ground).image for frame, t in enumerate(params.times()))
            encode_clip(root / 'videos' / f'{identity}.webm', frames, params.rate)
            rows.append(_annotation(identity, clip))
            done()
        _annotation_file(root, _ANNOTATIONS[split]).write_text(json.dumps(rows))
    labels = {_plain(action.template): str(label) for label, action in enumerate(ACTIONS)}
    _annotation_file(root, 'labels').write_text(json.dumps(labels))
    prepare_ssv2(root, check='none', show=False)  # the videos are read for the fingerprint


def _annotation_file(root: Path, which: str) -> Path:
    return root / 'annotations' / f'something-something-v2-{which}.json'


def _annotation(identity: str, clip: ActionClip) -> dict:
    template, name = ACTIONS[clip.label].template, DIGIT_NAMES[clip.scene.sprites[clip.actor].label]
    text = template.replace('[something]', name)
    return {'id': identity, 'label': text[0].lower() + text[1:], 'template': template, 'placeholders': [name]}


def _plain(template: str) -> str:
    return template.replace('[', '').replace(']', '')


MINI_SSV2 = MiniSet(
    'mini SSv2',
    'action recognition: how a digit moves',
    MiniSsv2Params,
    'clip',
    _write,
    fingerprint,
    (*MiniSet.libraries, 'av'),
)
make_mini_ssv2 = MINI_SSV2.make
