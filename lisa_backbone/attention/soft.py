"""SOFT: attention by a Gaussian kernel, without softmax, of low rank."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention, without_single_frame

_POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


@register_attention
class SOFT(nn.Module):
    r"""Softmax-free attention: a Gaussian kernel of the queries, approximated by landmarks as by Nystroem.

    Queries and keys are one projection q, here divided by :math:`d^{1/4}`. The landmarks p_1, .., p_m are means of q
    over m cells of the grid, mapped by a linear layer, a layer norm and GELU. With P the N x m kernel of queries and
    landmarks and A the m x m kernel of the landmarks,

    .. math::
        P_{ia} = e^{-\lVert q_i - p_a \rVert^2 / 2}, \quad A_{ab} = e^{-\lVert p_a - p_b \rVert^2 / 2}, \quad
        Y = P A_T P^\top V + \mathrm{DWC}(V)

    where A_T, close to the pseudo-inverse of A, comes from T steps of Newton and Raphson,

    .. math::
        A_0 = A / \lVert A \rVert_1^2, \qquad A_{t+1} = 2 A_t - A_t A A_t .

    Nothing normalises the rows, as in the paper. The cost is linear in N for a fixed m. The convolution is over
    (H, W), frame by frame, with a 1-D grid as one row and one kernel for all channels of a head.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        num_landmarks: Number m of landmarks, rounded to a power by the number of axes (49 is 7 x 7 on an image and
            4 x 4 x 4 on a clip of some frames); an axis with fewer positions has as many landmarks as those.
        num_steps: Number T of steps.
        conv_size: Size of the depthwise convolution of the values; odd, or 0 for none.
        qv_bias: Whether query and value have a bias.

    Raises:
        UserError: ``conv_size`` is even and not 0, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Lu, Yao, Zhang, Zhu, Xu, Gao, Xu, Xiang and Zhang, "SOFT: Softmax-free Transformer with Linear '
        'Complexity", 2021, arXiv 2110.11945',
        equation='Y = P A_T P^T V + DWC(V), P_ia = exp(-|q_i - p_a|^2 / 2), A_ab = exp(-|p_a - p_b|^2 / 2), '
        'A_T the pseudo-inverse of A by T Newton-Raphson steps',
        cost='N',
        frames_alike=True,
        not_inflated='Its rows are not normalised, so that sums grow with the number of tokens; and there are '
        'other landmarks on three axes than on two.',
        left_out='The landmarks come from average pooling and a linear layer, which fit any grid, and not from a '
        'convolution whose stride follows from one size of the image. Newton-Raphson starts from A / |A|_1^2, half of '
        "the paper's: from 2 A / |A|_1^2 equal landmarks, or a single one, end in zero; the code takes 0.9 of it. "
        '0.01 I, which the code adds to A, is not in it. One conv_size, and this operator in all stages, where the '
        'code has 9, 5 and 3, and softmax attention in the last. The blocks of the code are post-norm; in the '
        'pre-norm blocks here the sums of the rows depend on the width of a head and on N, and with heads of 32 '
        'channels the convolution is at first by far the louder part. It is of the code, not of the equations. The '
        'gradient passes through the steps, where the code takes that of the inverse, -X^T G X^T. The symmetric '
        'normalisation of the later journal version (arXiv 2207.03341) is not in it.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_landmarks: int = 49,
        num_steps: int = 20,
        conv_size: int = 3,
        qv_bias: bool = True,
    ) -> None:
        super().__init__()
        channels = check_heads(dim, num_heads)
        if conv_size < 0 or (conv_size and conv_size % 2 == 0):
            raise UserError(f'conv_size={conv_size} does not centre on a token; take an odd one, or 0 for none')
        self.dim, self.num_heads = dim, num_heads
        self.num_landmarks, self.num_steps = num_landmarks, num_steps
        self.query = nn.Linear(dim, dim, bias=qv_bias)
        self.value = nn.Linear(dim, dim, bias=qv_bias)
        self.landmark = nn.Sequential(nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.GELU())
        self.local_conv = None
        if conv_size:
            self.local_conv = nn.Conv2d(
                num_heads, num_heads, conv_size, padding=conv_size // 2, groups=num_heads, bias=False
            )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        q, landmarks = self._inputs(x, grid)
        v = self.value(x)
        with without_autocast(x):
            p, inverse = self._factors(q, landmarks)
            values = at_least_float32(v).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            y = p @ (inverse @ (p.transpose(-1, -2) @ values))
        y = y.transpose(1, 2).flatten(2).to(v.dtype)
        if self.local_conv is not None:
            y = y + self._convolved(v, grid)
        return self.proj(y)

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N), without the convolution; of rank m at most."""
        q, landmarks = self._inputs(x, grid)
        with without_autocast(x):
            p, inverse = self._factors(q, landmarks)
            return p @ inverse @ p.transpose(-1, -2)

    def _inputs(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Queries (B, heads, L, d) and landmarks (B, heads, m, d)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        q = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q, grid = q * q.shape[-1] ** -0.25, without_single_frame(grid)
        side = max(round(self.num_landmarks ** (1 / len(grid))), 1)
        sizes = tuple(min(n, side) for n in grid)
        with without_autocast(x):
            image = at_least_float32(q).flatten(0, 1).transpose(-1, -2).unflatten(-1, grid)
            means = _POOL[len(grid)](image, sizes).flatten(2).transpose(-1, -2).to(q.dtype)
        return q, self.landmark(means).reshape(*q.shape[:2], prod(sizes), -1)

    def _factors(self, q: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """The matrices P (B, heads, N, m) and A_T (B, heads, m, m)."""
        q, landmarks = at_least_float32(q), at_least_float32(landmarks)
        return _gaussian(q, landmarks), newton_inverse(_gaussian(landmarks, landmarks), self.num_steps)

    def _convolved(self, v: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The depthwise convolution of the values (B, L, C), the same for every channel of a head and frame."""
        height, width = (1, *grid)[-2:]
        frames = v.reshape(-1, height, width, self.num_heads, v.shape[-1] // self.num_heads)
        images = self.local_conv(frames.permute(0, 4, 3, 1, 2).flatten(0, 1))
        return images.unflatten(0, (-1, frames.shape[-1])).permute(0, 3, 4, 2, 1).reshape(v.shape)


def newton_inverse(a: Tensor, num_steps: int) -> Tensor:
    """Approximate the pseudo-inverse of symmetric positive matrices (..., m, m) by steps of Newton and Raphson."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    inverse = a / a.sum(dim=-1).amax(dim=-1)[..., None, None].square()
    for _ in range(num_steps):
        inverse = inverse @ (2 * identity - a @ inverse)
    return inverse


def _gaussian(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a_i - b_j|^2 / 2) of points (..., N, d) and (..., m, d), as (..., N, m)."""
    squares = a.square().sum(dim=-1).unsqueeze(-1) + b.square().sum(dim=-1).unsqueeze(-2)
    return (a @ b.transpose(-1, -2) - squares / 2).exp()
