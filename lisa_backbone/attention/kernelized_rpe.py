"""Kernelized attention with a relative position bias, by FFT (Luo et al., 2021)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import correlate_by_fft, fft_sizes, offset_matrix
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention
from .rpe import build_rpe


@register_attention
class KernelizedRPE(nn.Module):
    r"""Softmax attention with a position bias, its exponential replaced by random features.

    .. math::
        y_i = \frac{\sum_j e^{b_{j-i}} \, \phi(q_i) \cdot \phi(k_j) \, v_j}{\sum_j e^{b_{j-i}} \, \phi(q_i) \cdot
        \phi(k_j)}, \qquad \phi(z)_m = \frac{1}{\sqrt{M}} \exp(w_m \cdot z - |z|^2 / 2)

    with w_m normally distributed, so that the mean of phi(q) . phi(k) is exp(q . k), and q and k scaled to length one,
    which bounds its variance. Since the bias depends on the offset alone, numerator and denominator are M (d + 1)
    correlations for each head, by zero-padded FFTs: the result is that of the N x N matrix. The matrix itself is taken
    on grids where it holds no more values than the padded signals, since it is the faster there: with 16 features and
    heads of 32 channels up to some 2000 positions on an image, and 4000 on a video.

    The w_m are drawn once, when the operator is built, and are part of the state dict.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        num_features: Number M of random features for each head.
        rpe: The bias b, one for each head, as in :class:`LiSAttention`.
        qkv_bias: Whether query, key and value have a bias.
        seed: Of the random features, which are then the same in every operator that has it; by default they are
            drawn as initial weights are.

    Raises:
        UserError: ``rpe`` is unknown, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Luo, Li, Cai, He, Peng, Zheng, Ke, Wang and Liu, "Stable, Fast and Accurate: Kernelized Attention with '
        'Relative Positional Encoding", 2021, arXiv 2106.12566',
        equation='y_i = sum_j exp(b_{j-i}) phi(q_i) . phi(k_j) v_j / sum_j exp(b_{j-i}) phi(q_i) . phi(k_j), phi '
        'positive random features of q and k of length one',
        cost='N log N',
        inflates=True,
        left_out='Features are drawn independently, in each layer, and once, never again. The bias is a function of '
        'the offset in place of a table; the number of features is a choice of this project, kept small for its cost, '
        'which makes a rough approximation; num_features sets more.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_features: int = 16,
        rpe: str | dict = 'continuous',
        qkv_bias: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        width = check_heads(dim, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpe = build_rpe(rpe, num_heads)
        self.proj = nn.Linear(dim, dim)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.register_buffer('directions', torch.randn(num_heads, num_features, width, generator=generator))

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        q, k, v = self._heads(x)
        with without_autocast(x):
            phi, psi, bias = self._features(q), self._features(k), self._bias(grid)
            # A channel of ones turns the denominator into one more numerator.
            signal = F.pad(at_least_float32(v), (0, 0, 0, 1), value=1.0)
            if self._takes_matrix(grid):
                total = signal @ _weights(phi, psi, bias, grid).transpose(-1, -2)
            else:
                weighted = (psi.unsqueeze(3) * signal.unsqueeze(2)).unflatten(-1, grid)
                sums = correlate_by_fft(weighted, bias[:, None, None], grid, False).flatten(-len(grid))
                total = torch.einsum('bhmi,bhmdi->bhdi', phi, sums)
            # Below the rounding of the transforms there is nothing left to divide by.
            y = total[:, :, :-1] / total[:, :, -1:].clamp(min=torch.finfo(total.dtype).eps)
        return self.proj(y.flatten(1, 2).transpose(1, 2).to(v.dtype))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); rows sum to one."""
        check_tokens(x, grid, self.dim)
        q, k, _ = self._heads(x)
        with without_autocast(x):
            kernel = _weights(self._features(q), self._features(k), self._bias(grid), grid)
            return kernel / kernel.sum(dim=-1, keepdim=True)

    def _takes_matrix(self, grid: tuple[int, ...]) -> bool:
        """Whether the N x N matrix has no more values than the padded signals, so that memory is linear in N still."""
        _, features, width = self.directions.shape
        return math.prod(grid) ** 2 <= features * (width + 1) * math.prod(fft_sizes(grid, False))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, d, L)."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 4, 1).unbind(0)

    def _features(self, z: Tensor) -> Tensor:
        """Random features of (B, heads, d, L) scaled to length one, (B, heads, M, L); common factors cancel."""
        directions = at_least_float32(self.directions)
        z = F.normalize(at_least_float32(z), dim=2, eps=1e-6)
        return (directions @ z).exp() / directions.shape[1] ** 0.5

    def _bias(self, grid: tuple[int, ...]) -> Tensor:
        """exp(b) at all offsets up to a factor for each head, which cancels; at most 1."""
        bias = at_least_float32(self.rpe(grid, False))
        return (bias - bias.detach().flatten(1).amax(dim=1).view(-1, *[1] * len(grid))).exp()


def _weights(phi: Tensor, psi: Tensor, bias: Tensor, grid: tuple[int, ...]) -> Tensor:
    """exp(b_{j-i}) phi(q_i) . phi(k_j), (B, heads, N, N), of features (B, heads, M, N)."""
    return phi.transpose(-1, -2) @ psi * offset_matrix(bias, grid)
