"""LSLA: attention whose keys and values are the input itself, with a position bias before and one after the softmax."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import correlate, offset_matrix
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention
from .rpe import build_rpe


@register_attention
class LSLA(nn.Module):
    r"""Light self-limited attention: the input stands for keys and values, and biases on both sides of the softmax.

    A reconstruction: of the paper only the abstract was read. From it are that the input takes the place of keys and
    values, a dynamic scale and an inner position bias before the softmax, and an outer position bias after it that
    limits large weights. The rest is this project's reading: the scale s is one learned number for each head, both
    biases are functions of the offset (b inside, c outside), and attention is global. With x_i the channels of the
    head in the input and q a projection of the input,

    .. math::
        y_i = \sum_j \left(\mathrm{softmax}_j\left(s \, q_i \cdot x_j + b_{j-i}\right) + c_{j-i} / N\right) x_j

    The outer bias is divided by the number N of tokens: without that its sum would grow with the grid. For one size of
    grid or window that is a constant factor.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        inner: Bias of the logits, an RPE as in :class:`LiSAttention`; ``None`` for none.
        outer: Bias of the weights, likewise. By default without the decay term of ``'continuous'``, which grows
            without bound.
        q_bias: Whether the query has a bias.

    Raises:
        UserError: An RPE is unknown, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='After Hechen, Huang and Zhao, "ViT-LSLA: Vision Transformer with Light Self-Limited-Attention", 2022, '
        'arXiv 2210.17115',
        equation='y_i = sum_j (softmax_j(s q_i . x_j + b_{j-i}) + c_{j-i} / N) x_j',
        cost='N^2',
        inflates=True,
        left_out='All but its abstract: the equation is a reconstruction. Reconstructed are the dynamic scale (one '
        'learned number for each head), the form of both biases (functions of the offset), the outer bias divided by '
        'N, and that attention is global rather than within windows.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        inner: str | dict | None = 'continuous',
        outer: str | dict | None = dict(type='continuous', slopes=None),  # noqa: B006
        q_bias: bool = True,
    ) -> None:
        super().__init__()
        channels = check_heads(dim, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.query = nn.Linear(dim, dim, bias=q_bias)
        self.scale = nn.Parameter(torch.full((num_heads,), channels**-0.5))
        self.inner_rpe = None if inner is None else build_rpe(inner, num_heads)
        self.outer_rpe = None if outer is None else build_rpe(outer, num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        q, heads, bias = self._inputs(x, grid)
        with without_autocast(x):
            # The scale stands in the query, so that one kernel serves every head.
            y = F.scaled_dot_product_attention(q, heads, heads, attn_mask=bias, scale=1.0)
            if self.outer_rpe is not None:
                c = at_least_float32(self.outer_rpe(grid, False)) / x.shape[1]
                signal = heads.transpose(-1, -2).unflatten(-1, grid)
                y = y + correlate(signal, c.unsqueeze(1), grid, False).flatten(-len(grid)).transpose(-1, -2)
            return self.proj(y.transpose(1, 2).flatten(2).to(self.proj.weight.dtype)).to(x.dtype)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N)."""
        q, heads, bias = self._inputs(x, grid)
        with without_autocast(x):
            scores = q @ heads.transpose(-1, -2)
            weights = (scores if bias is None else scores + bias).softmax(dim=-1)
            if self.outer_rpe is None:
                return weights
            return weights + offset_matrix(self.outer_rpe(grid, False), grid) / x.shape[1]

    def _inputs(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scaled queries and the input (B, heads, L, d) and the inner bias (heads, L, L)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        q = self.query(x)
        with without_autocast(x):
            # In full precision, to the last projection: nothing tames keys and values, and gradients grow with their
            # squares.
            q, heads = (at_least_float32(z).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for z in (q, x))
            bias = None if self.inner_rpe is None else offset_matrix(self.inner_rpe(grid, False), grid).to(q.dtype)
            return q * self.scale[:, None, None], heads, bias
