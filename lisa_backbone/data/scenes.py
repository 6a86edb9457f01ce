"""Scenes of real handwritten digits on textured ground, from which every mini set of this project is made.

Two steps, kept apart so that each can be checked alone:

1. **Geometry.** :func:`draw_scene` draws a :class:`Scene` from a random generator: plain frozen data, no pixels. A
   sprite's pose may change with time, so that a still is a scene at one time and a clip is a scene at many.
2. **Rendering.** :func:`render` turns a scene, at a time, into an image and its instance map. It draws nothing at
   random: all it needs, seeds of texture and noise included, is in the scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np

from .digits import SPLITS, Glyph, digit_labels, digit_split, glyph
from .textures import TEXTURES, texture

__all__ = [
    'Distractor',
    'Ground',
    'Pose',
    'Rendered',
    'Scene',
    'SceneStyle',
    'Sprite',
    'draw_distractor',
    'draw_ground',
    'draw_scene',
    'mark_cover',
    'paint_ground',
    'paint_marks',
    'paint_texture',
    'render',
    'scene_rng',
    'sprite_alpha',
]


# ---------------------------------------------------------------------------------------------------------------------
# geometry
# ---------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SceneStyle:
    """What scenes look like: every knob of the generator. Pairs are ranges to draw from, both ends included.

    Attributes:
        count: Digits in a scene.
        size: Height of a digit's ink before rotation, in pixels; drawn log-uniformly.
        angle: Largest rotation either way, in degrees; well below 90, so that 6 and 9 stay distinct.
        shear: Largest horizontal shear either way, as a share of the height.
        aspect: Stretch of the width.
        stroke: Widening of the stroke on each side, as a share of the digit's height.
        lightness: Mean lightness of the ground, of 0..1.
        contrast: Difference in lightness between a digit and the mean of the ground, of 0..1.
        colourfulness: Saturation of digits, of 0..1.
        ground_colourfulness: Saturation of the ground, of 0..1.
        texture: Strength of the ground's texture: difference in lightness between its two colours, of 0..1.
        noise: Standard deviation of the pixel noise, of 0..1.
        blur: Standard deviation of the blur of the whole image, in pixels.
        distractors: Unlabelled strokes and blobs, all behind the digits.
        min_visible: The least share of a digit's pixels that nearer digits and the frame must leave visible.
        overhang: How far a digit's box may hang over the frame, as a share of its height.
    """

    count: tuple[int, int] = (2, 6)
    size: tuple[float, float] = (28.0, 72.0)
    angle: float = 20.0
    shear: float = 0.15
    aspect: tuple[float, float] = (0.85, 1.15)
    stroke: tuple[float, float] = (0.0, 0.025)
    lightness: tuple[float, float] = (0.2, 0.8)
    contrast: tuple[float, float] = (0.3, 0.6)
    colourfulness: tuple[float, float] = (0.2, 0.9)
    ground_colourfulness: tuple[float, float] = (0.05, 0.5)
    texture: tuple[float, float] = (0.04, 0.2)
    noise: tuple[float, float] = (0.005, 0.02)
    blur: tuple[float, float] = (0.0, 0.5)
    distractors: tuple[int, int] = (0, 4)
    min_visible: float = 0.7
    overhang: float = 0.05


@dataclass(frozen=True)
class Pose:
    """Where and how a digit is drawn.

    Attributes:
        x: Column of the ink's centre, in pixels; pixel centres are whole numbers.
        y: Row of the ink's centre.
        size: Height of the upright ink, in pixels.
        angle: Rotation in degrees, clockwise on the screen.
        shear: Horizontal shear, as a share of the height.
        aspect: Stretch of the width.
        opacity: 0 (absent) to 1.
    """

    x: float
    y: float
    size: float
    angle: float = 0.0
    shear: float = 0.0
    aspect: float = 1.0
    opacity: float = 1.0

    def matrix(self, shape: Glyph) -> np.ndarray:
        """The affine map from a glyph's field to the canvas.

        Args:
            shape: The glyph to be drawn.

        Returns:
            Array (2, 3), as OpenCV wants it, applied to (x, y, 1).
        """
        scale = self.size / shape.extent[1]
        turn = math.radians(self.angle)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        linear = scale * rotation @ np.array([[self.aspect, self.shear], [0.0, 1.0]])
        offset = np.array([self.x, self.y]) - linear @ np.array(shape.centre)
        return np.column_stack([linear, offset])

    def between(self, other: Pose, share: float) -> Pose:
        """The pose part of the way to another one.

        Args:
            other: The pose at share 1.
            share: How far, 0 to 1.

        Returns:
            The pose with every value interpolated linearly.
        """
        mine, theirs = vars(self), vars(other)
        return Pose(**{name: value + share * (theirs[name] - value) for name, value in mine.items()})


@dataclass(frozen=True)
class Sprite:
    """One digit of a scene.

    Attributes:
        sample: Index of its digit sample.
        colour: RGB of 0..1.
        pose: Its pose, at time 0 if it moves.
        end: Its pose at time 1; None if it stands still. Motion is linear in between.
        stroke: Widening of its stroke on each side, as a share of its height.
        shade: Change of its brightness from its top to its bottom.
    """

    sample: int
    colour: tuple[float, float, float]
    pose: Pose
    end: Pose | None = None
    stroke: float = 0.0
    shade: float = 0.0

    @property
    def label(self) -> int:
        """Its class, 0 to 9."""
        return int(digit_labels()[self.sample])

    def pose_at(self, time: float) -> Pose:
        """Its pose at a time of 0 to 1."""
        return self.pose if self.end is None else self.pose.between(self.end, time)


@dataclass(frozen=True)
class Ground:
    """A textured ground: two colours mixed by a procedural texture.

    Attributes:
        kind: One of :data:`~lisa_backbone.data.textures.TEXTURES`.
        low: RGB of 0..1 where the texture is 0.
        high: RGB of 0..1 where the texture is 1.
        seed: Seed of the texture.
    """

    kind: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    seed: int


@dataclass(frozen=True)
class Distractor:
    """An unlabelled mark: a stroke with round ends; a blob is a short, wide one.

    Attributes:
        points: The corners of its polyline, as (x, y).
        width: Its width, in whole pixels.
        colour: RGB of 0..1.
    """

    points: tuple[tuple[float, float], ...]
    width: int
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """All that is needed to render one image or clip.

    Attributes:
        shape: (height, width) in pixels.
        ground: What lies behind everything.
        sprites: The digits, from back to front.
        distractors: The marks between ground and digits.
        overlays: The marks in front of the digits; what they cover belongs to no digit.
        noise: Standard deviation of the pixel noise, of 0..1.
        blur: Standard deviation of the blur, in pixels.
        seed: Seed of the pixel noise.
    """

    shape: tuple[int, int]
    ground: Ground
    sprites: tuple[Sprite, ...] = ()
    distractors: tuple[Distractor, ...] = ()
    overlays: tuple[Distractor, ...] = ()
    noise: float = 0.0
    blur: float = 0.0
    seed: int = 0


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The random generator of one scene, a function of its arguments alone: scenes may be made in any order.

    Args:
        seed: Seed of the set.
        split: 'train' or 'val'.
        index: Number of the scene in its split.

    Returns:
        A fresh generator.
    """
    return np.random.default_rng([seed, SPLITS.index(split), index])


