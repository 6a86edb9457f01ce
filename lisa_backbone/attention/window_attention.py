"""Windowed softmax attention of Swin Transformer, by timm."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from .registry import About, check_heads, check_tokens, register_attention
from .windows import join_windows, split_windows, window_mask


@register_attention
class WindowAttention(nn.Module):
    r"""Softmax attention within windows of M x M tokens that do not overlap, with a relative position bias.

    With :math:`\Omega_i` the window of token i and b a learned table of the (2M - 1) x (2M - 1) offsets in it:

    .. math::
        y_i = \sum_{j \in \Omega_i} \mathrm{softmax}_j (q_i \cdot k_j / \sqrt{d} + b_{j-i}) \, v_j

    The core (projections, bias, attention) is ``timm.models.swin_transformer.WindowAttention``; padding, windows and
    mask are here. As in Swin for detection, the grid is padded to multiples of M, one of 2 x 2 to all of a window,
    where Swin for classification would take a smaller window; an axis within one window is not shifted, and a 1-D grid
    is one row. Unlike Swin, which lets real tokens see the padded zeros, padded positions are masked. A video is taken
    frame by frame, since timm's core knows two axes: no token sees another frame.

    Swin shifts the windows in every second block. The operator does not know its place, so ``shift`` does not
    alternate: by default no token sees beyond its window, and with ``shift=True`` the windows are moved in every block.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        window_size: Size M of the windows on both axes.
        shift: Whether the windows are moved by M // 2 on both axes. Windows at the border then hold the tokens of up
            to four parts of the image, which do not see each other.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: timm cannot be imported, ``window_size`` is below 1, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021, Eq. 4, '
        'arXiv 2103.14030',
        equation='y_i = sum_{j in window of i} softmax_j(q_i . k_j / sqrt(d) + b_{j-i}) v_j',
        cost='N',
        inflates=True,
        left_out='The alternation of plain and shifted windows from block to block, since the operator does not know '
        'its block: shift is one option for all. A grid smaller than a window is padded to one, as in Swin for '
        'detection, and its MACs are those of a whole window; Swin for classification takes a smaller window. Padded '
        'positions are masked, which Swin lets in. A video is taken frame by frame, not in the 3-D windows of Video '
        'Swin, since the core is that of timm. Its relative_position_bias_table decays unless custom_keys spare it, '
        'as those of the Swin configs do.',
    )

    def __init__(
        self, dim: int, num_heads: int, window_size: int = 7, shift: bool = False, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if window_size < 1:
            raise UserError(f'window_size={window_size} must be at least 1')
        try:
            from timm.models.swin_transformer import WindowAttention as Core
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f'WindowAttention needs timm, which cannot be imported here ({error}); install it with '
                'python -m pip install timm, and a torchvision that fits the installed torch'
            ) from error
        self.dim, self.num_heads, self.window_size, self.shift = dim, num_heads, window_size, shift
        self.core = Core(dim, num_heads, window_size=window_size, qkv_bias=qkv_bias)
        # torch's attention, which keeps the logits of half precision from overflowing; timm's own form does not.
        self.core.fused_attn = True

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        windows, mask, size, cut = self._windows(x, grid)
        if mask is not None:
            mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -torch.inf)
        return join_windows(self.core(windows, mask), size, *cut).reshape(x.shape)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); rows sum to one, zero outside the windows."""
        windows, mask, size, cut = self._windows(x, grid)
        q, k, _ = self.core.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.core.relative_position_bias_table[self.core.relative_position_index]
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias.permute(2, 0, 1)
        count = x.shape[1]
        # Numbers of the tokens in every window, from 1; 0 is the padding, whose row and column are dropped.
        numbers = torch.arange(1, count + 1, device=x.device).reshape(-1, *size, 1)
        numbers = split_windows(numbers, *cut).squeeze(-1)
        scores = scores.reshape(x.shape[0], len(numbers), *scores.shape[1:])
        if mask is not None:
            mask = mask.repeat(len(numbers) // len(mask), 1, 1).unsqueeze(1)
            scores = scores.masked_fill(~mask, -torch.inf)
        kernel = scores.new_zeros(x.shape[0], count + 1, count + 1, self.num_heads)
        kernel[:, numbers.unsqueeze(2), numbers.unsqueeze(1)] = scores.softmax(dim=-1).permute(0, 1, 3, 4, 2)
        return kernel[:, 1:, 1:].permute(0, 3, 1, 2)

    def _windows(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor | None, tuple, tuple]:
        """Windows (frames * windows, M * M, C), their mask, the size (H, W), and the window and shift that cut them."""
        check_tokens(x, grid, self.dim)
        size, m = (1, *grid)[-2:], self.window_size
        cut = (m, m), tuple(m // 2 if self.shift and n > m else 0 for n in size)
        return split_windows(x.reshape(-1, *size, self.dim), *cut), window_mask(size, *cut, x.device), size, cut
