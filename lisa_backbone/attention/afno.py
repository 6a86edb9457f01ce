"""Adaptive Fourier neural operator: a small network applied to every frequency (AFNO)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention
from .spectrum import hermitian


@register_attention
class AFNO(nn.Module):
    r"""Token mixing in the frequency domain by one two-layer network, shared by all frequencies.

    .. math::
        y = x + F^{-1}\big(S_\lambda(W_2 \, \sigma(W_1 F(x) + b_1) + b_2)\big)

    with F the orthonormal real Fourier transform over the grid, W complex and block-diagonal with one block for each
    head, and the rectifier sigma and the soft shrinkage S_lambda applied to real and imaginary parts by themselves. No
    parameter depends on the grid.

    Args:
        dim: Number of channels.
        num_heads: Number of blocks of W; must divide ``dim``.
        sparsity_threshold: lambda of the soft shrinkage.
        hard_thresholding_fraction: Share of the frequencies of each axis that are kept, the lowest; the others are set
            to zero and cost nothing.
        hidden_size_factor: Width of the hidden layer over that of the input.

    Raises:
        UserError: The fraction is not in (0, 1], or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Guibas, Mardani, Li, Tao, Anandkumar and Catanzaro, "Adaptive Fourier Neural Operators: Efficient '
        'Token Mixers for Transformers", 2021, arXiv 2111.13587',
        equation='y = x + F^-1(S(W2 relu(W1 F(x) + b1) + b2)), S the soft shrinkage, W block-diagonal, shared by all '
        'frequencies',
        cost='N log N',
        not_inflated='The network is not linear: its biases answer at the frequencies of time too, which are zero '
        'on such a clip.',
        left_out='The initial weights grow as blocks get narrower, where the paper has a constant 0.02 (equal at '
        'blocks of 96 channels): at that size soft shrinkage would silence narrow blocks for good. A fraction of '
        'frequencies is kept by their absolute value, the same to either side of zero.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sparsity_threshold: float = 0.01,
        hard_thresholding_fraction: float = 1.0,
        hidden_size_factor: int = 1,
    ) -> None:
        super().__init__()
        width = check_heads(dim, num_heads)
        if not 0 < hard_thresholding_fraction <= 1:
            raise UserError(f'hard_thresholding_fraction={hard_thresholding_fraction} must be in (0, 1]')
        self.dim, self.num_heads = dim, num_heads
        self.sparsity_threshold, self.fraction = sparsity_threshold, hard_thresholding_fraction
        hidden = hidden_size_factor * width
        scale = 0.02 * (96 / width) ** 0.5
        # Real and imaginary parts first.
        self.weight1 = nn.Parameter(scale * torch.randn(2, num_heads, width, hidden))
        self.bias1 = nn.Parameter(scale * torch.randn(2, num_heads, hidden))
        self.weight2 = nn.Parameter(scale * torch.randn(2, num_heads, hidden, width))
        self.bias2 = nn.Parameter(scale * torch.randn(2, num_heads, width))

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        dims = tuple(range(-len(grid), 0))
        with without_autocast(x):
            signal = at_least_float32(x).transpose(1, 2).unflatten(-1, grid)
            spectrum = torch.fft.rfftn(signal, dim=dims, norm='ortho')
            shape, spectrum = spectrum.shape, spectrum.flatten(2)
            if self.fraction < 1:
                kept = self._kept(grid, x.device)
                changed = self._network(spectrum[..., kept])
                spectrum = torch.zeros_like(spectrum).index_copy(-1, kept, changed)
            else:
                spectrum = self._network(spectrum)
            y = torch.fft.irfftn(hermitian(spectrum.view(shape), grid), s=grid, dim=dims, norm='ortho')
        return x + y.flatten(2).transpose(1, 2).to(x.dtype)

    def _network(self, spectrum: Tensor) -> Tensor:
        """Apply the network to frequencies (B, C, F)."""
        # Real and imaginary parts side by side, so that complex products are real ones of twice the width.
        z = spectrum.transpose(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        z = torch.cat([z.real, z.imag], dim=-1)
        z = (z @ _as_real(self.weight1) + _side_by_side(self.bias1)).relu()
        z = F.softshrink(z @ _as_real(self.weight2) + _side_by_side(self.bias2), self.sparsity_threshold)
        return torch.complex(*z.chunk(2, dim=-1)).transpose(-1, -2).flatten(1, 2)

    def _kept(self, grid: tuple[int, ...], device: torch.device) -> Tensor:
        """Indices of the lowest frequencies in the flattened half spectrum."""
        index = torch.zeros(1, dtype=torch.long, device=device)
        for axis, n in enumerate(grid):
            highest = int(self.fraction * (n // 2))
            last = axis == len(grid) - 1
            negative = 0 if last else min(highest, (n - 1) // 2)
            frequencies = torch.arange(-negative, highest + 1, device=device) % n
            index = (index[:, None] * (n // 2 + 1 if last else n) + frequencies).flatten()
        return index


def _as_real(weight: Tensor) -> Tensor:
    """The real matrix (heads, 2 in, 2 out) that does to real parts beside imaginary ones what ``weight`` does."""
    real, imaginary = at_least_float32(weight)
    return torch.cat([torch.cat([real, imaginary], dim=-1), torch.cat([-imaginary, real], dim=-1)], dim=-2)


def _side_by_side(bias: Tensor) -> Tensor:
    """Real parts beside imaginary ones, (heads, 1, 2 out)."""
    return torch.cat([*at_least_float32(bias)], dim=-1).unsqueeze(-2)
