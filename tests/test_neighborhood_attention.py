"""Neighborhood attention."""

import itertools
import math

import pytest
import torch
from oracle import (
    GRIDS,
    RELATIVE,
    LargestTensor,
    OnGrid,
    assert_equals_oracle,
    relative_error,
    spread_parameters,
    tokens,
)

from lisa_backbone.attention import NeighborhoodAttention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def build(dim=12, num_heads=3, **options):
    return spread_parameters(NeighborhoodAttention(dim, num_heads, **options).double())


def nearest(i, n, size, dilation=1):
    """The ``size`` positions nearest to i of those that share its remainder; a centred choice, else the border's."""
    same = [j for j in range(n) if j % dilation == i % dilation]
    runs = [same[s : s + size] for s in range(max(len(same) - size, 0) + 1)]
    return min(runs, key=lambda run: abs(run[0] + run[-1] - 2 * i))


def by_definition(module, x, grid):
    """Softmax over the neighbours, token by token."""
    heads, d, size, dilation = module.num_heads, module.dim // module.num_heads, module.kernel_size, module.dilation
    q, k, v = module.qkv(x).chunk(3, dim=-1)
    sizes = (1, 1, *grid)[-3:]
    number = {p: n for n, p in enumerate(itertools.product(*map(range, sizes)))}
    rows = []
    for (t, i, j), a in number.items():
        near = list(
            itertools.product(
                nearest(t, sizes[0], module.kernel_frames),
                nearest(i, sizes[1], size, dilation),
                nearest(j, sizes[2], size, dilation),
            )
        )
        tokens_ = [number[p] for p in near]
        bias = torch.stack(
            [
                module.rpe[:, (r - i) // dilation + size - 1, (c - j) // dilation + size - 1]
                + module.rpe_time[:, s - t + module.kernel_frames - 1]
                for s, r, c in near
            ]
        )
        parts = []
        for h in range(heads):
            cut = slice(h * d, (h + 1) * d)
            scores = torch.einsum('bc,bjc->bj', q[:, a, cut], k[:, tokens_, cut]) / math.sqrt(d) + bias[:, h]
            parts.append(torch.einsum('bj,bjc->bc', scores.softmax(dim=-1), v[:, tokens_, cut]))
        rows.append(torch.cat(parts, dim=-1))
    return module.proj(torch.stack(rows, dim=1))


@pytest.mark.parametrize(
    'options', [dict(), dict(kernel_size=3), dict(kernel_size=3, dilation=2), dict(kernel_size=3, dilation=3)], ids=str
)
@pytest.mark.parametrize('grid', GRIDS)
def test_equals_the_definition(grid, options):
    assert_equals_oracle(build(**options), by_definition, grid)


def seen(module, grid, token):
    """Which tokens the output of a token depends on."""
    x = tokens(grid).requires_grad_()
    (grad,) = torch.autograd.grad(module(x, grid)[:, token].sum(), x)
    return (grad.abs().sum(dim=(0, 2)) > 0).reshape(grid).nonzero().tolist()


def test_the_neighbourhood_is_moved_inward_at_a_border():
    module = build(kernel_size=3)
    assert seen(module, (6, 7), 7 * 2 + 3) == [[i, j] for i in (1, 2, 3) for j in (2, 3, 4)]
    assert seen(module, (6, 7), 7 * 5) == [[i, j] for i in (3, 4, 5) for j in (0, 1, 2)]
    assert seen(module, (5, 4, 4), 0) == [[t, i, j] for t in (0, 1, 2) for i in (0, 1, 2) for j in (0, 1, 2)]
    dilated = build(kernel_size=3, dilation=2)
    assert seen(dilated, (6, 7), 7 * 2 + 3) == [[i, j] for i in (0, 2, 4) for j in (1, 3, 5)]
    assert seen(dilated, (6, 7), 6) == [[i, j] for i in (0, 2, 4) for j in (2, 4, 6)]


@pytest.mark.parametrize('options', [dict(kernel_size=3), dict(kernel_size=3, dilation=2)], ids=str)
@pytest.mark.parametrize('grid', [(7,), (5, 7), (3, 4, 5)])
def test_the_kernel_is_the_operator(grid, options):
    module, x = build(**options), tokens(grid)
    kernel = module.kernel(x, grid)
    assert kernel.shape == (2, 3, x.shape[1], x.shape[1])
    torch.testing.assert_close(kernel.sum(-1), torch.ones_like(kernel[..., 0]))
    values = module.qkv(x)[..., 24:].unflatten(-1, (3, 4)).transpose(1, 2)
    assert relative_error(module(x, grid), module.proj((kernel @ values).transpose(1, 2).flatten(2))) < RELATIVE


def test_where_the_neighbourhood_is_the_grid_it_is_softmax_attention():
    module, x = build(kernel_size=5), tokens((5, 4))
    with torch.no_grad():
        module.rpe.zero_()
        module.rpe_time.zero_()
    q, k, v = module.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert relative_error(module(x, (5, 4)), module.proj(y)) < RELATIVE


def test_a_clip_of_identical_frames_is_treated_like_the_image():
    module, x = NeighborhoodAttention(12, 3).double(), tokens((8, 9))
    assert relative_error(module(x.repeat(1, 4, 1), (4, 8, 9)), module(x, (8, 9)).repeat(1, 4, 1)) < RELATIVE


@pytest.mark.parametrize(
    ('grid', 'neighbours'), [((14, 9), 49), ((3, 9), 21), ((20,), 7), ((2, 8, 9), 98), ((5, 8, 9), 147)]
)
def test_macs(grid, neighbours):
    n = math.prod(grid)
    assert count_macs(OnGrid(NeighborhoodAttention(16, 4)), (1, 16, *grid)) == 4 * n * 16**2 + 2 * n * neighbours * 16


def test_memory_is_linear_in_the_tokens():
    module, sizes = NeighborhoodAttention(8, 2), []
    for grid in ((16, 16), (32, 32)):
        with LargestTensor() as largest:
            module(tokens(grid, 8, dtype=torch.float32), grid).sum().backward()
        sizes.append(largest.elements)
    assert sizes[1] == 4 * sizes[0]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(kernel_size=4), 'kernel_size=4'),
        (dict(kernel_frames=0), 'kernel_frames=0'),
        (dict(dilation=0), 'dilation'),
    ],
)
def test_unusable_neighbourhoods_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        NeighborhoodAttention(12, 3, **options)
