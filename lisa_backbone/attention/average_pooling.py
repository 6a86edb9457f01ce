"""A second floor of the comparison: every token sees the mean of its neighbours, and nothing is learned."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .registry import About, check_heads, check_tokens, register_attention


@register_attention
class AveragePooling(nn.Module):
    r"""The mixer of PoolFormer: the mean over a neighbourhood minus the token itself, without any parameter.

    With :math:`\Omega_i` the positions of the grid at most ``pool_size // 2`` away from i on every axis (those beyond
    the border do not count):

    .. math::
        y_i = \frac{1}{|\Omega_i|} \sum_{j \in \Omega_i} x_j - x_i

    The token is taken away because the block adds it again. There are no value and output projections, as in the paper:
    only the feed-forward network of a block has weights.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; kept for the common signature, since nothing depends on it.
        pool_size: Size of the neighbourhood on every axis of the grid, time included; odd.

    Raises:
        UserError: ``pool_size`` is even or below 1, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Yu et al., "MetaFormer Is Actually What You Need for Vision", 2022, Eq. 4, arXiv 2111.11418',
        equation='y_i = mean_{|j-i| <= 1} x_j - x_i',
        cost='N',
        inflates=True,
        left_out='The paper pools images; a video is pooled over time alike.',
    )

    def __init__(self, dim: int, num_heads: int, pool_size: int = 3) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if pool_size < 1 or pool_size % 2 == 0:
            raise UserError(
                f'pool_size={pool_size} must be odd and positive, so that a token is the middle of its pool'
            )
        self.dim, self.num_heads, self.pool_size = dim, num_heads, pool_size

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        return self._pool(x, grid) - x

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens, the same for every input and head, (B, heads, N, N); rows sum to zero."""
        check_tokens(x, grid, self.dim)
        unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = self._pool(unit.unsqueeze(0), grid)[0] - unit
        return weights.expand(x.shape[0], self.num_heads, -1, -1)

    def _pool(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        # In space, then in time: avg_pool3d refuses clips shorter than the pool, and the mean of means is that of all.
        y = x.transpose(1, 2).unflatten(2, (1, 1, *grid)[-3:])
        y = self._mean(y.flatten(1, 2), (self.pool_size, self.pool_size)).view(y.shape)
        if len(grid) == 3:
            y = self._mean(y.flatten(3), (self.pool_size, 1))
        return y.flatten(2).transpose(1, 2)

    @staticmethod
    def _mean(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.avg_pool2d(x, size, 1, (size[0] // 2, size[1] // 2), count_include_pad=False)