def draw_scene(
    rng: np.random.Generator,
    shape: tuple[int, int],
    split: str,
    style: SceneStyle | None = None,
    *,
    labels: Sequence[int] = range(10),
    lightness: float | None = None,
) -> Scene:
    """Draw a still scene at random.

    Digits are placed from back to front; a digit that would leave itself or an earlier one less visible than
    ``style.min_visible`` is placed anew.

    Args:
        rng: Source of all randomness.
        shape: (height, width) of the canvas in pixels.
        split: Whose digits to use, 'train' or 'val'.
        style: What the scene looks like.
        labels: The classes to draw digits of.
        lightness: Mean lightness of the ground, of 0..1; drawn by the style if None.

    Returns:
        The scene, at least ``style.count[0]`` digits in it.

    Raises:
        ValueError: If so many digits of such a size cannot be placed on the canvas.
    """
    style = style or SceneStyle()
    lightness = rng.uniform(*style.lightness) if lightness is None else lightness
    ground = draw_ground(rng, lightness, style)
    sprites = _draw_sprites(rng, shape, split, style, lightness, labels)
    marks = rng.integers(style.distractors[0], style.distractors[1] + 1)
    distractors = tuple(draw_distractor(rng, shape, lightness, style) for _ in range(marks))
    noise, blur, seed = rng.uniform(*style.noise), rng.uniform(*style.blur), int(rng.integers(2**31))
    return Scene(shape, ground, sprites, distractors, noise=noise, blur=blur, seed=seed)


