"""The local branch that several operators share."""

from __future__ import annotations

from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """3 x 3 depthwise convolution of tokens over (H, W), frame by frame; a 1-D grid is one row.

    Args:
        dim: Number of channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` to tokens (B, L, C)."""
        height, width = (1, *grid)[-2:]
        image = x.reshape(-1, height, width, self.in_channels).permute(0, 3, 1, 2)
        return super().forward(image).permute(0, 2, 3, 1).reshape(x.shape)
