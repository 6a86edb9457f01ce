"""Attention whose heads see keys and values of different coarseness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .local import DepthwiseConv
from .registry import About, check_heads, check_tokens, register_attention


class MergedKeys(nn.Module):
    """Keys and values of merged tokens, for the heads of one rate.

    Args:
        dim: Number of channels of the tokens.
        width: Number of channels of these heads.
        rate: A patch of rate x rate tokens becomes one.
        qkv_bias: Whether key and value have a bias.
    """

    def __init__(self, dim: int, width: int, rate: int, qkv_bias: bool) -> None:
        super().__init__()
        self.merge = nn.Conv2d(dim, dim, rate, stride=rate)
        self.norm = nn.LayerNorm(dim)
        self.key_value = nn.Linear(dim, 2 * width, bias=qkv_bias)
        self.local = DepthwiseConv(width)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Map tokens (B, L, C) on ``grid`` to keys and values (B, M, width)."""
        height, width = (1, *grid)[-2:]
        rate = self.merge.stride[0]
        image = x.reshape(-1, height, width, x.shape[-1]).permute(0, 3, 1, 2)
        merged = self.merge(F.pad(image, (0, -width % rate, 0, -height % rate)))
        tokens = merged.flatten(2).transpose(1, 2).reshape(x.shape[0], -1, x.shape[-1])
        key, value = self.key_value(F.gelu(self.norm(tokens))).chunk(2, dim=-1)
        # Only the last two sizes matter: the convolution sees one frame at a time.
        return key, value + self.local(value, merged.shape[-2:])


@register_attention
class ShuntedAttention(nn.Module):
    r"""Softmax attention whose heads see the tokens merged at different rates, so that one layer sees several scales.

    For the heads i of rate r_i, MTA merging patches of r_i x r_i tokens into one (a strided convolution, layer norm and
    GELU) and LE a 3 x 3 depthwise convolution:

    .. math::
        Q_i = X W^Q_i, \quad K_i, V_i = \mathrm{MTA}(X, r_i) W^{K,V}_i, \quad
        h_i = \mathrm{softmax}(Q_i K_i^\top / \sqrt{d}) \, (V_i + \mathrm{LE}(V_i))

    The heads are concatenated and projected. Time and memory grow as N^2 over r_i^2.

    Sizes that are no multiple of a rate are padded with zeros at their end. A 1-D grid is one row. The frames of a
    video are merged one by one, and each sees the keys of all.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        reductions: The rates, among which the heads are dealt out evenly, the first ones getting what is left over;
            with fewer heads than rates the last rates are not used. The paper has (8, 4), (4, 2), (2, 1) and (1,) in
            its four stages; the default is that of the third, which has the most blocks.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``reductions`` is empty or holds a rate below 1, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Ren et al., "Shunted Self-Attention via Multi-Scale Token Aggregation", 2022, Eqs. 1 to 3, '
        'arXiv 2111.15193',
        equation='h_i = softmax(Q_i K_i^T / sqrt(d)) (V_i + LE(V_i)), K_i, V_i from tokens merged at the rate r_i',
        cost='N^2',
        inflates=True,
        left_out='The rates do not change with the stage by themselves: reductions is an option of each. In the last '
        "stage the authors' code has no merging and adds LE after the attention; here reductions=(1,) is as the "
        'equation, with a 1 x 1 merging convolution. Sizes are padded to multiples of the rates, where the code takes '
        'such sizes only. Video is not in the paper.',
    )

    def __init__(self, dim: int, num_heads: int, reductions: Sequence[int] = (2, 1), qkv_bias: bool = True) -> None:
        super().__init__()
        head_dim = check_heads(dim, num_heads)
        if not reductions or min(reductions) < 1:
            raise UserError(f'reductions={tuple(reductions)} must hold at least one rate, each at least 1')
        self.dim, self.num_heads = dim, num_heads
        used = reductions[:num_heads]
        share, left = divmod(num_heads, len(used))
        self.heads = [share + (i < left) for i in range(len(used))]
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.merged = nn.ModuleList(
            MergedKeys(dim, heads * head_dim, rate, qkv_bias) for heads, rate in zip(self.heads, used, strict=True)
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        queries = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2).split(self.heads, dim=1)
        outputs = []
        for query, merged in zip(queries, self.merged, strict=True):
            key, value = (z.unflatten(-1, (query.shape[1], -1)).transpose(1, 2) for z in merged(x, grid))
            outputs.append(F.scaled_dot_product_attention(query, key, value))
        return self.proj(torch.cat(outputs, dim=1).transpose(1, 2).flatten(2))
