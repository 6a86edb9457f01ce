"""Retention: linear attention along the sequence that forgets exponentially (ViR)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .precision import at_least_float32, without_autocast
from .registry import About, check_choice, check_heads, check_tokens, register_attention

FORMS = ('chunkwise', 'parallel', 'recurrent')


@register_attention
class Retention(nn.Module):
    r"""Causal attention without softmax whose weights decay along the flattened grid.

    .. math::
        o_n = \frac{1}{\sqrt{d}} \sum_{m \le n} \gamma^{n - m} \, (q_n \cdot k_m) \, v_m, \qquad
        y = \mathrm{proj}(\mathrm{gelu}(\mathrm{norm}(o)))

    with a decay gamma for each head, from 1 - 1/32 to 1 - 1/512 at equal ratios of what it lacks to one, and a layer
    norm of the heads together. A token sees those before it in the order of rows (and frames), and none after it.

    All forms give the same values. ``'parallel'`` builds the N x N matrix. ``'recurrent'`` takes one token after the
    other, with the state

    .. math::
        S_n = \gamma S_{n-1} + k_n v_n^\top, \qquad o_n = S_n^\top q_n / \sqrt{d}

    and ``'chunkwise'`` is parallel inside chunks of the sequence and recurrent from each to the next.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        form: ``'chunkwise'``, ``'parallel'`` or ``'recurrent'``.
        chunk: Tokens of a chunk.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``form`` is unknown, ``chunk`` below 1, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Hatamizadeh, Ranzinger, Lan, Alvarez, Fidler and Kautz, "ViR: Towards Efficient Vision Retention '
        'Backbones", 2023, arXiv 2310.19731',
        equation='o_n = sum_{m <= n} gamma^(n - m) (q_n . k_m) v_m / sqrt(d), y = proj(gelu(norm(o)))',
        cost='N',
        not_inflated='The tokens of all frames are one sequence, and a token sees those before it: later frames '
        'see more.',
        left_out='The class token at the end of the sequence and the two-dimensional form of a later version. Norm and '
        'activation after the sum follow a public re-implementation. The decays are those of code published without '
        'names as that of the authors, which has neither norm nor activation there and, in training, a softmax.',
    )

    def __init__(
        self, dim: int, num_heads: int, form: str = 'chunkwise', chunk: int = 64, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice('form', form, FORMS)
        if chunk < 1:
            raise UserError(f'chunk={chunk} must be at least 1')
        self.dim, self.num_heads, self.form, self.chunk = dim, num_heads, form, chunk
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        check_tokens(x, grid, self.dim)
        q, k, v = self._heads(x)
        with without_autocast(x):
            q, k, v = at_least_float32(q) * q.shape[-1] ** -0.5, at_least_float32(k), at_least_float32(v)
            if self.form == 'recurrent':
                y = self._recurrent(q, k, v)
            elif self.form == 'parallel':
                y = self._weights(q, k) @ v
            else:
                y = self._chunkwise(q, k, v)
            # Sums over the sequence are too large for half precision before the norm.
            weight, bias = at_least_float32(self.norm.weight), at_least_float32(self.norm.bias)
            y = F.gelu(F.layer_norm(y.transpose(1, 2).flatten(2), (self.dim,), weight, bias, self.norm.eps))
        return self.proj(y.to(x.dtype))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head before the norm, (B, heads, N, N); those of later tokens are zero."""
        check_tokens(x, grid, self.dim)
        q, k, _ = self._heads(x)
        with without_autocast(x):
            return self._weights(at_least_float32(q) * q.shape[-1] ** -0.5, at_least_float32(k))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, L, d)."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _decay(self, like: Tensor, steps: Tensor | int) -> Tensor:
        """gamma^steps of every head, (heads, 1, 1) or with the shape of ``steps`` in place of the last two."""
        lost = torch.linspace(math.log(1 / 32), math.log(1 / 512), self.num_heads, dtype=like.dtype, device=like.device)
        gamma = 1 - lost.exp()
        return gamma[:, None, None] ** steps

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Decayed products of queries and keys (..., heads, n, d), zero for later keys."""
        place = torch.arange(q.shape[-2], device=q.device)
        distance = place[:, None] - place
        return q @ k.transpose(-1, -2) * (self._decay(q, distance.clamp(min=0)) * (distance >= 0))

    def _recurrent(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        state, outputs, decay = 0.0, [], self._decay(q, 1)
        for query, key, value in zip(*(z.unsqueeze(-2).unbind(2) for z in (q, k, v)), strict=True):
            state = decay * state + key.transpose(-1, -2) @ value
            outputs.append(query @ state)
        return torch.cat(outputs, dim=2)

    def _chunkwise(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        count = q.shape[2]
        chunk = min(self.chunk, count)
        # (B, chunks, heads, chunk, d); the zeros at the end are seen by no token.
        q, k, v = (F.pad(z, (0, 0, 0, -count % chunk)).unflatten(2, (-1, chunk)).transpose(1, 2) for z in (q, k, v))
        inside = self._weights(q, k) @ v
        place = torch.arange(chunk, device=q.device)[:, None]
        # What a chunk leaves to the next, and what a token takes from all the chunks before its own.
        left = (k * self._decay(q, chunk - 1 - place)).transpose(-1, -2) @ v
        state, states, decay = torch.zeros_like(left[:, 0]), [], self._decay(q, chunk)
        for added in left.unbind(1):
            states.append(state)
            state = decay * state + added
        before = (q * self._decay(q, place + 1)) @ torch.stack(states, dim=1)
        return (inside + before).transpose(1, 2).flatten(2, 3)[:, :, :count]
