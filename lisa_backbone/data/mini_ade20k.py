"""Mini ADE20K: a semantic segmentation set of textured regions and handwritten digits, labelled as in the challenge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from .digits import DIGIT_NAMES, SPLITS
from .mini import MiniParams, MiniSet, encode_jpeg, fingerprint
from .scenes import (
    Ground,
    Scene,
    SceneStyle,
    draw_ground,
    draw_scene,
    mark_cover,
    paint_marks,
    paint_texture,
    render,
    scene_rng,
)
from .textures import TEXTURES

__all__ = [
    'CLASSES',
    'MINI_ADE20K',
    'MiniAde20kParams',
    'RegionScene',
    'draw_regions',
    'make_mini_ade20k',
    'render_labelled',
]

CLASSES = (*TEXTURES, *DIGIT_NAMES)  # class c has the label c + 1
_FOLDERS = {'train': 'training', 'val': 'validation'}
_LEAST_REGION = 0.12  # of the image, before digits are put on it


@dataclass(frozen=True)
class MiniAde20kParams(MiniParams):
    """All that a mini ADE20K depends on: see :class:`~lisa_backbone.data.mini.MiniParams`.

    Attributes:
        regions: How many regions the ground has, at least and at most.
    """

    train: int = 1000
    val: int = 100
    size: int = 128
    style: SceneStyle = field(
        default_factory=lambda: SceneStyle(
            count=(4, 7),
            size=(32.0, 56.0),
            stroke=(0.01, 0.03),
            lightness=(0.12, 0.25),
            contrast=(0.5, 0.65),
            colourfulness=(0.0, 0.1),
            ground_colourfulness=(0.0, 0.1),
            texture=(0.12, 0.24),
            distractors=(0, 2),
            min_visible=0.85,
        )
    )
    regions: tuple[int, int] = (2, 4)

    generator: ClassVar[int] = 3


@dataclass(frozen=True)
class RegionScene:
    """A scene whose ground is divided into regions, each of the pixels nearest to one point.

    Attributes:
        scene: The scene; its own ground is that of the first region.
        grounds: The ground of each region, no two of one texture.
        points: The (x, y) of each region's point, in pixels.
    """

    scene: Scene
    grounds: tuple[Ground, ...]
    points: tuple[tuple[float, float], ...]

    def regions(self) -> np.ndarray:
        """The number of each pixel's region, from 0 on: integer array (H, W)."""
        rows, columns = np.indices(self.scene.shape)
        return np.argmin([(columns - x) ** 2 + (rows - y) ** 2 for x, y in self.points], axis=0)


def draw_regions(rng: np.random.Generator, split: str, params: MiniAde20kParams) -> RegionScene:
    """Draw a scene with a divided ground at random.

    All regions have one mean lightness and colours of their own, so that the texture alone tells them apart.

    Args:
        rng: Source of all randomness.
        split: Whose digits to use, 'train' or 'val'.
        params: What the set is like.

    Returns:
        The scene.
    """
    lightness = rng.uniform(*params.style.lightness)
    shape = (params.size, params.size)
    scene = draw_scene(rng, shape, split, params.style, lightness=lightness)
    grounds = [scene.ground]
    for _ in range(int(rng.integers(params.regions[0], params.regions[1] + 1)) - 1):
        others = [kind for kind in TEXTURES if kind not in {ground.kind for ground in grounds}]
        grounds.append(draw_ground(rng, lightness, params.style, others))
    while True:
        points = rng.uniform(0, params.size - 1, (len(grounds), 2))
        drawn = RegionScene(scene, tuple(grounds), tuple((float(x), float(y)) for x, y in points))
        areas = np.bincount(drawn.regions().ravel(), minlength=len(grounds))
        if areas.min() >= _LEAST_REGION * math.prod(shape):
            return drawn


def render_labelled(drawn: RegionScene) -> tuple[np.ndarray, np.ndarray]:
    """A scene with a divided ground as pixels, and its labels.

    Args:
        drawn: The scene.

    Returns:
        The image, uint8 (H, W, 3), RGB; and the label map, uint8 (H, W): 1 to 5 a texture, 6 to 15 a digit, 0 for
        marks, which belong to no class.
    """
    scene, regions = drawn.scene, drawn.regions()
    ground = np.choose(regions[..., None], [paint_texture(ground, scene.shape) for ground in drawn.grounds])
    rendered = render(scene, ground=paint_marks(ground, scene.distractors))
    labels = np.array([TEXTURES.index(ground.kind) + 1 for ground in drawn.grounds], np.uint8)[regions]
    for mark in scene.distractors:
        labels[mark_cover(mark, scene.shape) > 0.5] = 0
    digits = np.array([0, *(len(TEXTURES) + 1 + sprite.label for sprite in scene.sprites)], np.uint8)
    return rendered.image, np.where(rendered.instances > 0, digits[rendered.instances], labels)


def _write(root: Path, params: MiniAde20kParams, done: Callable[[], object]) -> None:
    pixels = np.zeros(len(CLASSES) + 1, np.int64)
    images = {split: np.zeros(len(CLASSES) + 1, np.int64) for split in SPLITS}
    for split in SPLITS:
        folders = [root / kind / _FOLDERS[split] for kind in ('images', 'annotations')]
        for folder in folders:
            folder.mkdir(parents=True)
        for number in range(1, params.count(split) + 1):
            image, labels = render_labelled(draw_regions(scene_rng(params.seed, split, number), split, params))
            name = f'ADE_{split}_{number:08d}'
            (folders[0] / f'{name}.jpg').write_bytes(encode_jpeg(image))
            (folders[1] / f'{name}.png').write_bytes(cv2.imencode('.png', labels)[1].tobytes())
            counts = np.bincount(labels.ravel(), minlength=len(pixels))
            pixels += counts
            images[split] += counts > 0
            done()
    _write_classes(root / 'objectInfo150.txt', pixels, images)


def _write_classes(path: Path, pixels: np.ndarray, images: dict[str, np.ndarray]) -> None:
    """The class list in the form of the challenge's: share of all pixels, and images of each split with the class."""
    lines = ['Idx\tRatio\tTrain\tVal\tName']
    for label, name in enumerate(CLASSES, 1):
        counts = '\t'.join(str(images[split][label]) for split in SPLITS)
        lines.append(f'{label}\t{pixels[label] / pixels.sum():.4f}\t{counts}\t{name}')
    path.write_text('\n'.join(lines) + '\n')


MINI_ADE20K = MiniSet('mini ADE20K', 'semantic segmentation', MiniAde20kParams, 'image', _write, fingerprint)
make_mini_ade20k = MINI_ADE20K.make
