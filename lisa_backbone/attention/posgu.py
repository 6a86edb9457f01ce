"""Positional spatial gating unit: tokens mixed by a function of the offset, as a gate (PosMLP)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import axis_offsets, correlate, offset_matrix
from .precision import at_least_float32, without_autocast
from .registry import About, check_choice, check_heads, check_tokens, register_attention

ENCODINGS = ('quadratic', 'learned')

# Added to the weights, of which the largest is one, as a sum over all offsets: far below the sum of any Gaussian that
# meets the grid, far above the rounding of an FFT.
FLOOR = 1e-3


@register_attention
class PoSGU(nn.Module):
    r"""A gate that is a mean of the tokens, weighted by a function of the offset and not of the content.

    .. math::
        (u, v) = \mathrm{gelu}(W x), \qquad y_i = \Big(\sum_j M_{ij} \, \mathrm{norm}(u_j) + \beta\Big) \odot v_i

    followed by a projection. M is one matrix for each head (a group of channels), with the paper's two encodings of the
    offset o = j - i:

    - ``'quadratic'`` (GQPE): M_ij = softmax over j of -(o - c) . S (o - c) / 2, with a learned centre c and
      S = A A^T, a Gaussian of any shape;
    - ``'learned'`` (LRPE): M_ij is an entry of a table for each offset inside a window, and zero outside.

    Both are functions of the offset alone, so that sums over j are correlations on the grid, zero-padded: the softmax
    is one correlation over another. This is exact, but that 0.001 of the largest weight, spread over all offsets, is
    added: without it a token at the border whose Gaussian lies outside the grid would divide rounding by rounding. Such
    a token takes the mean of all.

    Args:
        dim: Number of channels.
        num_heads: Number of groups; must divide ``dim``.
        encoding: ``'quadratic'`` or ``'learned'``.
        window: Reach of ``'learned'``: tokens at less than this distance on both axes of space, so 2 window - 1 rows
            and columns around each; other frames are outside it.

    Raises:
        UserError: ``encoding`` is unknown, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Wang, Hao et al., "Parameterization of Cross-Token Relations with Relative '
        'Positional Encoding for Vision MLP", 2022, arXiv 2207.07284',
        equation='y_i = (sum_j M_ij norm(u_j) + beta) v_i, elementwise, (u, v) = gelu(W x), M_ij = softmax_j of '
        '-(o - c) . S (o - c) / 2, o = j - i',
        cost='N log N',
        not_inflated='The quadratic encoding ties time to space from the start, since S is not diagonal, and a frame '
        'at either end has neighbours on one side alone. (The learned one inflates: other frames weigh nothing.)',
        left_out='Windows of tokens: the quadratic encoding mixes the whole grid, and the learned one has a window '
        'around each token, where the paper cuts the grid into windows of 14 x 14. S and c have entries for time, '
        'more than images need. beta is one number for each group, not for each position. W gives twice the channels, '
        'not four times, since the backbone has an MLP of its own. u is normalised as in the gating unit of gMLP, '
        'lest half precision overflow. Weights have a floor.',
    )

    def __init__(self, dim: int, num_heads: int, encoding: str = 'quadratic', window: int = 14) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice('encoding', encoding, ENCODINGS)
        self.dim, self.num_heads, self.encoding = dim, num_heads, encoding
        self.expand = nn.Linear(dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        self.beta = nn.Parameter(torch.zeros(num_heads))
        if encoding == 'quadratic':
            self.rpe_centre = nn.Parameter(0.01 * torch.randn(num_heads, 3))
            self.rpe_spread = nn.Parameter(torch.eye(3) + 0.01 * torch.randn(num_heads, 3, 3))
        else:
            self.rpe_table = nn.Parameter(0.02 * torch.randn(num_heads, 2 * window - 1, 2 * window - 1))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        u, v = F.gelu(self.expand(x)).chunk(2, dim=-1)
        u = self.norm(u).unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)
        with without_autocast(x):
            weights = self._weights(grid).unsqueeze(1)
            signal = at_least_float32(u)
            if self.encoding == 'quadratic':
                # A channel of ones turns the denominator into one more numerator.
                signal = F.pad(signal, (0, 0, 0, 1), value=1.0)
            mixed = correlate(signal.unflatten(-1, grid), weights, grid, False).flatten(-len(grid))
            if self.encoding == 'quadratic':
                mixed = mixed[:, :, :-1] / mixed[:, :, -1:]
            gate = mixed + at_least_float32(self.beta)[:, None, None]
        return self.proj(gate.flatten(1, 2).transpose(1, 2).to(v.dtype) * v)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The matrix M of every head, (B, heads, N, N), the same for all samples."""
        check_tokens(x, grid, self.dim)
        with without_autocast(x):
            kernel = offset_matrix(self._weights(grid), grid)
            if self.encoding == 'quadratic':
                kernel = kernel / kernel.sum(dim=-1, keepdim=True)
        return kernel.expand(len(x), -1, -1, -1)

    def _weights(self, grid: tuple[int, ...]) -> Tensor:
        """Weights at all offsets, (heads, *periods); those of a softmax up to a factor."""
        axes = [axis_offsets(n, False, self.beta.device) for n in (1, 1, *grid)[-3:]]
        if self.encoding == 'quadratic':
            centre, spread = at_least_float32(self.rpe_centre), at_least_float32(self.rpe_spread)
            offsets = torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).to(centre.dtype)
            distance = torch.einsum('h...a,hab->h...b', offsets - centre[:, None, None, None], spread)
            logits = distance.square().sum(dim=-1) / -2
            weights = (logits - logits.flatten(1).amax(dim=1)[:, None, None, None]).exp()
            weights = weights + FLOOR / (axes[0].numel() * axes[1].numel() * axes[2].numel())
        else:
            radius = self.rpe_table.shape[-1] // 2
            rows, columns = (axis.clamp(-radius, radius) + radius for axis in axes[1:])
            inside = (axes[1].abs() <= radius)[:, None] & (axes[2].abs() <= radius)
            inside = inside & (axes[0] == 0)[:, None, None]
            weights = at_least_float32(self.rpe_table)[:, rows][:, :, columns].unsqueeze(1) * inside
        return weights.view(self.num_heads, *(2 * n - 1 for n in grid))
