"""Windowed attention of Swin Transformer, whose core is timm's."""

import itertools
import math
import sys

import pytest
import torch
from oracle import GRIDS, RELATIVE, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import WindowAttention
from lisa_backbone.attention.windows import join_windows, split_windows, window_mask
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError

pytest.importorskip('timm')


def build(dim=12, num_heads=3, **options):
    return spread_parameters(WindowAttention(dim, num_heads, **options).double())


def window_of(position, size, window, shift):
    """Number of the window of a position on an axis whose windows start at shift - window; wrapped ones stay apart."""
    moved = shift if size > window else 0
    return (position - moved) // window


def by_definition(module, x, grid):
    """Softmax over the tokens of the same frame and window, token by token."""
    core, m, heads, d = module.core, module.window_size, module.num_heads, module.dim // module.num_heads
    q, k, v = core.qkv(x).chunk(3, dim=-1)
    shift = m // 2 if module.shift else 0
    height, width = (1, *grid)[-2:]
    positions = list(itertools.product(range(x.shape[1] // (height * width)), range(height), range(width)))
    places = [(t, window_of(i, height, m, shift), window_of(j, width, m, shift)) for t, i, j in positions]
    rows = []
    for a, (_, row, column) in enumerate(positions):
        near = [b for b in range(len(positions)) if places[b] == places[a]]
        # timm orders its table by the offset from the key to the query.
        entries = [(row - positions[b][1] + m - 1) * (2 * m - 1) + column - positions[b][2] + m - 1 for b in near]
        bias = core.relative_position_bias_table[entries]
        parts = []
        for h in range(heads):
            cut = slice(h * d, (h + 1) * d)
            scores = torch.einsum('bc,bjc->bj', q[:, a, cut], k[:, near, cut]) / math.sqrt(d) + bias[:, h]
            parts.append(torch.einsum('bj,bjc->bc', scores.softmax(dim=-1), v[:, near, cut]))
        rows.append(torch.cat(parts, dim=-1))
    return core.proj(torch.stack(rows, dim=1))


@pytest.mark.parametrize('options', [dict(window_size=3, shift=True), dict(window_size=2), dict(shift=True)], ids=str)
@pytest.mark.parametrize('grid', GRIDS)
def test_equals_the_definition(grid, options):
    assert_equals_oracle(build(**options), by_definition, grid)


@pytest.mark.parametrize('shift', [False, True])
def test_equals_the_block_of_timm_where_nothing_is_padded(shift):
    """Windows, shift and mask against timm's own."""
    from timm.models.swin_transformer import SwinTransformerBlock

    module = build(window_size=4, shift=shift)
    block = SwinTransformerBlock(12, (8, 12), 3, window_size=4, shift_size=2 if shift else 0).double()
    block.attn.load_state_dict(module.core.state_dict())
    x = tokens((8, 12))
    expected = block._attn(x.reshape(2, 8, 12, 12)).reshape(x.shape)
    assert relative_error(module(x, (8, 12)), expected) < RELATIVE


@pytest.mark.parametrize('shift', [False, True])
@pytest.mark.parametrize('grid', [(7,), (5, 7), (3, 4, 5)])
def test_the_kernel_is_the_operator(grid, shift):
    module, x = build(window_size=3, shift=shift), tokens(grid)
    kernel = module.kernel(x, grid)
    assert kernel.shape == (2, 3, x.shape[1], x.shape[1])
    torch.testing.assert_close(kernel.sum(-1), torch.ones_like(kernel[..., 0]))
    values = module.core.qkv(x)[..., 24:].unflatten(-1, (3, 4)).transpose(1, 2)
    assert relative_error(module(x, grid), module.core.proj((kernel @ values).transpose(1, 2).flatten(2))) < RELATIVE


def seen(module, grid, token):
    """Which tokens the output of a token depends on."""
    x = tokens(grid).requires_grad_()
    (grad,) = torch.autograd.grad(module(x, grid)[:, token].sum(), x)
    return (grad.abs().sum(dim=(0, 2)) > 0).reshape(grid)


def test_a_token_sees_its_window_and_no_more():
    plain = seen(build(window_size=3), (7, 7), 7 * 4 + 4)
    assert plain.nonzero().tolist() == [[i, j] for i in (3, 4, 5) for j in (3, 4, 5)]
    shifted = build(window_size=3, shift=True)  # windows from 1 to 3 and from 4 to 6
    assert seen(shifted, (7, 7), 7 * 3 + 3).nonzero().tolist() == [[i, j] for i in (1, 2, 3) for j in (1, 2, 3)]
    assert seen(shifted, (7, 7), 0).nonzero().tolist() == [[0, 0]]


def test_padding_does_not_leak_into_the_tokens():
    """A grid of a window and a bit: what lies alone in a window of padding sees itself alone."""
    module, x = build(), tokens((8, 8))
    alone = module.core.proj(module.core.qkv(x)[..., 24:])
    assert relative_error(module(x, (8, 8))[:, -1], alone[:, -1]) < RELATIVE


@pytest.mark.parametrize('grid', [(5,), (4, 6), (5, 7), (3, 4, 5)])
def test_windows_are_put_back_where_they_were(grid):
    x = tokens(grid).reshape(2, *grid, 12)
    cut = (2, 3, 4)[: len(grid)], (1, 0, 2)[: len(grid)]
    assert torch.equal(join_windows(split_windows(x, *cut), grid, *cut), x)
    mask = window_mask(grid, *cut)
    assert mask.diagonal(dim1=1, dim2=2).all()
    assert torch.equal(mask, mask.transpose(1, 2))


@pytest.mark.parametrize(('grid', 'padded'), [((7, 14), 98), ((8, 9), 196), ((3, 7, 5), 147), ((10,), 98)])
def test_macs(grid, padded):
    """Projections of all positions, padded ones too, and two products with the 49 tokens of a window."""
    assert count_macs(OnGrid(WindowAttention(16, 4)), (1, 16, *grid)) == 4 * padded * 16**2 + 2 * padded * 49 * 16


def test_windows_of_nothing_are_refused():
    with pytest.raises(UserError, match='window_size=0'):
        WindowAttention(12, 3, window_size=0)


def test_without_timm_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm.models.swin_transformer', None)
    with pytest.raises(UserError, match='pip install timm'):
        WindowAttention(12, 3)
