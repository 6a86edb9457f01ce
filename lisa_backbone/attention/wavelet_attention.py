"""Multiscale wavelet attention: convolutions of wavelet coefficients (MWA)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .registry import About, check_heads, check_tokens, register_attention


@register_attention
class WaveletAttention(nn.Module):
    r"""Token mixing by a convolution of the coefficients of every scale of a wavelet transform.

    .. math::
        y = \mathrm{proj}\big(\mathrm{gelu}(D^{-1}(R * D(x)) + W x)\big)

    with D the orthonormal Haar transform of the grid over some levels and R a convolution in each of its bands (the
    three details of every level and the coarsest approximation), with one group of channels for each head. A token of
    level l covers 2^l x 2^l of the grid, so that a 3 x 3 convolution reaches over scales from 2 tokens to the last
    level's.

    An axis of odd size is padded by a copy of its last entry before each level, and cut again afterwards. A 1-D grid is
    one row.

    Args:
        dim: Number of channels.
        num_heads: Number of groups of R; must divide ``dim``.
        levels: Levels of the transform.
        kernel_size: Rows and columns of the convolution R; odd.

    Raises:
        UserError: ``levels`` is below 1, ``kernel_size`` even, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Nekoozadeh, Ahmadzadeh and Mardani, "Multiscale Attention via Wavelet Neural Operators for Vision '
        'Transformers", 2023, arXiv 2303.12398; the layer of Tripura and Chakraborty, "Wavelet Neural Operator", 2022, '
        'arXiv 2205.02191',
        equation='y = proj(gelu(D^-1(R * D(x)) + W x)), D the Haar transform, R a convolution in each band',
        cost='N',
        left_out='A reconstruction from the abstract of the paper and the layer of wavelet neural operators. There R '
        'has weights for each coefficient of a fixed grid, at the coarsest level alone; a convolution in the bands of '
        'all levels takes their place, one for each group of channels, where R mixes all of them. The code of that '
        'layer has Daubechies wavelets of four moments with symmetric padding, here they are Haar. The number of '
        'levels and the projection are choices of this project.',
        axes=(1, 2),
    )

    def __init__(self, dim: int, num_heads: int, levels: int = 3, kernel_size: int = 3) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if levels < 1:
            raise UserError(f'levels={levels} must be at least 1')
        if kernel_size % 2 == 0:
            raise UserError(f'kernel_size={kernel_size} must be odd')
        self.dim = dim
        self.skip = nn.Linear(dim, dim)
        # The details of a level, one band after the other, and the approximation of the last.
        self.details = nn.ModuleList([_convolution(3 * dim, 3 * num_heads, kernel_size) for _ in range(levels)])
        self.approximation = _convolution(dim, num_heads, kernel_size)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1 or 2 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        approximation, details, sizes = x.transpose(1, 2).unflatten(-1, (1, *grid)[-2:]), [], []
        for convolution in self.details:
            sizes.append(approximation.shape[-2:])
            bands = _haar(approximation)
            approximation = bands[:, 0]
            details.append(convolution(bands[:, 1:].flatten(1, 2)).unflatten(1, (3, -1)))
        approximation = self.approximation(approximation)
        for detail, (rows, columns) in zip(reversed(details), reversed(sizes), strict=True):
            bands = torch.cat([approximation.unsqueeze(1), detail], dim=1)
            approximation = _inverse_haar(bands)[..., :rows, :columns]
        return self.proj(F.gelu(approximation.flatten(2).transpose(1, 2) + self.skip(x)))


def _convolution(channels: int, groups: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)


def _haar(x: Tensor) -> Tensor:
    """One level of an image (B, C, H, W): its four bands (B, 4, C, H / 2, W / 2), rounded up, approximation first."""
    if x.shape[-1] % 2 or x.shape[-2] % 2:
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode='replicate')
    left, right = x[..., ::2], x[..., 1::2]
    low, high = left + right, left - right
    top, bottom = torch.stack([low, high], dim=1).unflatten(-2, (-1, 2)).unbind(-2)
    return torch.cat([top + bottom, top - bottom], dim=1) / 2


def _inverse_haar(bands: Tensor) -> Tensor:
    """The image (B, C, 2 H, 2 W) of four bands (B, 4, C, H, W)."""
    low, high = bands.chunk(2, dim=1)
    both = torch.stack([low + high, low - high], dim=-2).flatten(-3, -2)
    low, high = both.unbind(1)
    return torch.stack([low + high, low - high], dim=-1).flatten(-2) / 2
