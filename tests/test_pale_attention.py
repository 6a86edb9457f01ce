"""Pale-shaped attention."""

import math

import pytest
import torch
from oracle import GRIDS, RELATIVE, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens
from torch.nn import functional as F

from lisa_backbone.attention import PaleAttention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError

IMAGES = [grid for grid in GRIDS if len(grid) == 2]


def build(dim=12, num_heads=3, **options):
    return spread_parameters(PaleAttention(dim, num_heads, **options).double())


def attend_in_rows(mixer, image):
    """Every group of interlaced rows by itself: separable convolutions of the rows stacked, then softmax attention."""
    height, size = image.shape[1], mixer.pale_size
    step = -(-height // size)
    out = torch.zeros_like(image)
    dim = image.shape[-1]
    d = dim // mixer.num_heads
    for first in range(step):
        group = list(range(first, height, step))
        stacked = image[:, group].permute(0, 3, 1, 2)
        z = []
        for j, layer in enumerate(mixer.pointwise):
            filters, bias = mixer.depthwise.weight[j::3], mixer.depthwise.bias[j::3]
            z.append(layer(F.conv2d(stacked, filters, bias, padding=1, groups=dim).flatten(2).transpose(1, 2)))
        heads = []
        for h in range(mixer.num_heads):
            q, k, v = (a[..., h * d : (h + 1) * d] for a in z)
            heads.append((q @ k.transpose(1, 2) / math.sqrt(d)).softmax(-1) @ v)
        y = torch.cat(heads, dim=-1).reshape(image.shape[0], len(group), -1, dim)
        out = out.index_copy(1, torch.tensor(group), y)
    return out


def by_definition(module, x, grid):
    image, half = x.reshape(-1, *grid, module.dim), module.dim // 2
    rows = attend_in_rows(module.rows, image[..., :half])
    columns = attend_in_rows(module.columns, image[..., half:].transpose(1, 2)).transpose(1, 2)
    return module.proj(torch.cat([rows, columns], dim=-1).reshape(x.shape))


@pytest.mark.parametrize(
    'options', [dict(), dict(pale_size=2), dict(pale_size=3, num_heads=2), dict(pale_size=1, num_heads=4)], ids=str
)
@pytest.mark.parametrize('grid', IMAGES)
def test_equals_the_definition(grid, options):
    module = build(dim=16 if options.get('num_heads') == 4 else 12, **options)
    assert_equals_oracle(module, by_definition, grid, dim=module.dim)


@pytest.mark.parametrize('options', [dict(), dict(pale_size=2), dict(pale_size=3, num_heads=2)], ids=str)
@pytest.mark.parametrize('grid', [(5, 7), (6, 4)])
def test_the_kernel_is_that_of_the_heads(grid, options):
    module, x = build(**options), tokens(grid)
    kernel, n = module.kernel(x, grid), x.shape[1]
    heads = module.rows.num_heads
    assert kernel.shape == (2, 2 * heads, n, n)
    torch.testing.assert_close(kernel.sum(-1), torch.ones_like(kernel[..., 0]))
    # Values that are the tokens themselves: what the filters of the value let through is the middle.
    for mixer in (module.rows, module.columns):
        with torch.no_grad():
            mixer.depthwise.weight[2::3] = torch.tensor([[[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]], dtype=x.dtype)
            mixer.depthwise.bias[2::3] = 0
            mixer.pointwise[2].weight.copy_(torch.eye(6))
            mixer.pointwise[2].bias.zero_()
    values = x.unflatten(-1, (2 * heads, -1)).transpose(1, 2)
    assert relative_error(module(x, grid), module.proj((kernel @ values).transpose(1, 2).flatten(2))) < RELATIVE


def test_a_token_sees_its_rows_and_columns_and_no_more():
    """With 6 x 8 tokens and s = 2 rows are 3 apart and columns 4."""
    module, x = build(pale_size=2), tokens((6, 8)).requires_grad_()
    (grad,) = torch.autograd.grad(module(x, (6, 8))[:, 8 * 1 + 2].sum(), x)
    seen = (grad.abs().sum(dim=(0, 2)) > 0).reshape(6, 8)
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[[1, 4]] = True
    expected[:, [2, 6]] = True
    assert torch.equal(seen, expected)


def test_where_a_pale_is_the_grid_every_token_sees_all():
    module, x = build(), tokens((5, 7)).requires_grad_()
    (grad,) = torch.autograd.grad(module(x, (5, 7))[:, 3].sum(), x)
    assert (grad.abs().sum(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize(
    ('grid', 'rows', 'columns'),
    [((14, 21), (2, 7), (3, 7)), ((8, 7), (2, 4), (1, 7)), ((3, 20), (1, 3), (3, 7)), ((15, 1), (3, 5), (1, 1))],
)
def test_macs(grid, rows, columns):
    """Groups and their rows, for both axes; a group is convolved, projected and attends."""
    dim, half = 16, 8
    macs = math.prod(grid) * dim**2
    for (groups, lines), length in ((rows, grid[1]), (columns, grid[0])):
        n = lines * length
        macs += groups * (n * half * 9 * 3 + 3 * n * half**2 + 2 * n * n * half)
    assert count_macs(OnGrid(PaleAttention(dim, 4)), (1, dim, *grid)) == macs


@pytest.mark.parametrize(('arguments', 'words'), [((12, 3, 0), 'pale_size=0'), ((9, 3), 'cannot be halved')])
def test_unusable_options_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        PaleAttention(*arguments)
