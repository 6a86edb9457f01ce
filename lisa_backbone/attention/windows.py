"""Non-overlapping windows of a grid, shifted or not, that several operators share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def split_windows(x: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Cut a map into windows.

    Args:
        x: The map, (B, *grid, C).
        window: Size of the window on every axis. The grid is padded with zeros at its end to multiples of it.
        shift: By how many positions, below the window's size, the windows are moved along every axis; they wrap around
            the padded grid.

    Returns:
        (B * windows, tokens of a window, C).
    """
    axes = range(1, x.dim() - 1)
    pads = [(0, -x.shape[axis] % size) for axis, size in zip(axes, window, strict=True)]
    x = F.pad(x, [0, 0, *(width for pad in reversed(pads) for width in pad)])
    if any(shift):
        x = x.roll([-s for s in shift], list(axes))
    counts = [x.shape[axis] // size for axis, size in zip(axes, window, strict=True)]
    parts = x.reshape(x.shape[0], *(v for pair in zip(counts, window, strict=True) for v in pair), x.shape[-1])
    inner = [2 * axis for axis in axes]
    order = [0, *(axis - 1 for axis in inner), *inner, parts.dim() - 1]
    return parts.permute(order).reshape(-1, math.prod(window), x.shape[-1])


def join_windows(windows: Tensor, grid: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Put the windows of :func:`split_windows` back and drop the padding: (B, *grid, C)."""
    axes = range(1, len(grid) + 1)
    counts = [math.ceil(n / size) for n, size in zip(grid, window, strict=True)]
    parts = windows.reshape(-1, *counts, *window, windows.shape[-1])
    order = [0, *(axis + inner for axis in axes for inner in (0, len(grid))), parts.dim() - 1]
    padded = [count * size for count, size in zip(counts, window, strict=True)]
    x = parts.permute(order).reshape(-1, *padded, windows.shape[-1])
    if any(shift):
        x = x.roll(list(shift), list(axes))
    return x[(slice(None), *(slice(n) for n in grid))]


def window_mask(
    grid: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device | None = None
) -> Tensor | None:
    """Which tokens of a window may see each other.

    Those that only the wrapping of shifted windows brings together may not, nor may a real token see a padded one.
    Every token may see itself.

    Returns:
        Boolean (windows, n, n) for the n tokens of a window, or ``None`` where all may.
    """
    padded = [math.ceil(n / size) * size for n, size in zip(grid, window, strict=True)]
    if not any(shift) and padded == list(grid):
        return None
    labels = torch.zeros((), dtype=torch.long, device=device)
    for n, size, s in zip(grid, padded, shift, strict=True):
        position = torch.arange(size, device=device)
        labels = 3 * labels.unsqueeze(-1) + (position < s).long() + 2 * (position >= n).long()
    labels = split_windows(labels[None, ..., None], window, shift).squeeze(-1)
    return labels.unsqueeze(2) == labels.unsqueeze(1)
