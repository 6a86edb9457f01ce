"""Softmax attention, the yardstick (Vaswani et al., "Attention Is All You Need", 2017, Eq. 1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import offset_matrix
from .local import DepthwiseConv
from .registry import check_heads, check_tokens, register_attention
from .rpe import build_rpe


@register_attention
class SelfAttention(nn.Module):
    """Multi-head softmax attention by torch's ``scaled_dot_product_attention``, O(N^2) in the number N of tokens.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        rpe: Relative position bias added to the logits, as in :class:`LiSAttention`; ``None`` for none. With a bias an
            N x N tensor is built for each head.
        local_conv: Whether a 3 x 3 depthwise convolution of the values is added, as in :class:`LiSAttention`.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``rpe`` is unknown, or the heads do not divide the channels.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rpe: str | dict | None = 'continuous',
        local_conv: bool = False,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpe = None if rpe is None else build_rpe(rpe, num_heads)
        self.local_conv = DepthwiseConv(dim) if local_conv else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = None if self.rpe is None else offset_matrix(self.rpe(grid, False), grid, False).to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        if self.local_conv is not None:
            y = y + self.local_conv(v.transpose(1, 2).flatten(2), grid)
        return self.proj(y)
