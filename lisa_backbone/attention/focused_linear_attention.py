"""Focused linear attention of FLatten Transformer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention

EPS = 1e-6


@register_attention
class FocusedLinearAttention(nn.Module):
    r"""Linear attention whose feature map turns vectors towards their largest entries, and a convolution of the values.

    The focused function :math:`f_p` raises a vector to the power p and gives it back its length. It is taken of the
    ReLU of query and key over all channels, divided by a learned positive scale s of each channel, before the heads
    are split. With DWC a depthwise convolution, which lifts the rank of the matrix on tokens,

    .. math::
        f_p(z) = \frac{\lVert z \rVert}{\lVert z^p \rVert} z^p, \qquad
        \phi(z) = f_p\left((\mathrm{ReLU}(z) + \epsilon) / s\right), \qquad
        y_i = \frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j) + N \epsilon}
        + \mathrm{DWC}(v)_i

    The convolution is over (H, W), frame by frame, with a 1-D grid as one row; its kernels are shared by the heads.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        focusing_factor: The power p.
        kernel_size: Size of the depthwise convolution; odd.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``kernel_size`` is even, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Han, Pan, Han, Song and Huang, "FLatten Transformer: Vision Transformer using Focused Linear '
        'Attention", 2023, arXiv 2308.00442',
        equation='y_i = phi(q_i) . (sum_j phi(k_j) v_j) / (phi(q_i) . sum_j phi(k_j)) + DWC(v)_i, '
        'phi(z) = |r| r^p / |r^p|, r = ReLU(z) / s',
        cost='N',
        inflates=True,
        left_out="The learned position embedding that the authors' code adds to the keys, since it has the size of one "
        'grid. The scale s and the lengths taken over all heads are of that code, not of the equations.',
    )

    def __init__(
        self, dim: int, num_heads: int, focusing_factor: float = 3, kernel_size: int = 5, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        channels = check_heads(dim, num_heads)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f'kernel_size={kernel_size} does not centre on a token; take an odd one')
        self.dim, self.num_heads, self.focusing_factor = dim, num_heads, focusing_factor
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.scale = nn.Parameter(torch.zeros(dim))
        self.local_conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        phi, psi, v = self._inputs(x, grid)
        with without_autocast(x):
            values = v.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            # Means in place of sums over the tokens, in numerator and denominator: the size does not grow with N.
            summary = (psi / x.shape[1]).transpose(-1, -2) @ values
            y = phi @ summary / (phi @ psi.mean(dim=2).unsqueeze(-1) + EPS)
        y = y.transpose(1, 2).flatten(2).to(x.dtype)
        return self.proj(y + self._convolved(v.to(x.dtype), grid))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N), without the convolution."""
        phi, psi, _ = self._inputs(x, grid)
        with without_autocast(x):
            weights = phi @ psi.transpose(-1, -2)
            return weights / (weights.sum(dim=-1, keepdim=True) + x.shape[1] * EPS)

    def _inputs(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Features of queries and keys, (B, heads, L, d), and values, (B, L, C)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        # A query that has little of any feature of its head is divided by itself, and the power trebles its relative
        # error: it needs the precision of the weights from the start.
        with without_autocast(x):
            q, k, v = at_least_float32(self.qkv(x.to(self.qkv.weight.dtype))).chunk(3, dim=-1)
            return self._features(q), self._features(k), v

    def _features(self, z: Tensor) -> Tensor:
        """The features phi of queries or keys (B, L, C), as (B, heads, L, d)."""
        z = (z.relu() + EPS) / F.softplus(at_least_float32(self.scale))
        # The direction of a power does not depend on the length: from a largest entry of 1 nothing overflows.
        power = (z / z.detach().amax(dim=-1, keepdim=True)) ** self.focusing_factor
        focused = power * (z.norm(dim=-1, keepdim=True) / power.norm(dim=-1, keepdim=True))
        return focused.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _convolved(self, v: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The depthwise convolution of the values (B, L, C), the same for every head and frame."""
        height, width = (1, *grid)[-2:]
        frames = v.reshape(-1, height, width, self.num_heads, v.shape[-1] // self.num_heads)
        images = self.local_conv(frames.permute(0, 3, 4, 1, 2).flatten(0, 1))
        return images.unflatten(0, (-1, self.num_heads)).permute(0, 3, 4, 1, 2).reshape(v.shape)
