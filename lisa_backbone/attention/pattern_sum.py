"""A sum over patterns of correlations on a grid, in blocks that stay in the cache, made anew in the backward pass.

For features phi^m and psi^m of the tokens, signals x and functions r^m of the offset,

    y_i = sum_m phi^m_i sum_j r^m_{j-i} psi^m_j x_j .

Written with :func:`~lisa_backbone.attention.correlation.correlate` this makes M times as many values as x has, some as
complex numbers, and keeps them all for the backward pass. Here they are made a block of channels at a time, and
made again in the backward pass: what is kept is phi, psi, x and r.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import correlation
from .correlation import correlate, fft_sizes, spread_offsets

# Up to so many values the plain form is as fast or faster, since it computes nothing twice.
PLAIN_LIMIT = 2**22
# Values of one block, for each thread of a processor: 1 MiB in float32, so that a block and its spectrum stay in the
# second-level cache. On other devices blocks only bound the memory.
BLOCK_VALUES = 2**18
DEVICE_BLOCK_VALUES = 2**26


def sum_patterns(phi: Tensor, psi: Tensor, x: Tensor, r: Tensor, grid: tuple[int, ...], wrap: bool) -> Tensor:
    """The sum over patterns, in blocks where its values are many.

    Args:
        phi: Features of the queries, (B, H, M, N), real, float32 or float64 as all others.
        psi: Features of the keys, (B, H, M, N).
        x: Signals, (B, H, D, N).
        r: Values at the offsets of :func:`~lisa_backbone.attention.correlation.axis_offsets`, (H, M, *periods).
        grid: The grid of N positions.
        wrap: Whether ``r`` holds wrapped offsets (circular) or all of them (padded).

    Returns:
        (B, H, D, N). In blocks it can be differentiated once.
    """
    if math.prod(grid) <= correlation.MATRIX_LIMIT or x.numel() * phi.shape[2] <= PLAIN_LIMIT:
        weighted = (psi.unsqueeze(3) * x.unsqueeze(2)).unflatten(-1, grid)
        return (phi.unsqueeze(3) * correlate(weighted, r.unsqueeze(2), grid, wrap).flatten(-len(grid))).sum(dim=2)
    return _PatternSum.apply(phi, psi, x, r if wrap else spread_offsets(r, grid), grid, fft_sizes(grid, wrap))


class _PatternSum(torch.autograd.Function):
    """The sum by FFTs of ``sizes``; ``r`` is (H, M, *sizes)."""

    @staticmethod
    def forward(ctx, phi, psi, x, r, grid, sizes):
        ctx.save_for_backward(phi, psi, x, r)
        ctx.grid, ctx.sizes = grid, sizes
        dims = tuple(range(-len(grid), 0))
        kernels = torch.fft.rfftn(r, dim=dims).conj().resolve_conj()
        y = torch.empty_like(x)
        for sample, heads, channels in _blocks(phi, x, sizes):
            here = sample, heads, channels
            spectrum = _transform(psi[sample, heads, :, None] * x[here].unsqueeze(2), grid, sizes)
            spectrum *= kernels[heads, :, None]
            terms = _back(spectrum, grid, sizes)
            terms *= phi[sample, heads, :, None]
            y[here] = terms.sum(2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        phi, psi, x, r = ctx.saved_tensors
        grid, sizes = ctx.grid, ctx.sizes
        dims = tuple(range(-len(grid), 0))
        spectra = torch.fft.rfftn(r, dim=dims)
        kernels = spectra.conj().resolve_conj()
        of_phi, of_psi, of_x = torch.zeros_like(phi), torch.zeros_like(psi), torch.empty_like(x)
        of_kernels = torch.zeros_like(spectra)
        for sample, heads, channels in _blocks(phi, x, sizes):
            here = sample, heads, channels
            signal, weight = x[here].unsqueeze(2), psi[sample, heads, :, None]
            upper = gradient[here].unsqueeze(2)
            below = _transform(weight * signal, grid, sizes)
            above = _transform(phi[sample, heads, :, None] * upper, grid, sizes)
            # r's gradient at an offset is the correlation of what is above with what is below.
            of_kernels[heads] += (below * above.conj()).sum((0, 3))
            below *= kernels[heads, :, None]
            of_phi[sample, heads] += _back(below, grid, sizes).mul_(upper).sum(3)
            above *= spectra[heads, :, None]
            spread = _back(above, grid, sizes)
            of_psi[sample, heads] += (spread * signal).sum(3)
            of_x[here] = spread.mul_(weight).sum(2)
        return of_phi, of_psi, of_x, torch.fft.irfftn(of_kernels, s=sizes, dim=dims), None, None


def _transform(x: Tensor, grid: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    return torch.fft.rfftn(x.unflatten(-1, grid), s=sizes, dim=tuple(range(-len(grid), 0)))


def _back(spectrum: Tensor, grid: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    y = torch.fft.irfftn(spectrum, s=sizes, dim=tuple(range(-len(grid), 0)))
    return (y if grid == sizes else y[(..., *(slice(n) for n in grid))]).flatten(-len(grid))


def _blocks(phi: Tensor, x: Tensor, sizes: tuple[int, ...]) -> Iterator[tuple[slice | int, slice, slice]]:
    """Parts of samples, heads and channels whose values do not exceed the limit, where one channel does not."""
    (samples, heads, patterns, _), channels = phi.shape, x.shape[2]
    limit = BLOCK_VALUES * torch.get_num_threads() if x.device.type == 'cpu' else DEVICE_BLOCK_VALUES
    fit = max(limit // (patterns * math.prod(sizes)), 1)
    width = min(fit, channels)
    tall = min(max(fit // channels, 1), heads)
    deep = min(max(fit // (channels * heads), 1), samples)
    for sample in range(0, samples, deep):
        for head in range(0, heads, tall):
            for channel in range(0, channels, width):
                yield slice(sample, sample + deep), slice(head, head + tall), slice(channel, channel + width)