def draw_ground(
    rng: np.random.Generator, lightness: float, style: SceneStyle, kinds: Sequence[str] = TEXTURES
) -> Ground:
    """Draw a ground at random.

    Args:
        rng: Source of all randomness.
        lightness: Its mean lightness, of 0..1.
        style: What it looks like.
        kinds: The textures to choose from.

    Returns:
        The ground.
    """
    kind = kinds[rng.integers(len(kinds))]
    half = rng.uniform(*style.texture) / 2
    hue, saturation = rng.uniform(), rng.uniform(*style.ground_colourfulness)
    low = _colour(hue, saturation, lightness - half)
    high = _colour(hue + rng.normal(0, 0.06), saturation, lightness + half)
    return Ground(kind, low, high, int(rng.integers(2**31)))


def _draw_sprites(
    rng: np.random.Generator,
    shape: tuple[int, int],
    split: str,
    style: SceneStyle,
    lightness: float,
    labels: Sequence[int],
) -> tuple[Sprite, ...]:
    bank = digit_split(split)
    count = int(rng.integers(style.count[0], style.count[1] + 1))
    for _ in range(20):  # a crowded canvas may need a fresh start
        layout = _Layout(np.zeros(shape, np.int32))
        for _ in range(count):
            samples = bank[labels[rng.integers(len(labels))]]
            sample = int(samples[rng.integers(len(samples))])
            colour = _draw_colour(rng, lightness, style, layout.sprites)
            stroke, shade = rng.uniform(*style.stroke), rng.uniform(-0.12, 0.12)
            for _ in range(30):
                pose = _draw_pose(rng, sample, shape, style)
                if layout.add(Sprite(sample, colour, pose, None, stroke, shade), style.min_visible):
                    break
        if len(layout.sprites) >= style.count[0]:
            return tuple(layout.sprites)
    raise ValueError(f'cannot place {style.count[0]} digits of {style.size} px on a canvas of {shape}')


@dataclass
class _Layout:
    """The sprites placed so far, their instance map, and the pixels each would have if it were alone."""

    owner: np.ndarray
    sprites: list[Sprite] = field(default_factory=list)
    full: list[int] = field(default_factory=list)

    def add(self, sprite: Sprite, min_visible: float) -> bool:
        """Put a sprite in front, if it and all others then stay visible enough."""
        alpha, (top, left) = sprite_alpha(sprite)
        inked = alpha > 0.5
        full = [*self.full, np.count_nonzero(inked)]
        owner = self.owner.copy()
        window, part = _clip(owner, inked, top, left)
        window[part] = len(full)
        visible = np.bincount(owner.ravel(), minlength=len(full) + 1)[1:]
        if (visible < min_visible * np.array(full)).any():
            return False
        self.owner, self.full = owner, full
        self.sprites.append(sprite)
        return True


def _draw_pose(rng: np.random.Generator, sample: int, shape: tuple[int, int], style: SceneStyle) -> Pose:
    size = math.exp(rng.uniform(math.log(style.size[0]), math.log(style.size[1])))
    angle = rng.uniform(-style.angle, style.angle)
    shear = rng.uniform(-style.shear, style.shear)
    aspect = rng.uniform(*style.aspect)
    pose = Pose(0.0, 0.0, size, angle, shear, aspect)
    half_width, half_height = _half_extent(pose, glyph(sample))
    slack = style.overhang * size
    y = _uniform_inside(rng, shape[0], half_height - slack)
    x = _uniform_inside(rng, shape[1], half_width - slack)
    return replace(pose, x=x, y=y)


def _half_extent(pose: Pose, shape: Glyph) -> tuple[float, float]:
    """Half the width and height of the upright box around a posed glyph's ink box."""
    linear = np.abs(pose.matrix(shape)[:, :2])
    half = linear @ np.array(shape.extent) / 2
    return float(half[0]), float(half[1])


def _uniform_inside(rng: np.random.Generator, length: int, half: float) -> float:
    low, high = half, length - 1 - half
    return rng.uniform(low, high) if low < high else (length - 1) / 2


