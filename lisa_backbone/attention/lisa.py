"""LiSA: Lightweight Structure-aware Attention, the main reconstruction.

After Kwon, Castro, Marin-Jimenez, Guil and Alahari, "Lightweight Structure-Aware Attention for Visual Understanding",
arXiv 2211.16289. The paper's abstracts state the idea; the equations here are this project's reconstruction.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import FORMS, offset_matrix, wraps
from .local import DepthwiseConv
from .pattern_sum import average_patterns, fused
from .precision import at_autocast, at_least_float32, without_autocast
from .registry import About, check_choice, check_heads, check_tokens, register_attention
from .rpe import build_rpe, distribution


def _relu(q: Tensor, k: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return q.relu() + eps, k.relu() + eps


def _squared_relu(q: Tensor, k: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return q.relu().square() + eps, k.relu().square() + eps


def _elu(q: Tensor, k: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return F.elu(q) + (1 + eps), F.elu(k) + (1 + eps)


def _softmax(q: Tensor, k: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    # A softmax of k over the tokens, up to a factor for each head and pattern, which the RPE absorbs.
    return q.softmax(dim=2) + eps, (k - k.amax(dim=-1, keepdim=True)).exp() + eps


FEATURE_MAPS = {'relu': _relu, 'squared_relu': _squared_relu, 'elu': _elu, 'softmax': _softmax}


@register_attention
class LiSAttention(nn.Module):
    r"""Attention whose kernel is a sum of patterns, each a product of features weighted by a learned RPE.

    With M non-negative features of query and key for each head, and M positive functions r^m of the offset that sum to
    one (a softmax of the RPE over the offsets of the grid):

    .. math::
        K_{ij} = \sum_m \phi(q_i)_m \, \psi(k_j)_m \, r^m_{j-i}, \qquad y_i = \sum_j K_{ij} v_j \Big/ \sum_j K_{ij}

    Since r depends on the offset alone, numerator and denominator are correlations on the grid, computed by FFT in
    O(N log N) for N tokens. The heads are concatenated and projected.

    That sum gives a narrow pattern the same say as a wide one, and keeps their balance when the grid grows. y does not
    change when phi is scaled by a factor of the query, or psi by one of the head; both are therefore scaled to at most
    1 before the sums, and nothing overflows, whatever the input (with ``'squared_relu'``, up to 1e19). FFT and division
    run in float32 inside autocast (float64 for float64 parameters).

    Args:
        dim: Number of channels C.
        num_heads: Number of heads; must divide ``dim``.
        num_patterns: Number M of patterns for each head.
        form: ``'circular'`` (FFT on the grid, offsets wrapped: the fast path), ``'padded'`` (FFT with zero padding,
            equal to ``'dense'``) or ``'dense'`` (builds the N x N kernel: the oracle).
        rpe: ``'continuous'``, ``'table'`` or ``'spectrum'``, or a dict with options; see
            :mod:`lisa_backbone.attention.rpe`.
        feature_map: ``'relu'``, ``'squared_relu'``, ``'elu'`` or ``'softmax'``, the functions phi and psi.
        local_conv: Whether a 3 x 3 depthwise convolution of the values is added to y.
        qkv_bias: Whether query, key and value have a bias.
        eps: What the feature maps add, so that every kernel entry is positive.
        wrap: For ``form='dense'`` only: wrap the offsets as ``'circular'`` does.

    Raises:
        UserError: ``form``, ``rpe`` or ``feature_map`` is unknown, ``form='padded'`` is to wrap, or the heads do not
            divide the channels.

    Examples:
        >>> import torch
        >>> from lisa_backbone.attention import LiSAttention
        >>> attention = LiSAttention(dim=32, num_heads=4)
        >>> attention(torch.randn(2, 7 * 9, 32), grid=(7, 9)).shape
        torch.Size([2, 63, 32])
    """

    about: ClassVar[About] = About(
        source='After Kwon, Castro, Marin-Jimenez, Guil and Alahari, "Lightweight Structure-Aware Attention for Visual '
        'Understanding", 2022, arXiv 2211.16289',
        equation='y_i = sum_j K_ij v_j / sum_j K_ij, K_ij = sum_m phi(q_i)_m psi(k_j)_m r^m_{j-i}',
        cost='N log N',
        inflates=True,
        left_out='All but its abstracts: the equations are a reconstruction (docs/operator.md).',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_patterns: int = 4,
        form: str = 'circular',
        rpe: str | dict = 'continuous',
        feature_map: str = 'relu',
        local_conv: bool = True,
        qkv_bias: bool = True,
        eps: float = 1e-3,
        wrap: bool = False,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice('form', form, FORMS)
        check_choice('feature_map', feature_map, FEATURE_MAPS)
        self.dim, self.num_heads, self.num_patterns = dim, num_heads, num_patterns
        self.form, self.eps, self.feature_map = form, eps, feature_map
        self.wrap = wraps(form, wrap)
        self.query = nn.Linear(dim, num_heads * num_patterns, bias=qkv_bias)
        self.key = nn.Linear(dim, num_heads * num_patterns, bias=qkv_bias)
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.rpe = build_rpe(rpe, num_heads * num_patterns)
        self.local_conv = DepthwiseConv(dim) if local_conv else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        x = at_autocast(x)
        q, k, value = self.query(x), self.key(x), self.value(x)
        with without_autocast(x):
            y = self._attend(*self._features(q, k), value, grid)
        if self.local_conv is not None:
            y = y + self.local_conv(value, grid)
        return self.proj(y)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The normalised N x N kernel K_ij / sum_j K_ij of every head, (B, heads, N, N); its rows sum to one."""
        check_tokens(x, grid, self.dim)
        q, k = self.query(x), self.key(x)
        with without_autocast(x):
            phi, psi = self._features(q, k)
            kernel = torch.einsum('bhmi,bhmj,hmij->bhij', phi, psi, offset_matrix(self._rpes(grid), grid))
            return kernel / kernel.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(kernel.dtype).eps)

    def _features(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features phi and psi of queries and keys (B, L, heads * M), as (B, heads, M, L), scaled to at most 1."""
        kernels = fused(q)
        if kernels and not torch.is_grad_enabled() and self.feature_map in kernels.MAPS:
            return kernels.features(q, k, self.num_heads, self.feature_map, self.eps)
        q, k = (at_least_float32(z).transpose(1, 2).unflatten(1, (self.num_heads, -1)) for z in (q, k))
        phi, psi = FEATURE_MAPS[self.feature_map](q, k, self.eps)
        return phi / phi.detach().amax(dim=2, keepdim=True), psi / psi.detach().amax(dim=(2, 3), keepdim=True)

    def _rpes(self, grid: tuple[int, ...]) -> Tensor:
        """RPEs r, (heads, M, *periods), each a distribution over the offsets."""
        return distribution(self.rpe, grid, self.wrap).unflatten(0, (self.num_heads, -1))

    def _attend(self, phi: Tensor, psi: Tensor, value: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Weighted mean of the values (B, L, C) over the tokens, of the same shape."""
        r = self._rpes(grid)
        if self.form != 'dense':
            return average_patterns(phi, psi, value, r, grid, self.wrap)
        kernel = torch.einsum('bhmi,bhmj,hmij->bhij', phi, psi, offset_matrix(r, grid))
        kernel = kernel / kernel.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(kernel.dtype).eps)
        tokens = at_least_float32(value).unflatten(-1, (self.num_heads, -1))
        return torch.einsum('bhij,bjhd->bihd', kernel, tokens).flatten(2).to(value.dtype)
