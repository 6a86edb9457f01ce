"""Windowed attention in branches, each handing its output to the next."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .correlation import offset_matrix
from .precision import without_autocast
from .registry import About, check_heads, check_tokens, register_attention
from .rpe import TableRPE
from .windows import join_windows, split_windows, window_mask


class LadderBranch(nn.Module):
    """Softmax attention within windows on a part of the channels.

    Args:
        dim: Number of channels of the part.
        num_heads: Number of heads.
        radius: Largest offset in space within a window.
        frames: Largest offset in time within a window.
        has_value: Whether the branch makes its values itself; if not, they are given.
        qkv_bias: Whether query, key and value have a bias.
    """

    def __init__(self, dim: int, num_heads: int, radius: int, frames: int, has_value: bool, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads, self.dim = num_heads, dim
        self.qkv = nn.Linear(dim, (3 if has_value else 2) * dim, bias=qkv_bias)
        self.rpe = TableRPE(num_heads, radius, frames)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, value: Tensor | None, window: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
        """Map a part (B, *grid, c), and the output of the branch before if there is one, to (B, *grid, c)."""
        grid = x.shape[1:-1]
        qkv = self.qkv(x)
        if value is not None:
            qkv = torch.cat([qkv, value], dim=-1)
        parts = split_windows(qkv, window, shift).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = offset_matrix(self.rpe(window, False), window)
        mask = window_mask(grid, window, shift, x.device)
        if mask is None:
            y = F.scaled_dot_product_attention(*parts, attn_mask=bias)
        else:
            bias = bias.masked_fill(~mask.unsqueeze(1), -torch.inf).flatten(0, 1)
            parts = (z.unflatten(0, (x.shape[0], -1)).flatten(1, 2) for z in parts)
            y = F.scaled_dot_product_attention(*parts, attn_mask=bias)
        y = y.reshape(-1, self.num_heads, *y.shape[-2:]).transpose(1, 2).flatten(2)
        return x + self.proj(join_windows(y, grid, window, shift))


@register_attention
class LadderAttention(nn.Module):
    r"""Windowed attention in branches on equal parts of the channels, shifted one after the other and fused by pixel.

    The channels are split into parts X_1 .. X_B. Branch t attends within windows :math:`\Omega^t`, moved differently in
    every branch (the progressive shift), with queries and keys of its own part, and the output of the branch before it
    as values (a ladder), so that what a token sees grows from branch to branch:

    .. math::
        O_t = X_t + \mathrm{softmax}_{\Omega^t}(Q_t K_t^\top / \sqrt{d} + b_t) \, V_t W_t, \qquad
        V_1 = X_1 W^V, \quad V_t = O_{t-1}

    The pixel-adaptive fusion weighs the channels of every token and mixes the branches:

    .. math::
        O = [O_1, \dots, O_B], \qquad Z = \sigma(\mathrm{ReLU}(O W_a) W_b) \odot O, \qquad y = Z + Z W_p

    Windows start at 0 in the first branch, are moved by half a window forward in the second and backward in the third,
    and so on in turn. An axis shorter than the window is one window; grids are padded to multiples of it, and what
    is padded is masked. A 1-D grid is one row; on a video windows are 3-D, of up to ``window_frames`` frames, and the
    bias is the sum of a table of space and one of time, which starts at zero. Channels that the branches and their
    heads do not divide are padded with zeros. All runs in the precision of the parameters, inside autocast too.

    Args:
        dim: Number of channels.
        num_heads: Number of heads in every branch; must divide ``dim``.
        num_branches: Number B of branches.
        window_size: Size of the windows in space.
        window_frames: Size of the windows in time.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: A size or ``num_branches`` is below 1, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Wu, Zheng, Lu and Tian, "PSLT: A Light-weight Vision Transformer with Ladder Self-Attention and '
        'Progressive Shift", 2023, arXiv 2304.03481',
        equation='O_t = X_t + softmax_window(Q_t K_t^T / sqrt(d) + b_t) O_{t-1} W_t; Z = sigmoid(relu(O W_a) W_b) * O; '
        'y = Z + Z W_p',
        cost='N',
        inflates=True,
        left_out="Layer norm and the light feed-forward network (with batch norm) inside every branch: the backbone's "
        'block has a norm before and a feed-forward network after the operator, and the one residual of a branch, of '
        "the normed tokens, stands for the two of the authors' code, which has none around the whole. Padded "
        'positions are masked, which the code lets in. Video is not in the paper. '
        "Reconstructed from the paper's abstract and from what the authors' code computes; the equations of "
        'the paper itself were not at hand.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_branches: int = 3,
        window_size: int = 7,
        window_frames: int = 8,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        sizes = {'num_branches': num_branches, 'window_size': window_size, 'window_frames': window_frames}
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f'{name}={size} must be at least 1')
        self.dim, self.num_heads = dim, num_heads
        self.window_size, self.window_frames = window_size, window_frames
        width = num_heads * -(-dim // (num_branches * num_heads))
        self.branches = nn.ModuleList(
            LadderBranch(width, num_heads, window_size - 1, window_frames - 1, t == 0, qkv_bias)
            for t in range(num_branches)
        )
        total = num_branches * width
        self.weigh = nn.Sequential(nn.Linear(total, total // 2), nn.ReLU(), nn.Linear(total // 2, total), nn.Sigmoid())
        self.proj = nn.Linear(total, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        sizes = (1, 1, *grid)[-3:]
        limits = (self.window_frames, self.window_size, self.window_size)
        window = tuple(map(min, limits, sizes))
        halves = tuple(size // 2 if n > size else 0 for n, size in zip(sizes, window, strict=True))
        # A shift backward by half a window is one forward by the rest of it.
        others = tuple(size - half if half else 0 for size, half in zip(window, halves, strict=True))
        shifts = ((0, 0, 0), halves, others)
        # Through its residuals the gradients of the weights hold sums of squares of x, too much for half precision.
        with without_autocast(x):
            return self._climb(x.to(self.proj.weight.dtype).unflatten(1, sizes), window, shifts).to(x.dtype)

    def _climb(self, x: Tensor, window: tuple[int, ...], shifts: tuple[tuple[int, ...], ...]) -> Tensor:
        """The branches, one after the other, and their fusion: (B, *grid, C) to (B, L, C)."""
        width = self.branches[0].dim
        parts = F.pad(x, (0, len(self.branches) * width - self.dim)).split(width, dim=-1)
        outputs: list[Tensor] = []
        for t, (branch, part) in enumerate(zip(self.branches, parts, strict=True)):
            outputs.append(branch(part, outputs[-1] if outputs else None, window, shifts[t % 3]))
        y = torch.cat(outputs, dim=-1).flatten(1, 3)
        y = self.weigh(y) * y
        return self.proj(y) + y[..., : self.dim]