def draw_distractor(
    rng: np.random.Generator, shape: tuple[int, int], lightness: float, style: SceneStyle
) -> Distractor:
    """Draw an unlabelled mark at random.

    Args:
        rng: Source of all randomness.
        shape: (height, width) of the canvas in pixels.
        lightness: Mean lightness of the ground, of 0..1.
        style: What the scene looks like.

    Returns:
        The mark.
    """
    # fainter than any digit, though as colourful: shape is still what tells a digit
    contrast = rng.uniform(0.4, 0.9) * style.contrast[0]
    colour = _colour(rng.uniform(), rng.uniform(*style.colourfulness), lightness + rng.choice([-1, 1]) * contrast)
    if rng.uniform() < 0.5:
        steps, length, width, bend = 2, rng.uniform(1, 12), int(rng.integers(5, 15)), 0.0
    else:  # a walk whose heading turns steadily: an arc or a hook
        steps, length, width, bend = 12, rng.uniform(20, 60), int(rng.integers(2, 5)), rng.uniform(-0.25, 0.25)
    heading = rng.uniform(0, 2 * math.pi) + bend * np.arange(steps)
    start = rng.uniform(0, 1, 2) * np.array(shape[::-1])
    path = start + length / steps * np.cumsum(np.column_stack([np.cos(heading), np.sin(heading)]), axis=0)
    return Distractor(tuple((float(x), float(y)) for x, y in path), width, colour)


def _draw_colour(
    rng: np.random.Generator, lightness: float, style: SceneStyle, others: list[Sprite]
) -> tuple[float, float, float]:
    """A digit's colour: of the asked contrast to the ground and, of three, the one least like the other digits'."""
    drawn = []
    for _ in range(3):
        contrast = rng.uniform(*style.contrast)
        sides = [side for side in (-1, 1) if 0.05 <= lightness + side * contrast <= 0.95]
        side = sides[rng.integers(len(sides))] if sides else (1 if lightness < 0.5 else -1)
        drawn.append(_colour(rng.uniform(), rng.uniform(*style.colourfulness), lightness + side * contrast))
    return max(drawn, key=lambda colour: min((math.dist(colour, other.colour) for other in others), default=0))


def _colour(hue: float, saturation: float, lightness: float) -> tuple[float, float, float]:
    """A colour of given hue (a share of the circle) and lightness, as vivid as asked and as the range allows.

    Lightness is Rec. 601 luma. A vivid colour of the hue is moved along the line to the grey of that lightness until
    it fits into 0..1.
    """
    lightness = min(max(lightness, 0.02), 0.98)
    phase = 6 * (hue % 1.0) - np.array([0.0, 2.0, 4.0])
    pure = np.clip(2 - np.abs((phase + 3) % 6 - 3), 0, 1)
    away = pure - pure @ np.array([0.299, 0.587, 0.114])
    room = np.where(away > 0, 1 - lightness, lightness) / np.maximum(np.abs(away), 1e-6)
    red, green, blue = lightness + away * min(saturation, float(room.min()))
    return float(red), float(green), float(blue)


# ---------------------------------------------------------------------------------------------------------------------
# rendering
# ---------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rendered:
    """A scene as pixels.

    Attributes:
        image: uint8 array (H, W, 3), RGB.
        instances: int32 array (H, W): 0 on the ground, ``i + 1`` where sprite ``i`` is the nearest digit whose alpha
            exceeds one half.
    """

    image: np.ndarray
    instances: np.ndarray


def render(scene: Scene, time: float = 0.0, frame: int = 0, *, ground: np.ndarray | None = None) -> Rendered:
    """Compose a scene's sprites, from back to front, onto its ground.

    Args:
        scene: What to draw.
        time: When, of 0 to 1.
        frame: Number of the frame in a clip; pixel noise differs from frame to frame.
        ground: What lies behind the digits, float array (H, W, 3) of 0..1, left as it is; :func:`paint_ground` of the
            scene if None. The frames of a clip share one.

    Returns:
        The image and its instance map.
    """
    canvas = paint_ground(scene) if ground is None else ground.copy()
    owner = np.zeros(scene.shape, np.int32)
    for number, sprite in enumerate(scene.sprites, 1):
        alpha, (top, left) = sprite_alpha(sprite, time)
        fall = np.linspace(1 - sprite.shade, 1 + sprite.shade, len(alpha), dtype=np.float32)[:, None]
        colour = fall[..., None] * np.array(sprite.colour, np.float32)
        colour = np.broadcast_to(colour, (*alpha.shape, 3))
        window, cover, paint = _clip(canvas, alpha, top, left, colour)
        window += cover[..., None] * (paint - window)
        window, inked = _clip(owner, alpha > 0.5, top, left)
        window[inked] = number
    canvas = paint_marks(canvas, scene.overlays)
    for mark in scene.overlays:
        owner[mark_cover(mark, scene.shape) > 0.5] = 0
    if scene.blur > 0.2:
        canvas = cv2.GaussianBlur(canvas, (0, 0), scene.blur)
    if scene.noise > 0:
        rng = np.random.default_rng([scene.seed, frame])
        canvas = canvas + scene.noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    image = np.clip(np.rint(255 * canvas), 0, 255).astype(np.uint8)
    return Rendered(image, owner)


