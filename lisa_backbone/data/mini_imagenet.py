"""Mini ImageNet: an image classification set of single handwritten digits, in ImageNet's folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from .digits import DIGIT_NAMES, SPLITS
from .mini import MiniParams, MiniSet, balanced_label, encode_jpeg, fingerprint
from .scenes import Scene, SceneStyle, draw_distractor, draw_scene, render, scene_rng

__all__ = ['MINI_IMAGENET', 'SYNSETS', 'MiniImagenetParams', 'draw_image', 'make_mini_imagenet']

SYNSETS = tuple(f'n{label:08d}' for label in range(10))  # the folder of each class
_OVERLAYS = (0, 1)  # marks in front of a digit


@dataclass(frozen=True)
class MiniImagenetParams(MiniParams):
    """All that a mini ImageNet depends on: see :class:`~lisa_backbone.data.mini.MiniParams`."""

    train: int = 6000
    val: int = 500
    size: int = 64
    style: SceneStyle = field(
        default_factory=lambda: SceneStyle(
            count=(1, 1),
            size=(26.0, 52.0),
            lightness=(0.08, 0.2),
            contrast=(0.5, 0.7),
            colourfulness=(0.0, 0.1),
            ground_colourfulness=(0.0, 0.1),
            texture=(0.02, 0.1),
            distractors=(0, 1),
        )
    )

    generator: ClassVar[int] = 3


def draw_image(rng: np.random.Generator, split: str, label: int, params: MiniImagenetParams) -> Scene:
    """Draw the scene of one image at random: a digit, marks behind it, and some in front.

    Args:
        rng: Source of all randomness.
        split: Whose digits to use, 'train' or 'val'.
        label: The digit.
        params: What the set is like.

    Returns:
        The scene.
    """
    lightness = rng.uniform(*params.style.lightness)
    shape = (params.size, params.size)
    scene = draw_scene(rng, shape, split, params.style, labels=(label,), lightness=lightness)
    marks = range(rng.integers(_OVERLAYS[0], _OVERLAYS[1] + 1))
    # of the colours and forms of those behind, half as wide
    overlays = [draw_distractor(rng, shape, lightness, params.style) for _ in marks]
    return replace(scene, overlays=tuple(replace(mark, width=max(1, mark.width // 2)) for mark in overlays))


def _write(root: Path, params: MiniImagenetParams, done: Callable[[], object]) -> None:
    (root / 'meta').mkdir()
    for split in SPLITS:
        for folder in SYNSETS:
            (root / split / folder).mkdir(parents=True)
        lines = []
        for number in range(1, params.count(split) + 1):
            label = balanced_label(params.seed, split, number - 1)
            name = f'{SYNSETS[label]}_{number}' if split == 'train' else f'ILSVRC2012_val_{number:08d}'
            path = f'{SYNSETS[label]}/{name}.JPEG'
            image = render(draw_image(scene_rng(params.seed, split, number), split, label, params)).image
            (root / split / path).write_bytes(encode_jpeg(image))
            lines.append(f'{path} {label}\n')
            done()
        (root / 'meta' / f'{split}.txt').write_text(''.join(lines))
    names = (f'{folder} {name}\n' for folder, name in zip(SYNSETS, DIGIT_NAMES, strict=True))
    (root / 'LOC_synset_mapping.txt').write_text(''.join(names))


MINI_IMAGENET = MiniSet('mini ImageNet', 'image classification', MiniImagenetParams, 'image', _write, fingerprint)
make_mini_imagenet = MINI_IMAGENET.make
