"""Global filter: a learned filter for each channel in the frequency domain (GFNet)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .correlation import offset_matrix
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention
from .spectrum import hermitian


@register_attention
class GlobalFilter(nn.Module):
    r"""A circular convolution of each channel with a kernel as large as the grid, learned as its spectrum.

    .. math::
        y = F^{-1}(K \odot F(x))

    with F the real Fourier transform over the grid and K a complex weight for each channel and frequency. There are no
    projections: channels do not mix.

    K is learned at the frequencies of a base grid. It is a function of the frequency in cycles per token, periodic with
    period one, and at the frequencies of another grid it is interpolated linearly along each axis, with
    the wrap-around from the highest to the lowest frequency. The kernel keeps its size in
    tokens and fades at about the size of the base grid.

    In a clip, K is multiplied by a factor D of the frequency in time, learned at ``base_frames`` frequencies. It is one
    at frequency zero, so that an image is a clip of one frame and a clip of equal frames is treated as the image; all
    of it is one at first, which means no exchange between frames. This factor is not in the paper.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; kept for the common signature, since nothing depends on it.
        base: Rows and columns of the base grid, an even number of columns.
        base_frames: Frames of the base grid.

    Raises:
        UserError: The number of columns is odd.
    """

    about: ClassVar[About] = About(
        source='Rao, Zhao, Zhu, Lu and Zhou, "Global Filter Networks for Image Classification", 2021, arXiv 2107.00645',
        equation='y = F^-1(K * F(x)), elementwise, K complex for each channel and frequency',
        cost='N log N',
        inflates=True,
        left_out='One base grid for every stage, where the paper sizes the filter of each stage to its grid. The '
        'factor for the frequency in time is an addition. K starts with a mean square of one, not of 0.0008: GFNet has '
        'a norm after the filter, and without it so quiet a branch would hardly be heard. That is on the base grid; '
        'interpolated to another, K is about 0.4 in the mean square. Another grid interpolates '
        'linearly, each time; the code once, bicubically, when a checkpoint changes resolution.',
        symmetry='cyclic shift',
    )

    def __init__(self, dim: int, num_heads: int, base: tuple[int, int] = (14, 14), base_frames: int = 8) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if base[1] % 2:
            raise UserError(f'base={tuple(base)} has an odd number of columns, which has no highest frequency; add one')
        self.dim = dim
        # Real and imaginary parts first, frequencies last; the half spectrum of the columns.
        self.weight = nn.Parameter(2**-0.5 * torch.randn(2, dim, base[0], base[1] // 2 + 1))
        self.base_columns = base[1]
        self.time = nn.Parameter(torch.zeros(2, dim, base_frames - 1))

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        dims = tuple(range(-len(grid), 0))
        with without_autocast(x):
            signal = at_least_float32(x).transpose(1, 2).unflatten(-1, grid)
            spectrum = torch.fft.rfftn(signal, dim=dims) * self._filter(grid)
            y = torch.fft.irfftn(spectrum, s=grid, dim=dims)
        return y.flatten(2).transpose(1, 2).to(x.dtype)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The matrix of every channel (there are no heads), (B, C, N, N)."""
        check_tokens(x, grid, self.dim)
        impulse_response = torch.fft.irfftn(self._filter(grid), s=grid, dim=tuple(range(-len(grid), 0)))
        # The matrix of a convolution is the transpose of that of a correlation.
        return offset_matrix(impulse_response, grid).transpose(-1, -2).expand(len(x), -1, -1, -1)

    def _filter(self, grid: tuple[int, ...]) -> Tensor:
        """The filter at the frequencies of the grid, (C, *grid) with the last axis halved."""
        frames, rows, columns = (1, 1, *grid)[-3:]
        parts = _at_frequencies(at_least_float32(self.weight), -2, self.weight.shape[-2], rows, rows)
        parts = _at_frequencies(parts, -1, self.base_columns, columns, columns // 2 + 1)
        time = F.pad(at_least_float32(self.time), (1, 0))
        time = _at_frequencies(time, -1, time.shape[-1], frames, frames)
        (a, b), (c, d) = parts.unsqueeze(2), time[..., None, None]
        weight = torch.complex(a + a * c - b * d, b + b * c + a * d)
        return hermitian(weight.view(self.dim, *grid[:-1], -1), grid)


def _at_frequencies(samples: Tensor, dim: int, base: int, n: int, count: int) -> Tensor:
    """Interpolate ``samples`` at the frequencies k / base of ``dim`` linearly at k / n for the first ``count`` of k."""
    position = torch.arange(count, device=samples.device) * base
    # Integer arithmetic: a frequency of the base grid is hit exactly.
    lower, part = position // n, (position % n).to(samples.dtype) / n
    # A half spectrum ends at its highest frequency, where nothing is left to interpolate.
    upper = (lower + 1) % base if samples.shape[dim] == base else (lower + 1).clamp(max=samples.shape[dim] - 1)
    shape = [1] * samples.dim()
    shape[dim] = count
    return torch.lerp(samples.index_select(dim, lower), samples.index_select(dim, upper), part.view(shape))
