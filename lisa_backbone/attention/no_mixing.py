"""The floor of every comparison: no token sees another."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .local import DepthwiseConv
from .registry import About, check_heads, check_tokens, register_attention


@register_attention
class NoMixing(nn.Module):
    """Value and output projection without any exchange between tokens: y = W_o W_v x.

    With ``local_conv`` the floor is a plain convolutional network.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; kept for the common signature, since nothing depends on it.
        local_conv: Whether a 3 x 3 depthwise convolution of the values is added, as in :class:`LiSAttention`.
        qkv_bias: Whether the value projection has a bias.
    """

    about: ClassVar[About] = About(
        source='The floor: no operator at all', equation='y_i = v_i', cost='N', inflates=True, symmetry='permutation'
    )

    def __init__(self, dim: int, num_heads: int, local_conv: bool = False, qkv_bias: bool = True) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.dim = dim
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.local_conv = DepthwiseConv(dim) if local_conv else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        y = self.value(x)
        return self.proj(y if self.local_conv is None else y + self.local_conv(y, grid))
