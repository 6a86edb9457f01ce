"""Synthesizer: attention weights predicted from the query alone (Tay et al., 2020)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import at_least_float32, without_autocast
from .registry import About, check_choice, check_heads, check_tokens, register_attention

VARIANTS = ('dense', 'factorized')


@register_attention
class Synthesizer(nn.Module):
    r"""Attention without keys: each token predicts from itself how much it takes from each position.

    .. math::
        y_i = \sum_j \mathrm{softmax}_j(\ell_{ij}) \, v_j, \qquad h_i = \mathrm{relu}(W_1 x_i + b_1)

    with, for position j in row r and column c of the grid and for each head,

    .. math::
        \ell_{ij} = w_j \cdot h_i + \beta_j \quad \text{(dense)}, \qquad
        \ell_{ij} = (w^r_r \cdot h_i + \beta^r_r) \, (w^c_c \cdot h_i + \beta^c_c) \quad \text{(factorized)}

    The paper predicts for a fixed number of positions. Here w and beta are learned on a base grid and interpolated
    bilinearly to the positions of any other, which is the same as to interpolate the logits. A 1-D grid is one row, in
    the middle of the base grid.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        variant: ``'dense'`` or ``'factorized'``.
        base: Rows and columns of the base grid.
        qkv_bias: Whether the value has a bias.

    Raises:
        UserError: ``variant`` is unknown, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Tay, Bahri, Metzler, Juan, Zhao and Zheng, "Synthesizer: Rethinking Self-Attention for Transformer '
        'Models", 2020, arXiv 2005.00743',
        equation='y_i = sum_j softmax_j(w_j . relu(W x_i + b) + beta_j) v_j',
        cost='N^2',
        left_out='The random variants and the mixtures. Weights are learned on a base grid and interpolated to others. '
        'The two factors of the factorized variant are rows and columns of the grid.',
        axes=(1, 2),
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        variant: str = 'dense',
        base: tuple[int, int] = (14, 14),
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        width = check_heads(dim, num_heads)
        check_choice('variant', variant, VARIANTS)
        self.dim, self.num_heads = dim, num_heads
        self.hidden = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        # The weights of a position and its beta in the last entry, as images for the interpolation.
        sizes = [base] if variant == 'dense' else [(base[0], 1), (1, base[1])]
        self.maps = nn.ParameterList(
            [nn.Parameter(width**-0.5 * torch.randn(num_heads, width + 1, *size)) for size in sizes]
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1 or 2 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        value = self.value(x)
        kernel = self.kernel(x, grid)
        with without_autocast(x):
            y = kernel @ at_least_float32(value).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return self.proj(y.transpose(1, 2).flatten(2).to(value.dtype))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); rows sum to one."""
        check_tokens(x, grid, self.dim, self.about.axes)
        rows, columns = (1, *grid)[-2:]
        with without_autocast(x):
            # In float32 from here on: no key bounds the gradient of a logit, and half precision may not hold it.
            z, weight, bias = (at_least_float32(t) for t in (x, self.hidden.weight, self.hidden.bias))
            hidden = F.linear(z, weight, bias).relu().unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            if len(self.maps) == 1:
                logits = _predict(hidden, self.maps[0], (rows, columns))
            else:
                by_row = _predict(hidden, self.maps[0], (rows, 1))
                by_column = _predict(hidden, self.maps[1], (1, columns))
                logits = (by_row.unsqueeze(-1) * by_column.unsqueeze(-2)).flatten(-2)
            return logits.softmax(dim=-1)


def _predict(hidden: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, heads, L, positions) of hidden (B, heads, L, d) from maps interpolated to ``size``."""
    maps = F.interpolate(at_least_float32(maps), size=size, mode='bilinear').flatten(2)
    return hidden @ maps[:, :-1] + maps[:, -1:]
