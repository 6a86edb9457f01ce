"""The sibling of LiSA: attention weights made from codes of the structure around a query.

It descends from Relational Self-Attention (Kim, Kwon, Wang, Kwak and Cho, NeurIPS 2021).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import FORMS, correlate, offset_matrix, wraps
from .local import DepthwiseConv
from .precision import at_least_float32, without_autocast
from .registry import About, check_choice, check_heads, check_tokens, register_attention
from .rpe import build_rpe

# Least length that queries and keys are divided by: a token of zeros would get gradients without bound.
EPS = 1e-3


@register_attention
class PatternCodeAttention(nn.Module):
    r"""Attention whose kernel is decoded from a short code of the query's correlation map.

    With L2-normalised queries and keys, s_ij = q_i . k_j, and RPEs a^m, b^m, c, signed functions of the offset:

    .. math::
        p_i^m = \sum_j s_{ij} a^m_{j-i}, \qquad K_{ij} = \sum_m \rho(p_i)^m \, b^m_{j-i} + c_{j-i}, \qquad
        y_i = \sum_j K_{ij} v_j

    without a softmax. Both sums are correlations on the grid, since p_i^m = q_i . (a^m * k)_i, and take O(N log N). The
    kernel of a query depends on another token only through the offset: it cannot pick out a key by its content.

    Each RPE is divided by the sum of its absolute values over the offsets, so that codes and outputs keep their scale
    on any grid. rho is a linear map of the M codes of a head followed by GELU.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads; must divide ``dim``.
        num_patterns: Number M of codes for each head.
        form: ``'circular'``, ``'padded'`` or ``'dense'``, as in :class:`LiSAttention`.
        rpe: As in :class:`LiSAttention`, here without the exponential.
        local_conv: Whether a 3 x 3 depthwise convolution of the values is added to y.
        qkv_bias: Whether query, key and value have a bias.
        wrap: For ``form='dense'`` only: wrap the offsets as ``'circular'`` does.

    Raises:
        UserError: ``form`` or ``rpe`` is unknown, ``form='padded'`` is to wrap, or the heads do not divide the
            channels.
    """

    about: ClassVar[About] = About(
        source='After Kim, Kwon, Wang, Kwak and Cho, "Relational Self-Attention", 2021, arXiv 2111.01673',
        equation='y_i = sum_j K_ij v_j, K_ij = sum_m rho(p_i)^m b^m_{j-i} + c_{j-i}, p_i^m = sum_j q_i . k_j a^m_{j-i}',
        cost='N log N',
        inflates=True,
        left_out='A reconstruction on a whole grid; the paper works in local windows of a video.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_patterns: int = 4,
        form: str = 'circular',
        rpe: str | dict = 'continuous',
        local_conv: bool = True,
        qkv_bias: bool = True,
        wrap: bool = False,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice('form', form, FORMS)
        self.dim, self.num_heads, self.num_patterns = dim, num_heads, num_patterns
        self.form, self.wrap = form, wraps(form, wrap)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpe = build_rpe(rpe, num_heads * (2 * num_patterns + 1))
        self.rho = nn.Linear(num_patterns, num_patterns)
        self.local_conv = DepthwiseConv(dim) if local_conv else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        q, k, value = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (at_least_float32(z.unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)) for z in (q, k, value))
        with without_autocast(x):
            y = self._attend(*(F.normalize(z, dim=2, eps=EPS) for z in (q, k)), v, grid)
        y = y.flatten(1, 2).transpose(1, 2).to(value.dtype)
        if self.local_conv is not None:
            y = y + self.local_conv(value, grid)
        return self.proj(y)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Decode the kernels and apply them to the values; all (B, heads, d, L)."""
        rpes = at_least_float32(self.rpe(grid, self.wrap)).unflatten(0, (self.num_heads, -1))
        rpes = rpes / rpes.flatten(2).abs().sum(dim=2).clamp(min=1e-6).view(*rpes.shape[:2], *[1] * len(grid))
        a, b, c = rpes.split([self.num_patterns, self.num_patterns, 1], dim=1)
        weight, bias = at_least_float32(self.rho.weight), at_least_float32(self.rho.bias)
        if self.form == 'dense':
            a, b, c = (offset_matrix(r, grid) for r in (a, b, c))
            scores = torch.einsum('bhdi,bhdj->bhij', q, k)
            codes = torch.einsum('bhij,hmij->bhim', scores, a)
            kernel = torch.einsum('bhim,hmij->bhij', F.gelu(F.linear(codes, weight, bias)), b) + c.squeeze(1)
            return torch.einsum('bhij,bhdj->bhdi', kernel, v)
        near = correlate(k.unflatten(-1, grid).unsqueeze(2), a.unsqueeze(2), grid, self.wrap).flatten(-len(grid))
        codes = torch.einsum('bhdi,bhmdi->bhim', q, near)
        codes = F.gelu(F.linear(codes, weight, bias))
        decoders = torch.cat([b, c], dim=1).unsqueeze(2)
        spread = correlate(v.unflatten(-1, grid).unsqueeze(2), decoders, grid, self.wrap).flatten(-len(grid))
        return torch.einsum('bhim,bhmdi->bhdi', codes, spread[:, :, :-1]) + spread[:, :, -1]
