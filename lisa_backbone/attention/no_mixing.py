"""The floor of every comparison: no token sees another."""

from __future__ import annotations

from torch import Tensor, nn

from .registry import check_heads, check_tokens, register_attention


@register_attention
class NoMixing(nn.Module):
    """Value and output projection without any exchange between tokens: y = W_o W_v x.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; kept for the common signature, since nothing depends on it.
        qkv_bias: Whether the value projection has a bias.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.dim = dim
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        return self.proj(self.value(x))
