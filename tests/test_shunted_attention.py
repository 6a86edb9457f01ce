"""Shunted attention."""

import math

import pytest
import torch
from oracle import GRIDS, RELATIVE, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens
from torch.nn import functional as F

from lisa_backbone.attention import ShuntedAttention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def build(dim=12, num_heads=3, **options):
    return spread_parameters(ShuntedAttention(dim, num_heads, **options).double())


def merge(part, frame, rate):
    """Patches of rate x rate tokens of a frame (B, H, W, C), cut at the border, times the weights of their places."""
    rows = []
    for i in range(0, frame.shape[1], rate):
        row = []
        for j in range(0, frame.shape[2], rate):
            total = part.merge.bias
            for a, line in enumerate(frame[:, i : i + rate].unbind(1)):
                for b, token in enumerate(line[:, j : j + rate].unbind(1)):
                    total = total + token @ part.merge.weight[:, :, a, b].T
            centred = total - total.mean(-1, keepdim=True)
            normal = centred / (centred.square().mean(-1, keepdim=True) + part.norm.eps).sqrt()
            row.append(F.gelu(normal * part.norm.weight + part.norm.bias))
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


def enhance(part, value):
    """A map (B, h, w, c) plus its 3 x 3 depthwise convolution."""
    out = value + part.local.bias
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            moved = torch.zeros_like(value)
            h, w = value.shape[1:3]
            to_i, to_j = slice(max(-a, 0), h - max(a, 0)), slice(max(-b, 0), w - max(b, 0))
            from_i, from_j = slice(max(a, 0), h - max(-a, 0)), slice(max(b, 0), w - max(-b, 0))
            moved[:, to_i, to_j] = value[:, from_i, from_j]
            out = out + moved * part.local.weight[:, 0, a + 1, b + 1]
    return out


def by_definition(module, x, grid, rates):
    """Head by head, with the keys and values of its rate from all frames."""
    d, first, outputs = module.dim // module.num_heads, 0, []
    frames = x.reshape(x.shape[0], -1, *(1, *grid)[-2:], module.dim).unbind(1)
    for part, heads, rate in zip(module.merged, module.heads, rates, strict=True):
        keys, values = [], []
        for frame in frames:
            key, value = part.key_value(merge(part, frame, rate)).split(heads * d, dim=-1)
            keys.append(key.flatten(1, 2))
            values.append(enhance(part, value).flatten(1, 2))
        keys, values = torch.cat(keys, dim=1), torch.cat(values, dim=1)
        for h in range(heads):
            at, cut = slice((first + h) * d, (first + h + 1) * d), slice(h * d, (h + 1) * d)
            scores = module.query(x)[..., at] @ keys[..., cut].transpose(1, 2) / math.sqrt(d)
            outputs.append(scores.softmax(dim=-1) @ values[..., cut])
        first += heads
    return module.proj(torch.cat(outputs, dim=-1))


@pytest.mark.parametrize('rates', [(2, 1), (4, 2), (1,), (3, 2, 1)])
@pytest.mark.parametrize('grid', GRIDS)
def test_equals_the_definition(grid, rates):
    assert_equals_oracle(build(reductions=rates), lambda module, x, grid: by_definition(module, x, grid, rates), grid)


def test_heads_are_dealt_out_among_the_rates():
    assert ShuntedAttention(12, 3, reductions=(8, 4)).heads == [2, 1]
    assert ShuntedAttention(12, 6, reductions=(4, 2, 1)).heads == [2, 2, 2]
    alone = ShuntedAttention(12, 1, reductions=(4, 2))
    assert alone.heads == [1]
    assert [part.merge.stride[0] for part in alone.merged] == [4]


def test_with_one_merged_token_a_head_gives_every_query_the_same():
    """A rate as large as the grid leaves nothing to choose from; the heads of the other rate still choose."""
    module, x = build(dim=8, num_heads=2, reductions=(8, 1)), tokens((5, 7), dim=8)
    with torch.no_grad():
        module.proj.weight.copy_(torch.eye(8))
    y = module(x, (5, 7))
    assert relative_error(y[:, 1:, :4], y[:, :1, :4].expand(-1, 34, -1)) < RELATIVE
    assert (y[:, 1:, 4:] - y[:, :1, 4:]).abs().max() > 1e-3


def test_a_clip_of_identical_frames_is_treated_like_the_image():
    module, x = build(), tokens((5, 7))
    assert relative_error(module(x.repeat(1, 3, 1), (3, 5, 7)), module(x, (5, 7)).repeat(1, 3, 1)) < RELATIVE


@pytest.mark.parametrize(
    ('grid', 'merged'), [((8, 12), (6, 24)), ((5, 7), (4, 12)), ((3, 5, 7), (12, 36)), ((9,), (3, 5)), ((1, 1), (1, 1))]
)
def test_macs(grid, merged):
    n, dim, half = math.prod(grid), 16, 8
    macs = 2 * n * dim**2
    for rate, m in zip((4, 2), merged, strict=True):
        macs += m * (rate**2 * dim**2 + 2 * dim * half + 9 * half) + 2 * n * m * half
    assert count_macs(OnGrid(ShuntedAttention(dim, 4, reductions=(4, 2))), (1, dim, *grid)) == macs


@pytest.mark.parametrize('rates', [(), (2, 0)])
def test_unusable_rates_are_refused(rates):
    with pytest.raises(UserError, match='reductions'):
        ShuntedAttention(12, 3, reductions=rates)
