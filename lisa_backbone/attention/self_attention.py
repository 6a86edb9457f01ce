"""Softmax attention, the yardstick (Vaswani et al., "Attention Is All You Need", 2017, Eq. 1)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import offset_matrix
from .local import DepthwiseConv
from .precision import without_autocast
from .registry import About, check_heads, check_tokens, register_attention
from .rpe import build_rpe

# Entries of all kernels of a batch from which on a processor is the faster sample by sample.
_LARGE = 2**20


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

    about: ClassVar[About] = About(
        source='Vaswani et al., "Attention Is All You Need", 2017, Eq. 1, arXiv 1706.03762; the bias as in Swin '
        'Transformer V2 (Liu et al., 2022, Eq. 4, arXiv 2111.09883)',
        equation='y_i = sum_j softmax_j(q_i . k_j / sqrt(d) + b_{j-i}) v_j',
        cost='N^2',
        inflates=True,
        left_out='The bias is the MLP of log-spaced offsets of Swin Transformer V2 with a learned power-law decay, '
        'which neither paper has; attention is by dot product, not by cosine.',
    )

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
        q, k, v, bias = self._inputs(x, grid)
        y = _attend(q, k, v, bias).transpose(1, 2).flatten(2)
        if self.local_conv is not None:
            y = y + self.local_conv(v.transpose(1, 2).flatten(2), grid)
        return self.proj(y)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); rows sum to one."""
        q, k, _, bias = self._inputs(x, grid)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return (scores if bias is None else scores + bias).softmax(dim=-1)

    def _inputs(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values (B, heads, L, d) and the bias of the logits (heads, L, L)."""
        check_tokens(x, grid, self.dim)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rpe is None:
            return q, k, v, None
        with without_autocast(x):
            bias = offset_matrix(self.rpe(grid, False), grid).to(q.dtype)
        return q, k, v, bias


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention; queries, keys and values (B, heads, L, d), bias (heads, L, L) or ``None``."""
    large = q.shape[0] > 1 and q.shape[0] * q.shape[1] * q.shape[2] ** 2 >= _LARGE
    if bias is None or not large or q.device.type != 'cpu' or q.dtype not in (torch.float32, torch.float64):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    # With a bias that learns, torch goes through several N x N tensors of the whole batch; those of one sample stay in
    # the cache, which is faster.
    q = q * q.shape[-1] ** -0.5
    samples = zip(q, k.transpose(-1, -2), v, strict=True)
    return torch.stack([torch.baddbmm(bias, one, keys).softmax(dim=-1) @ values for one, keys, values in samples])
