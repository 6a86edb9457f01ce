"""The feed-forward network of a block, sparing of memory where there are many tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ['FeedForward']

# Hidden values from which on memory counts for more than the calls that save it: 4 MiB in float32.
MANY_VALUES = 2**20
# Hidden values that a processor makes at a time in inference, for each thread: in float32 they stay in its cache.
CHUNK_VALUES = 2**18


class FeedForward(nn.Sequential):
    """Two linear layers with GELU between them.

    Where there are many hidden values, training keeps them as they are before GELU, and computes GELU and nothing else
    again in the backward pass; inference on a processor makes them for some tokens at a time. Neither changes what
    comes out, but for the rounding of matrix products of other sizes.

    Args:
        dim: Number of channels.
        hidden: Number of hidden channels.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., C) to the same shape."""
        width = self[0].out_features
        if x[..., 0].numel() * width < MANY_VALUES or torch.compiler.is_compiling():
            return super().forward(x)
        if torch.is_grad_enabled():
            hidden = self[0](x)
            # It stops as soon as there is what the last layer kept: that layer is not computed again.
            return checkpoint(self._finish, hidden, use_reentrant=False, preserve_rng_state=False)
        if x.device.type != 'cpu':
            return super().forward(x)
        size = max(CHUNK_VALUES * torch.get_num_threads() // width, 1)
        return torch.cat([super(FeedForward, self).forward(part) for part in x.flatten(0, -2).split(size)]).view(
            x.shape
        )

    def _finish(self, hidden: Tensor) -> Tensor:
        return self[2](self[1](hidden))
