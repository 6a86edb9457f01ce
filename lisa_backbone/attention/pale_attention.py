"""Attention within groups of interlaced rows and of interlaced columns."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .precision import without_autocast
from .registry import About, check_heads, check_tokens, register_attention


class InterlacedRows(nn.Module):
    """Softmax attention within groups of interlaced rows, for one half of the channels.

    Args:
        dim: Number of channels of the half.
        num_heads: Number of heads of the half.
        pale_size: Number of rows in a group.
        qkv_bias: Whether query, key and value have a bias.
    """

    def __init__(self, dim: int, num_heads: int, pale_size: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads, self.pale_size = num_heads, pale_size
        # One filter of each channel for the query, one for the key and one for the value, in this order.
        self.depthwise = nn.Conv2d(dim, 3 * dim, 3, padding=1, groups=dim)
        self.pointwise = nn.ModuleList(nn.Linear(dim, dim, bias=qkv_bias) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        q, k, v, valid = self.inputs(x)
        mask = None if valid is None else valid.repeat(x.shape[0], 1)[:, None, None]
        return self._ungroup(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), x.shape)

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values (B * groups, heads, n, d), and which keys of a group are no padding (groups, n)."""
        height, width, dim = x.shape[1:]
        groups, rows = self._count(height)
        x = F.pad(x, (0, 0, 0, 0, 0, groups * rows - height))
        # Row t of group g is row t * groups + g of the map; zeros below it are what the convolution pads with anyway.
        x = x.unflatten(1, (rows, groups)).permute(0, 2, 4, 1, 3).reshape(-1, dim, rows, width)
        maps = self.depthwise(x).unflatten(1, (dim, 3)).permute(2, 0, 3, 4, 1).flatten(2, 3)
        heads = (
            layer(z).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, z in zip(self.pointwise, maps, strict=True)
        )
        valid = None
        if height % groups:
            valid = torch.arange(groups * rows, device=x.device).view(rows, groups).t() < height
            valid = valid.repeat_interleave(width, dim=1)
        return *heads, valid

    def numbers(self, height: int, width: int, device: torch.device) -> Tensor:
        """Numbers of the tokens in every group, (groups, n), from 1; 0 is the padding."""
        groups, rows = self._count(height)
        numbers = torch.arange(1, height * width + 1, device=device).view(height, width)
        return F.pad(numbers, (0, 0, 0, groups * rows - height)).unflatten(0, (rows, groups)).transpose(0, 1).flatten(1)

    def _count(self, height: int) -> tuple[int, int]:
        """How many groups there are, and how many rows the largest has."""
        groups = math.ceil(height / self.pale_size)
        return groups, math.ceil(height / groups)

    def _ungroup(self, y: Tensor, shape: torch.Size) -> Tensor:
        batch, height, width, dim = shape
        groups, rows = self._count(height)
        y = y.transpose(1, 2).reshape(batch, groups, rows, width, dim).transpose(1, 2)
        return y.flatten(1, 2)[:, :height]


@register_attention
class PaleAttention(nn.Module):
    r"""Softmax attention within pales, sets of interlaced rows and columns: half of the heads for each, in parallel.

    With s the ``pale_size``, the H rows fall into H / s groups of s rows, H / s rows apart, and the columns likewise.
    With :math:`X_r, X_c` the two halves of the channels and phi separable 3 x 3 convolutions within a group:

    .. math::
        Y_r^g = \mathrm{MSA}(\phi_Q(X_r^g), \phi_K(X_r^g), \phi_V(X_r^g)), \qquad
        Y_c^g = \mathrm{MSA}(\phi'_Q(X_c^g), \phi'_K(X_c^g), \phi'_V(X_c^g)), \qquad
        Y = [Y_r, Y_c] W_o

    An axis that is no multiple of s has ceil(H / s) groups, whose sizes differ by at most one; what is padded for that
    is masked. A group is s rows of the whole width: N s (H + W) operations for N tokens.

    Args:
        dim: Number of channels; even.
        num_heads: Number of heads, half of them for the rows; an odd number gives each half that many, half as wide.
        pale_size: Number s of rows, and of columns, in a group.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``pale_size`` is below 1, or the heads do not divide the channels or their halves.
    """

    about: ClassVar[About] = About(
        source='Wu et al., "Pale Transformer: A General Vision Transformer Backbone with Pale-Shaped Attention", 2022, '
        'arXiv 2112.14000',
        equation='y = [MSA within s interlaced rows of the first half of the channels, MSA within s interlaced columns '
        'of the second] W_o',
        cost='N sqrt(N)',
        left_out='Batch norm within the separable convolutions, since no sample may depend on its batch, and the '
        'conditional position encoding, which stands in the block and not in the operator. The paper has as many '
        'groups of rows as of columns; here each axis has its own number. Built from the equations of the parallel '
        'form, with one projection of the concatenated halves; no code of the authors was found. The cost is that of '
        'grids about as high as wide: with no more than s rows or columns, half of the channels attend to all tokens. '
        'No form for videos.',
        axes=(2,),
    )

    def __init__(self, dim: int, num_heads: int, pale_size: int = 7, qkv_bias: bool = True) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        heads = num_heads if num_heads % 2 else num_heads // 2
        if dim % (2 * heads):
            raise UserError(
                f'dim={dim} cannot be halved into {heads} heads for the rows and as many for the columns; take an even '
                'num_heads, or a dim that twice as many divide'
            )
        if pale_size < 1:
            raise UserError(f'pale_size={pale_size} must be at least 1')
        self.dim, self.num_heads, self.pale_size = dim, num_heads, pale_size
        self.rows = InterlacedRows(dim // 2, heads, pale_size, qkv_bias)
        self.columns = InterlacedRows(dim // 2, heads, pale_size, qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (2 sizes, product L) to tokens (B, L, C)."""
        # In the precision of the parameters: in float16 the gradients of the weights overflow for large inputs.
        with without_autocast(x):
            rows, columns = self._halves(x.to(self.proj.weight.dtype), grid)
            y = torch.cat([self.rows(rows), self.columns(columns).transpose(1, 2)], dim=-1)
            return self.proj(y.flatten(1, 2)).to(x.dtype)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights in every head, rows first, (B, heads, N, N), of values that are convolved; rows sum to one."""
        kernels = []
        for half, mixer in zip(self._halves(x, grid), (self.rows, self.columns), strict=True):
            q, k, _, valid = mixer.inputs(half)
            numbers = mixer.numbers(*half.shape[1:3], x.device)
            scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).unflatten(0, (x.shape[0], -1))
            if valid is not None:
                scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
            kernel = scores.new_zeros(x.shape[0], x.shape[1] + 1, x.shape[1] + 1, mixer.num_heads)
            kernel[:, numbers.unsqueeze(2), numbers.unsqueeze(1)] = scores.softmax(dim=-1).permute(0, 1, 3, 4, 2)
            kernels.append(kernel[:, 1:, 1:].permute(0, 3, 1, 2))
        # The columns were numbered along the transposed map.
        order = torch.arange(x.shape[1], device=x.device).view(*reversed(grid)).t().flatten()
        kernels[1] = kernels[1][:, :, order][:, :, :, order]
        return torch.cat(kernels, dim=1)

    def _halves(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The first half of the channels as (B, H, W, C / 2), the second as (B, W, H, C / 2)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        rows, columns = x.unflatten(1, grid).chunk(2, dim=-1)
        return rows, columns.transpose(1, 2)
