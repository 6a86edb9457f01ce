"""Fibottention: each head sees the tokens at the distances of its own Fibonacci sequence."""

from __future__ import annotations

from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import at_least_float32, without_autocast
from .registry import About, check_choice, check_heads, check_tokens, register_attention

FORMS = ('sparse', 'masked')


def wythoff_distances(
    num_heads: int, num_tokens: int, w_min: int = 5, w_max: int | None = None, modified: bool = False
) -> list[list[int]]:
    """The distances in the flattened sequence at which each head sees tokens.

    Head i = 1..h has the generalised Fibonacci sequence that begins with a = floor(floor(i phi) phi) and
    b = floor(floor(i phi) phi^2), the i-th row of the Wythoff array. It is cut at a window that grows evenly from
    ``w_min`` for the first head to ``w_max`` for the last. No number is in two rows, so without ``modified`` no two
    heads share a distance.

    Args:
        num_heads: Number h of heads.
        num_tokens: Number N of tokens.
        w_min: Window of the first head.
        w_max: Window of the last head; ``None`` for N // 3, but at least ``w_min``.
        modified: Whether each row is continued backwards by two terms, b - a and 2a - b before it.

    Returns:
        For each head its distances in rising order, all below N. As in the authors' code the first term stays even
        if the window is smaller.
    """
    w_max = max(num_tokens // 3, w_min) if w_max is None else w_max
    heads = []
    for i in range(1, num_heads + 1):
        # In integers: floor(n phi) = floor((n + sqrt(5 n^2)) / 2), and phi^2 = phi + 1.
        golden = (i + isqrt(5 * i * i)) // 2
        a = (golden + isqrt(5 * golden * golden)) // 2
        b = a + golden
        window = w_min + (w_max - w_min) * (i - 1) // (num_heads - 1) if num_heads > 1 else w_max
        if modified:
            a, b = 2 * a - b, b - a
        terms = {a}
        while b <= window:
            terms.add(b)
            a, b = b, a + b
        heads.append(sorted(term for term in terms if term < num_tokens))
    return heads


@register_attention
class Fibottention(nn.Module):
    r"""Softmax attention in which a head sees only tokens at Fibonacci distances, a different sequence for each head.

    With D_h the distances of head h (:func:`wythoff_distances`) on the flattened sequence, which is row by row, and
    frame by frame, over the grid, and S the set of pairs with :math:`|i - j| \in D_h`:

    .. math::
        y_i = \sum_{j:\,(i,j) \in S} \mathrm{softmax}_{j:\,(i,j) \in S}\left(q_i \cdot k_j / \sqrt{d}\right) v_j
        \quad \text{(sparse)}, \qquad
        y_i = \sum_{j} \mathrm{softmax}_{j}\left([(i,j) \in S] \; q_i \cdot k_j / \sqrt{d}\right) v_j
        \quad \text{(masked)}

    ``masked`` is what the authors' code computes: logits outside the pattern become zero, not minus infinity, and
    stay in the softmax, so every token keeps some weight and nothing is saved. ``sparse`` is what the paper counts:
    only the pattern's tokens are gathered, about log N for each head. There, a token with none in reach sees itself
    alone.

    Args:
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.
        form: ``'sparse'``, O(N log N), or ``'masked'``, O(N^2).
        modified: Whether each head's sequence is continued backwards by two terms; the first head then sees each
            token itself as well.
        w_min: Window of the first head, in tokens.
        w_max: Window of the last head; ``None`` for a third of the tokens.
        qkv_bias: Whether query, key and value have a bias.

    Raises:
        UserError: ``form`` is unknown, or the heads do not divide the channels.
    """

    about: ClassVar[About] = About(
        source='Rahimian, Govind, Maity, Reilly, Kuemmerle, Das and Dutta, "Fibottention: Inceptive Visual '
        'Representation Learning with Diverse Attention Across Heads", 2024, arXiv 2406.19391, Algorithms 1 to 3, '
        "and the authors' code",
        equation='y_i = sum_j softmax_j(q_i . k_j / sqrt(d)) v_j over j with |i - j| in the Fibonacci sequence of the '
        'head, cut at its window',
        cost='N log N',
        not_inflated='The tokens of all frames are one sequence, whose distances and windows depend on its length.',
        left_out="The class token, which sees and is seen by all, since there is none. The shuffling of the heads' "
        'sequences by depth, which only renames heads that are trained from scratch. Of the windows that the paper '
        'tried, w_min = 5 and w_max = N // 3 of the authors\' code are the defaults. form="sparse" is a softmax over '
        'the pattern alone, where the code masks logits to zero before a softmax over all tokens (form="masked", N^2). '
        'A clip is one sequence; the paper attends within frames and over time in turn.',
    )

    def __init__(
        self,
        dim: int,
        num_heads: int,
        form: str = 'sparse',
        modified: bool = False,
        w_min: int = 5,
        w_max: int | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice('form', form, FORMS)
        self.dim, self.num_heads, self.form = dim, num_heads, form
        self.modified, self.w_min, self.w_max = modified, w_min, w_max
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Map tokens (B, L, C) on ``grid`` (1, 2 or 3 sizes, product L) to tokens (B, L, C)."""
        q, k, v = self._inputs(x, grid)
        with without_autocast(x):
            if self.form == 'masked':
                y = self._weights(q, k) @ v
            else:
                heads = zip(self._distances(x.shape[1]), q.unbind(1), k.unbind(1), v.unbind(1), strict=True)
                y = torch.stack([_attend(*head) for head in heads], dim=1)
        return self.proj(y.transpose(1, 2).flatten(2).to(x.dtype))

    def kernel(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The weights of the tokens in every head, (B, heads, N, N); rows sum to one."""
        q, k, _ = self._inputs(x, grid)
        with without_autocast(x):
            return self._weights(q, k)

    def _inputs(self, x: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values, (B, heads, L, d)."""
        check_tokens(x, grid, self.dim, self.about.axes)
        qkv = at_least_float32(self.qkv(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q * q.shape[-1] ** -0.5, k, v

    def _distances(self, num_tokens: int) -> list[list[int]]:
        return wythoff_distances(self.num_heads, num_tokens, self.w_min, self.w_max, self.modified)

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        """The weights as a matrix, in either form."""
        count = q.shape[2]
        index = torch.arange(count, device=q.device)
        apart = (index[:, None] - index).abs()
        pattern = torch.stack(
            [torch.isin(apart, torch.tensor(head, device=q.device)) for head in self._distances(count)]
        )
        scores = q @ k.transpose(-1, -2)
        if self.form == 'masked':
            return (scores * pattern).softmax(dim=-1)
        alone = ~pattern.any(dim=-1, keepdim=True) & (apart == 0)
        return scores.masked_fill(~(pattern | alone), -torch.inf).softmax(dim=-1)


def _attend(distances: list[int], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one head, (B, L, d), to the tokens at ``distances`` before and after each token."""
    count = q.shape[1]
    nearest = distances[0] if distances else count
    shifts = sorted({sign * distance for distance in distances for sign in (-1, 1)})
    index = torch.arange(count, device=q.device)
    if alone := 2 * nearest > count:  # some tokens in the middle see none
        shifts.append(0)
    source = index[:, None] + torch.tensor(shifts, device=q.device)
    seen = (source >= 0) & (source < count)
    if alone:
        seen[:, -1] = (index < nearest) & (index >= count - nearest)
    near_k, near_v = (_shifted(z, shifts) for z in (k, v))
    scores = (near_k @ q.unsqueeze(-1)).squeeze(-1)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    return (weights.unsqueeze(-2) @ near_v).squeeze(-2)


def _shifted(z: Tensor, shifts: list[int]) -> Tensor:
    """Tokens (B, L, d) at every shift from each position, (B, L, shifts, d); zeros beyond the ends."""
    reach, count = max(map(abs, shifts)), z.shape[1]
    z = F.pad(z, (0, 0, reach, reach))
    return torch.stack([z[:, reach + shift : reach + shift + count] for shift in shifts], dim=2)