@lru_cache(maxsize=64)  # most digits of a clip stand still
def sprite_alpha(sprite: Sprite, time: float = 0.0) -> tuple[np.ndarray, tuple[int, int]]:
    """The coverage of a sprite, on the smallest window that holds it.

    Args:
        sprite: The digit.
        time: When, of 0 to 1.

    Returns:
        Float array (h, w) of 0..1, and the (top, left) of the window on the canvas; the window may hang over it.
    """
    shape, pose = glyph(sprite.sample), sprite.pose_at(time)
    half_width, half_height = (half + sprite.stroke * pose.size + 2 for half in _half_extent(pose, shape))
    left, top = math.floor(pose.x - half_width), math.floor(pose.y - half_height)
    right, bottom = math.ceil(pose.x + half_width), math.ceil(pose.y + half_height)
    matrix = pose.matrix(shape)
    matrix[:, 2] -= (left, top)
    scale = pose.size / shape.extent[1]
    distance = cv2.warpAffine(
        shape.distance,
        matrix,
        (right - left + 1, bottom - top + 1),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=-1e3,
    )
    # distance in canvas pixels: an edge is one pixel wide, whatever the scale
    alpha = np.clip(0.5 + scale * distance + sprite.stroke * pose.size, 0, 1)
    alpha *= pose.opacity
    alpha.setflags(write=False)  # it is shared by every caller
    return alpha, (top, left)


def _clip(canvas: np.ndarray, alpha: np.ndarray, top: int, left: int, *more: np.ndarray) -> tuple[np.ndarray, ...]:
    """The part of a canvas under a window, and the window's arrays cut to that part (all views)."""
    y0, x0 = max(top, 0), max(left, 0)
    y1 = max(y0, min(top + alpha.shape[0], canvas.shape[0]))
    x1 = max(x0, min(left + alpha.shape[1], canvas.shape[1]))
    inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    return canvas[y0:y1, x0:x1], alpha[inner], *(array[inner] for array in more)


def paint_ground(scene: Scene) -> np.ndarray:
    """A scene's ground and the marks behind its digits.

    Args:
        scene: The scene.

    Returns:
        float32 array (H, W, 3) of 0..1, RGB.
    """
    return paint_marks(paint_texture(scene.ground, scene.shape), scene.distractors)


def paint_texture(ground: Ground, shape: tuple[int, int]) -> np.ndarray:
    """A ground without anything on it.

    Args:
        ground: The ground.
        shape: (height, width) of the canvas in pixels.

    Returns:
        float32 array (H, W, 3) of 0..1, RGB.
    """
    mix = texture(ground.kind, shape, ground.seed)[..., None]
    return (1 - mix) * np.array(ground.low, np.float32) + mix * np.array(ground.high, np.float32)


def paint_marks(canvas: np.ndarray, marks: Sequence[Distractor]) -> np.ndarray:
    """A canvas with marks on it.

    Args:
        canvas: float32 array (H, W, 3) of 0..1, left as it is.
        marks: The marks, from back to front.

    Returns:
        Array of the same shape.
    """
    for mark in marks:
        cover = mark_cover(mark, canvas.shape[:2])[..., None]
        canvas = canvas + cover * (np.array(mark.colour, np.float32) - canvas)
    return canvas


def mark_cover(mark: Distractor, shape: tuple[int, int]) -> np.ndarray:
    """How much a mark covers each pixel.

    Args:
        mark: The mark.
        shape: (height, width) of the canvas in pixels.

    Returns:
        float32 array (H, W) of 0..1.
    """
    cover = np.zeros(shape, np.uint8)
    fine = np.rint(np.array(mark.points) * 16).astype(np.int32)  # four fractional bits
    cv2.polylines(cover, [fine], False, 255, mark.width, cv2.LINE_AA, 4)
    return cover.astype(np.float32) / 255
