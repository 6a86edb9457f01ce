"""Vicinity attention against a matrix on tokens from distances, and its locality."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import VicinityAttention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def matrix(q, k, grid):
    """Weights of one head from the distances of every pair along every axis."""
    positions = list(itertools.product(*map(range, grid)))
    near = [
        [sum(math.cos(math.pi / 2 * abs(a - b) / n) for a, b, n in zip(i, j, grid, strict=True)) for j in positions]
        for i in positions
    ]
    weights = (q.clamp(min=0) @ k.clamp(min=0).T) * torch.tensor(near, dtype=q.dtype)
    return weights / (weights.sum(1, keepdim=True) + 1e-4)


def by_definition(module, x, grid):
    inner = module.proj.in_features
    d = inner // module.num_heads
    first, second = module.gate[0].weight, module.gate[2].weight
    out = []
    for sample in x:
        qkv = sample @ module.qkv.weight.T + module.qkv.bias
        q, k, v = (qkv[:, s * inner :][:, :inner] for s in range(3))
        heads = [slice(h * d, (h + 1) * d) for h in range(module.num_heads)]
        o = torch.cat([matrix(q[:, head], k[:, head], grid) @ v[:, head] for head in heads], dim=1)
        gate = 1 / (1 + (-second @ (first @ sample.mean(0)).clamp(min=0)).exp())
        out.append((o @ module.proj.weight.T + module.proj.bias) * (1 + gate))
    return torch.stack(out)


@pytest.mark.parametrize('reduction', [1, 2])
@pytest.mark.parametrize('grid', GRIDS)
def test_it_is_its_definition(grid, reduction):
    module = spread_parameters(VicinityAttention(12, 3, reduction=reduction).double())
    assert_equals_oracle(module, by_definition, grid)


def test_kernel_is_the_matrix():
    module, x, grid = spread_parameters(VicinityAttention(12, 3).double()), tokens((4, 5)), (4, 5)
    q, k, _ = module.qkv(x).chunk(3, dim=-1)
    expected = [
        torch.stack([matrix(a[:, 2 * h : 2 * h + 2], b[:, 2 * h : 2 * h + 2], grid) for h in range(3)])
        for a, b in zip(q, k, strict=True)
    ]
    assert relative_error(module.kernel(x, grid), torch.stack(expected)) < 1e-10


def test_of_equal_tokens_the_nearer_ones_weigh_more():
    module = VicinityAttention(12, 3).double()
    torch.nn.init.ones_(module.qkv.bias)
    weights = module.kernel(torch.zeros(1, 63, 12, dtype=torch.float64), (7, 9))[0, 0].reshape(7, 9, 7, 9)
    assert (weights[0, 0].diff(dim=0) < 0).all()
    assert (weights[0, 0].diff(dim=1) < 0).all()
    assert weights[3, 4].argmax() == 3 * 9 + 4
    assert (weights > 0).all()


@pytest.mark.parametrize('grid', [(50,), (7, 9), (3, 5, 6)])
def test_macs(grid):
    n, dim, heads, inner = math.prod(grid), 16, 4, 8
    d = inner // heads
    expected = 4 * n * dim * inner + 2 * dim**2  # projections and gates
    expected += 2 * n * 2 * len(grid) * inner * (d + 1)  # keys with values, queries with both
    assert count_macs(OnGrid(VicinityAttention(dim, heads)), (1, dim, *grid)) == expected


def test_reductions_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match='reduction=5'):
        VicinityAttention(12, 3, reduction=5)
    with pytest.raises(UserError, match='num_heads=4'):
        VicinityAttention(12, 4, reduction=2)
