"""TSSA: token statistics self-attention, without any similarity of pairs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import at_least_float32, without_autocast
from .registry import About, check_heads, check_tokens, register_attention


@register_attention
class TSSA(nn.Module):
    r"""Token statistics self-attention: each head damps its channels by their second moment over its own tokens.

    A head k is a subspace with one projection w of d channels. A softmax over the heads gives each token its
    membership in each of them, from the share of the token in the squared length of every channel; the memberships
    weigh the second moments, and the output is a shrunk copy of the token itself:

    .. math::
        \Pi_{ki} = \mathrm{softmax}_k\left(\tau_k \sum_c \frac{w_{kic}^2}{\sum_j w_{kjc}^2}\right), \qquad
        m_{kc} = \frac{\sum_i \Pi_{ki} w_{kic}^2}{\sum_i \Pi_{ki}}, \qquad
        y_{kic} = -\frac{\Pi_{ki} \, w_{kic}}{1 + m_{kc}}

    Tokens meet in the statistics m and in the lengths alone, so the matrix on tokens is diagonal and there is no
    ``kernel``. Cost and memory are linear in N and in the channels.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        qkv_bias: Whether the projection has a bias.

    Raises:
        UserError: The heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Wu, Ding, Lu, Pai, Zhang, Wang, Yu, Ma and Haeffele, "Token Statistics Transformer: Linear-Time '
        'Attention via Variational Rate Reduction", 2024, arXiv 2412.17810',
        equation='y_kic = -Pi_ki w_kic / (1 + m_kc), m_kc = sum_i Pi_ki w_kic^2 / sum_i Pi_ki, Pi a softmax over the '
        'heads k of tau_k sum_c w_kic^2 / sum_j w_kjc^2',
        cost='N',
        frames_alike=True,
        not_inflated='Memberships follow the share of a token in the sum over all tokens, which falls as these '
        'grow in number.',
        left_out="Nothing of the operator as in the authors' code for vision. With a single head all memberships are "
        'one, and tau has no effect.',
        symmetry='permutation',
    )

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.dim, self.num_heads = dim, num_heads
        self.subspaces = nn.Linear(dim, dim, bias=qkv_bias)
        self.temperature = nn.Parameter(torch.ones(num_heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        projected = self.subspaces(x)
        with without_autocast(x):
            w = at_least_float32(projected).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            shares = F.normalize(w, dim=2).square().sum(dim=-1)
            membership = (at_least_float32(self.temperature)[:, None] * shares).softmax(dim=1)
            weights = membership / membership.sum(dim=-1, keepdim=True)
            moments = weights.unsqueeze(2) @ w.square()
            y = -membership.unsqueeze(-1) * w / (1 + moments)
        return self.proj(y.transpose(1, 2).flatten(2).to(projected.dtype))
