"""Correlation of a signal on a grid with a function of the offset, by FFT or by a matrix.

With ``r`` a function of the offset and ``x`` a signal on the grid, all forms compute

    (r * x)_i = sum_j r_{j-i} x_j .

``dense`` and ``padded`` take every offset -(n-1)..(n-1) of an axis of size n; ``circular`` takes the p offsets
-(p//2)..(p-1)//2 and wraps j - i into that range (a block-circulant in place of a block-Toeplitz matrix). The period p
is n, unless n has a prime factor above 13; then it is the next length that is fast. FFTs of such n take two to four
times as long, and photographs have them often: 1088 pixels at stride 32 are 2 x 17 tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UserError

FORMS = ('dense', 'padded', 'circular')


def wraps(form: str, asked: bool) -> bool:
    """Whether a form wraps the offsets: ``circular`` always, ``dense`` where it is asked to.

    Raises:
        UserError: ``padded`` is asked to.
    """
    if form == 'padded' and asked:
        raise UserError("wrap=True is for form='dense', and form='padded' takes all offsets; take form='circular'")
    return asked or form == 'circular'


# Up to so many grid positions a product with the matrix is faster than FFTs on a processor, and its MACs are few beside
# those of the layers around it.
MATRIX_LIMIT = 64


def next_fast_length(n: int) -> int:
    """Smallest 2-3-5-smooth integer that is at least ``n``: the lengths for which FFT libraries are fastest."""
    while not _is_smooth(n, (2, 3, 5)):
        n += 1
    return n


def wrapped_period(n: int) -> int:
    """Period of the wrapped offsets of an axis of ``n`` positions, a length that FFT libraries have code for.

    That is ``n`` itself if it has no prime factor above 13, else the next multiple of four without one above 7: some
    numbers between may be nearer, but take longer.
    """
    if _is_smooth(n, (2, 3, 5, 7, 11, 13)):
        return n
    n += -n % 4
    while not _is_smooth(n, (2, 3, 5, 7)):
        n += 4
    return n


def _is_smooth(n: int, primes: tuple[int, ...]) -> bool:
    for prime in primes:
        while n % prime == 0:
            n //= prime
    return n == 1


def periods(grid: tuple[int, ...], wrap: bool) -> tuple[int, ...]:
    """Numbers of offsets along each axis of a grid, as :func:`axis_offsets` gives them."""
    return tuple(wrapped_period(n) if wrap else 2 * n - 1 for n in grid)


def axis_offsets(n: int, wrap: bool, device: torch.device | None = None) -> Tensor:
    """Offsets along an axis of ``n`` positions, in the order of their FFT index (offset modulo the period).

    Args:
        n: Size of the axis.
        wrap: ``True`` for the p wrapped offsets 0, 1, .., -1 of period p = ``wrapped_period(n)``; ``False`` for all
            2n - 1 offsets 0, 1, .., n - 1, -(n - 1), .., -1 of period 2n - 1.
        device: Where to put them.

    Returns:
        Integer tensor of shape (p,) or (2n - 1,).
    """
    (period,) = periods((n,), wrap)
    index = torch.arange(period, device=device)
    return torch.where(index > (period - 1) // 2, index - period, index)


def correlate(x: Tensor, r: Tensor, grid: tuple[int, ...], wrap: bool) -> Tensor:
    """The correlation in whichever form is the faster: a matrix product on small grids, FFTs on all others.

    Args:
        x: Real signals, (..., *grid).
        r: Real values at the offsets of :func:`axis_offsets` of every axis, (..., *periods); its leading dimensions
            broadcast against those of ``x``.
        grid: The grid of N positions.
        wrap: Whether ``r`` holds wrapped offsets (circular) or all of them (padded).

    Returns:
        (..., *grid), of the dtype of ``x``.
    """
    form = correlate_by_matrix if math.prod(grid) <= MATRIX_LIMIT else correlate_by_fft
    return form(x, r, grid, wrap)


def correlate_by_matrix(x: Tensor, r: Tensor, grid: tuple[int, ...], wrap: bool) -> Tensor:
    """:func:`correlate` by the matrix of :func:`offset_matrix`, built once for all signals of an ``r``: O(N^2)."""
    y = torch.einsum('...j,...ij->...i', x.flatten(-len(grid)), offset_matrix(r, grid))
    return y.unflatten(-1, grid)


def correlate_by_fft(x: Tensor, r: Tensor, grid: tuple[int, ...], wrap: bool) -> Tensor:
    """:func:`correlate` by fast Fourier transforms: O(N log N)."""
    dims = tuple(range(-len(grid), 0))
    sizes = fft_sizes(grid, wrap)
    if not wrap:
        r = spread_offsets(r, grid)
    spectrum = torch.fft.rfftn(x, s=sizes, dim=dims) * torch.fft.rfftn(r, dim=dims).conj()
    y = torch.fft.irfftn(spectrum, s=sizes, dim=dims)
    return y[(..., *(slice(n) for n in grid))]


def offset_matrix(r: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The dense form: the matrix with entries ``r_{j-i}``.

    Args:
        r: Values at the offsets, (..., *periods); j - i is taken modulo the period of each axis.
        grid: The grid of N positions.

    Returns:
        (..., N, N), row i, column j.
    """
    index = torch.zeros((), dtype=torch.long, device=r.device)
    for n, period in zip(grid, r.shape[-len(grid) :], strict=True):
        position = torch.arange(n, device=r.device)
        axis = (position[None, :] - position[:, None]) % period
        rows, columns = index.shape if index.dim() else (1, 1)
        index = index.reshape(rows, 1, columns, 1) * period + axis[None, :, None, :]
        index = index.reshape(rows * n, columns * n)
    return r.flatten(-len(grid))[..., index]


def fft_sizes(grid: tuple[int, ...], wrap: bool) -> tuple[int, ...]:
    """Lengths of the FFTs along each axis: the periods where offsets are wrapped, else room for all of them."""
    return periods(grid, wrap) if wrap else tuple(next_fast_length(p) for p in periods(grid, wrap))


def spread_offsets(r: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Insert zeros between the non-negative and the negative offsets of each axis, up to the FFT length."""
    for axis, (n, size) in enumerate(zip(grid, fft_sizes(grid, False), strict=True), start=-len(grid)):
        gap = list(r.shape)
        gap[axis] = size - (2 * n - 1)
        positive, negative = r.narrow(axis, 0, n), r.narrow(axis, n, n - 1)
        r = torch.cat([positive, r.new_zeros(gap), negative], dim=axis)
    return r
