"""Procedural textures for the ground of scenes."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy.spatial import cKDTree

__all__ = ['TEXTURES', 'texture']

TEXTURES = ('gradient', 'noise', 'stripes', 'checks', 'cells')


def texture(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """A procedural texture.

    Args:
        kind: One of :data:`TEXTURES`: a smooth 'gradient', band-limited 'noise', sinusoidal 'stripes', 'checks'
            or 'cells' (patches of one value each, bounded by straight lines).
        shape: (height, width) in pixels.
        seed: What sets one texture of a kind apart from another.

    Returns:
        float32 array of that shape, values of 0..1.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    if kind not in TEXTURES:
        raise ValueError(f'texture must be one of {TEXTURES}, not {kind!r}')
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape, np.float32)
    turn = rng.uniform(0, math.pi)
    along = math.cos(turn) * columns + math.sin(turn) * rows
    across = -math.sin(turn) * columns + math.cos(turn) * rows
    if kind == 'gradient':
        values = along
    elif kind == 'noise':
        white = rng.standard_normal(shape, dtype=np.float32)
        values = np.zeros(shape, np.float32)
        for sigma in rng.uniform(1.0, 10.0, 2):
            band = cv2.GaussianBlur(white, (0, 0), sigma)
            values += band / band.std()
        values = np.clip(values / 3, -1.2, 1.2)
    elif kind == 'stripes':
        bend = rng.uniform(0, 4) * np.sin(across / rng.uniform(10, 40))
        values = np.sin(2 * math.pi * (along + bend) / rng.uniform(6, 28))
    elif kind == 'checks':
        period = rng.uniform(8, 28)
        values = np.tanh(4 * np.sin(math.pi * along / period) * np.sin(math.pi * across / period))
    else:
        points = rng.uniform(0, 1, (24, 2)) * np.array(shape)
        nearest = cKDTree(points).query(np.column_stack([rows.ravel(), columns.ravel()]))[1]
        values = rng.uniform(0, 1, len(points))[nearest].reshape(shape)
        values = cv2.GaussianBlur(values.astype(np.float32), (0, 0), 0.7)
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-6)).astype(np.float32)
