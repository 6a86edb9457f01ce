"""How a sum over patterns is cut up: the sizes of its transforms, and the blocks that are held at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Plan(NamedTuple):
    """The grid, and the sizes of the transforms."""

    grid: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The axes of the grid."""
        return tuple(range(-len(self.grid), 0))

    def transform(self, values: Tensor) -> Tensor:
        """Spectra (..., *sizes) of complex signals (..., 2 L), real and imaginary parts in turn."""
        return torch.fft.fftn(as_complex(values).unflatten(-1, self.grid), s=self.sizes, dim=self.dims)

    def back(self, spectrum: Tensor) -> Tensor:
        """Signals (..., 2 L) on the grid, not divided by the number of points: :meth:`spectra` has done so."""
        y = torch.fft.ifftn(spectrum, dim=self.dims, norm='forward')
        if self.grid != self.sizes:
            y = y[(..., *(slice(n) for n in self.grid))]
        return as_real(y.flatten(-len(self.grid)))

    def spectra(self, r: Tensor) -> Tensor:
        """Spectra of functions of the offset (..., *sizes), divided by the number of points."""
        return torch.fft.fftn(r, dim=self.dims, norm='forward')


def blocks(
    samples: int, heads: int, patterns: int, pairs: int, plan: Plan, limit: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Parts of the samples, heads and pairs of channels whose values do not exceed a limit, where one pair does not."""
    fit = max(limit // (2 * patterns * math.prod(plan.sizes)), 1)
    width = min(fit, pairs)
    tall = min(max(fit // pairs, 1), heads)
    deep = min(max(fit // (pairs * heads), 1), samples)
    for sample in range(0, samples, deep):
        for head in range(0, heads, tall):
            for pair in range(0, pairs, width):
                yield slice(sample, sample + deep), slice(head, head + tall), slice(pair, pair + width)


def as_real(x: Tensor) -> Tensor:
    """Complex (..., N) as real (..., 2 N)."""
    return torch.view_as_real(x).flatten(-2)


def as_complex(values: Tensor) -> Tensor:
    """The inverse of :func:`as_real`."""
    return torch.view_as_complex(values.unflatten(-1, (-1, 2)))
