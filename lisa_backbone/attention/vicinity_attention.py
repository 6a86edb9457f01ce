"""Vicinity attention: linear attention that falls off with the distance along each axis of the grid."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention, without_single_frame

EPS = 1e-4


@register_attention
class VicinityAttention(nn.Module):
    r"""Linear attention weighted by the distances of two tokens along each axis, in a reduced feature space.

    With :math:`\delta_a(i, j)` the distance of the tokens along axis a of :math:`n_a` positions,

    .. math::
        K_{ij} = \mathrm{ReLU}(q_i) \cdot \mathrm{ReLU}(k_j) \sum_a \cos\frac{\pi \, \delta_a(i, j)}{2 n_a}, \qquad
        o_i = \sum_j K_{ij} v_j \Big/ \sum_j K_{ij}

    A cosine of a difference is cos cos + sin sin, so each axis doubles the features and the cost stays linear in the
    number of tokens. Query, key and value have C / r channels (feature reduction), and the projection of o back to C
    channels is scaled by gates of the mean input (feature preserving connection):

    .. math::
        y_i = (1 + g) \odot W_o o_i, \qquad g = \sigma\left(W_2 \, \mathrm{ReLU}(W_1 \bar x)\right)

    Args:
        dim: Number of channels C.
        num_heads: Number of heads; must divide ``dim // reduction``.
        reduction: Factor r by which query, key and value are narrower; must divide ``dim``.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``reduction`` does not divide the channels, or the heads do not divide the reduced ones.
    """

    about: ClassVar[About] = About(
        source='Sun, Qin, Deng, Wang, Zhang, Zhang, Barnes, Birchfield, Kong and Zhong, "Vicinity Vision '
        'Transformer", 2022, arXiv 2206.10552',
        equation='o_i = sum_j K_ij v_j / sum_j K_ij, K_ij = ReLU(q_i) . ReLU(k_j) sum_a cos(pi |i_a - j_a| / (2 n_a)); '
        'y_i = (1 + g) W_o o_i, g = sigmoid(W_2 ReLU(W_1 mean_i x_i))',
        cost='N',
        not_inflated='The third cosine falls with the distance in time, and a frame at either end has neighbours '
        'on one side alone.',
        left_out="The clamps that the authors' code puts around sums and outputs for half precision; sums run in "
        'float32 here. On a sequence the sum has one cosine, on a clip of some frames three, the third of the distance '
        'in time; the paper is on images alone.',
    )

    def __init__(self, dim: int, num_heads: int, reduction: int = 2, qkv_bias: bool = True) -> None:
        super().__init__()
        if reduction < 1 or dim % reduction:
            raise UserError(f'reduction={reduction} does not divide dim={dim}; take one that does')
        check_heads(dim // reduction, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.qkv = nn.Linear(dim, 3 * (dim // reduction), bias=qkv_bias)
        self.proj = nn.Linear(dim // reduction, dim)
        self.gate = nn.Sequential(
            nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        q, k, v = self._inputs(x, grid)
        with without_autocast(x):
            phases = _phases(grid, q)
            q, k = ((phases.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2) for z in (q, k))
            # A channel of ones turns the denominator into one more numerator.
            sums = q @ (k.transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0))
            y = sums[..., :-1] / (sums[..., -1:] + EPS)
            mean = at_least_float32(x).mean(dim=1, keepdim=True)
            gate = self.gate(mean.to(self.gate[0].weight.dtype))
        y = self.proj(y.transpose(1, 2).flatten(2).to(x.dtype))
        return y * (1 + gate.to(y.dtype))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); rows sum to one."""
        q, k, _ = self._inputs(x, grid)
        with without_autocast(x):
            phases = _phases(grid, q)
            weights = (q @ k.transpose(-1, -2)) * (phases @ phases.T)
            return weights / (weights.sum(dim=-1, keepdim=True) + EPS)

    def _inputs(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Non-negative queries and keys, and values, (B, heads, L, d)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        # A query that is all but zero is divided by itself: it needs the precision of the weights from the start.
        with without_autocast(x):
            qkv = at_least_float32(self.qkv(x.to(self.qkv.weight.dtype)))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return q.relu(), k.relu(), v


def _phases(grid: tuple[int, ...], like: Tensor) -> Tensor:
    """Cosine and sine of the position along each axis, (L, 2 axes): products are cosines of distances, summed up."""
    grid = without_single_frame(grid)
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) * (math.pi / (2 * n)) for n in grid]
    angles = torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).flatten(0, -2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
