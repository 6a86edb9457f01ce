"""Attention of every token to its nearest neighbours on the grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention


@register_attention
class NeighborhoodAttention(nn.Module):
    r"""Softmax attention of every token to the k x k tokens nearest to it, with a relative position bias.

    With :math:`\rho(i)` the neighbourhood of i, k positions of each axis around i, moved inward at a border so that it
    always holds k, and b a learned table of the offsets -(k-1)..k-1:

    .. math::
        y_i = \sum_{j \in \rho(i)} \mathrm{softmax}_j (q_i \cdot k_j / \sqrt{d} + b_{j-i}) \, v_j

    With ``dilation`` D every D-th position of an axis counts, among those that leave the same remainder as i. An axis
    with fewer than k such positions is taken whole. On a video the neighbourhood is ``kernel_frames`` x k x k, without
    dilation in time. Neighbours are gathered by plain torch, in time and memory N k^2: the package natten has no
    processor kernels and no relative bias any more (since 0.20). Attention runs in at least float32.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        kernel_size: Size k of the neighbourhood in space; odd.
        dilation: Distance D of neighbours in space (DiNAT).
        kernel_frames: Size of the neighbourhood in time; odd.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: A size is even or below 1, ``dilation`` is below 1, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Hassani et al., "Neighborhood Attention Transformer", 2023, Eqs. 2 to 4, arXiv 2204.07143; dilation '
        'after Hassani and Shi, "Dilated Neighborhood Attention Transformer", 2022, arXiv 2209.15001',
        equation='y_i = sum_{j in the k x k nearest to i} softmax_j(q_i . k_j / sqrt(d) + b_{j-i}) v_j',
        cost='N',
        inflates=True,
        left_out='The fused kernels. Grids smaller than the neighbourhood, which the paper excludes and its code pads '
        'with zeros, are taken whole. Video is not in the paper: the bias is the sum of a table of space and one of '
        'time, in place of one of both. Dilation is one option for all blocks, where DiNAT alternates it.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int = 7,
        dilation: int = 1,
        kernel_frames: int = 3,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.scale = check_heads(dim, num_heads) ** -0.5
        for name, size in (('kernel_size', kernel_size), ('kernel_frames', kernel_frames)):
            if size < 1 or size % 2 == 0:
                raise UserError(f'{name}={size} must be odd and positive, so that a token is the middle of its kernel')
        if dilation < 1:
            raise UserError(f'dilation={dilation} must be at least 1')
        self.dim, self.num_heads = dim, num_heads
        self.kernel_size, self.dilation, self.kernel_frames = kernel_size, dilation, kernel_frames
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpe = nn.Parameter(0.02 * torch.randn(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        # From zero: an image model does not train it, and a clip of equal frames is then treated like the image.
        self.rpe_time = nn.Parameter(torch.zeros(num_heads, 2 * kernel_frames - 1))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        qkv = self.qkv(x)
        with without_autocast(x):
            weights, value, _ = self._attend(qkv, grid)
            y = (weights.unsqueeze(-2) @ value).squeeze(-2).transpose(1, 2).flatten(2)
        return self.proj(y.to(qkv.dtype))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); rows sum to one."""
        check_tokens(x, grid, self.dim)
        qkv = self.qkv(x)
        with without_autocast(x):
            weights, _, neighbours = self._attend(qkv, grid)
        kernel = weights.new_zeros(*weights.shape[:3], x.shape[1])
        return kernel.scatter_add(3, neighbours.expand_as(weights), weights)

    def _attend(self, qkv: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B, heads, N, K) of the K neighbours, their values (B, heads, N, K, d) and their numbers (N, K)."""
        sizes = (1, 1, *grid)[-3:]
        kernels = ((self.kernel_frames, 1), (self.kernel_size, self.dilation), (self.kernel_size, self.dilation))
        axes = [axis_neighbours(n, *kernel, qkv.device) for n, kernel in zip(sizes, kernels, strict=True)]
        query, key, value = at_least_float32(qkv).chunk(3, dim=-1)
        index = [axis[0] for axis in axes]
        key, value = (self._gather(z.unflatten(1, sizes), index) for z in (key, value))
        query = query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) * self.scale
        scores = (key @ query.unsqueeze(-1)).squeeze(-1) + self._bias(*(axis[1] for axis in axes))
        valid = _combine([axis[2] for axis in axes], torch.logical_and)
        scores = scores.masked_fill(~valid, -torch.inf)
        strides = (sizes[1] * sizes[2], sizes[2], 1)
        numbers = _combine([i * stride for i, stride in zip(index, strides, strict=True)], torch.add)
        return scores.softmax(dim=-1), value, numbers

    def _bias(self, frames: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Bias at the offsets (T, kt), (H, kh) and (W, kw) of the neighbours: (heads, N, K)."""
        rows, columns = rows[:, None, :, None], columns[None, :, None, :]
        space = self.rpe[:, rows + self.kernel_size - 1, columns + self.kernel_size - 1]
        time = self.rpe_time[:, frames + self.kernel_frames - 1]
        bias = space[:, None, :, :, None] + time[:, :, None, None, :, None, None]
        return bias.flatten(4).flatten(1, 3)

    def _gather(self, z: Tensor, index: list[Tensor]) -> Tensor:
        """Neighbours (B, heads, N, K, d) of every token of (B, T, H, W, C), axis by axis."""
        # The last axis first: later, larger copies then move longer runs of memory.
        for axis in (3, 2, 1):
            z = z.index_select(axis, index[axis - 1].flatten())
        z = z.unflatten(4, (self.num_heads, -1))
        for axis in (3, 2, 1):
            z = z.unflatten(axis, index[axis - 1].shape)
        return z.permute(0, 7, 1, 3, 5, 2, 4, 6, 8).flatten(5, 7).flatten(2, 4)


def axis_neighbours(
    n: int, size: int, dilation: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The neighbours of every position of an axis.

    Args:
        n: Size of the axis.
        size: How many neighbours there are, the position itself among them.
        dilation: Neighbours leave the same remainder when divided by it.
        device: Where to put them.

    Returns:
        Positions, offsets in units of the dilation, and whether there is such a neighbour, each (n, k), where k is
        ``size`` or all that the axis has, if that is less.
    """
    position = torch.arange(n, device=device).unsqueeze(1)
    remainder, place = position % dilation, position // dilation
    members = (n - 1 - remainder) // dilation + 1
    start = torch.minimum(place - size // 2, members - size).clamp(min=0)
    neighbour = start + torch.arange(min(size, math.ceil(n / dilation)), device=device)
    # Classes of remainders differ by one in size; where the larger is taken whole, the smaller lacks one.
    return (neighbour * dilation + remainder).clamp(max=n - 1), neighbour - place, neighbour < members


def _combine(axes: list[Tensor], operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine (T, kt), (H, kh) and (W, kw) to (T H W, kt kh kw)."""
    frames, rows, columns = axes
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    both = operation(rows, columns)[None, :, :, None]
    return operation(frames[:, None, None, :, None, None], both).flatten(3).flatten(0, 2)
