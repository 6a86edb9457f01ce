"""Universal attention with relative positions: softmax times a Toeplitz matrix (URPE)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .correlation import offset_matrix
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention
from .rpe import build_rpe


@register_attention
class URPE(nn.Module):
    r"""Softmax attention with a position bias, its weights multiplied by a learned function of the offset.

    .. math::
        y_i = \sum_j \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{d} + b_{j-i}) \, (1 + c_{j-i}) \, v_j

    Rows of a softmax sum to one, whatever the bias, so that equal tokens give equal outputs; those of the product need
    not, and positions show. With c = 0 it is softmax attention.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        rpe: The bias b, as in :class:`SelfAttention`; ``None`` for none.
        factor: The function c, likewise an RPE; the default table starts near zero.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``rpe`` or ``factor`` is unknown, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Luo, Li, Zheng, Liu, Wang and He, "Your Transformer May Not be as Powerful as You Expect", 2022, '
        'arXiv 2205.13401',
        equation='y_i = sum_j softmax_j(q_i . k_j / sqrt(d) + b_{j-i}) (1 + c_{j-i}) v_j',
        cost='N^2',
        inflates=True,
        left_out='The Toeplitz matrix of the paper has an entry for each offset of a fixed length; here it is a '
        'function of the offset on a grid of any size, by default constant beyond 7 tokens. b and c are of each '
        'layer, and c starts near zero; the code has one b and one C for all layers, over buckets of distances that '
        'grow, and C starts from a normal distribution around zero, or from one by option. b is by default a '
        'continuous function of the offset, as in SelfAttention.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rpe: str | dict | None = 'continuous',
        factor: str | dict = 'table',
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpe = None if rpe is None else build_rpe(rpe, num_heads)
        self.rpe_factor = build_rpe(factor, num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        q, k, v = self._heads(x)
        with without_autocast(x):
            y = self._weights(q, k, grid) @ at_least_float32(v)
        return self.proj(y.transpose(1, 2).flatten(2).to(v.dtype))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); they may be negative."""
        check_tokens(x, grid, self.dim)
        q, k, _ = self._heads(x)
        with without_autocast(x):
            return self._weights(q, k, grid)

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, L, d)."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _weights(self, q: Tensor, k: Tensor, grid: tuple[int, ...]) -> Tensor:
        q, k = at_least_float32(q) * q.shape[-1] ** -0.5, at_least_float32(k)
        scores = q @ k.transpose(-1, -2)
        if self.rpe is not None:
            scores = scores + offset_matrix(self.rpe(grid, False), grid)
        return scores.softmax(dim=-1) * (1 + offset_matrix(at_least_float32(self.rpe_factor(grid, False)), grid))
