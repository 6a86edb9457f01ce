"""Cross-covariance attention of timm against its equation as loops."""

import math
import sys

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, spread_parameters, tokens

from lisa_backbone.attention import XCA, build_attention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError

pytest.importorskip('timm')


def by_definition(module, x, grid):
    """A d x d matrix for every sample and head, from cosines of channels over the tokens."""
    inner = module.attention
    heads, d = inner.num_heads, module.dim // inner.num_heads
    y = []
    for sample in x:
        rows = sample @ inner.qkv.weight.T + inner.qkv.bias
        parts = []
        for h in range(heads):
            q, k, v = (rows[:, s * module.dim + h * d :][:, :d].T for s in range(3))
            cosines = [[(a * b).sum() / (a.square().sum() * b.square().sum()).sqrt() for b in k] for a in q]
            weights = (inner.temperature[h, 0, 0] * torch.stack([torch.stack(row) for row in cosines])).exp()
            parts.append((weights / weights.sum(1, keepdim=True)) @ v)
        y.append(torch.cat(parts).T)
    return torch.stack(y) @ inner.proj.weight.T + inner.proj.bias


@pytest.mark.parametrize('grid', GRIDS)
def test_it_is_its_definition(grid):
    assert_equals_oracle(spread_parameters(XCA(12, 3).double()), by_definition, grid)


def test_scale_of_the_input_changes_values_but_not_weights():
    """Queries and keys are normalised over the tokens, so without biases the output scales as the input."""
    module = XCA(12, 3, qkv_bias=False).double()
    x = tokens((4, 6))
    torch.nn.init.zeros_(module.attention.proj.bias)
    torch.testing.assert_close(module(3 * x, (4, 6)), 3 * module(x, (4, 6)))


@pytest.mark.parametrize('grid', [(50,), (7, 9), (3, 5, 6)])
def test_macs(grid):
    n, dim, heads = math.prod(grid), 16, 4
    assert count_macs(OnGrid(XCA(dim, heads)), (1, dim, *grid)) == 4 * n * dim**2 + 2 * n * dim * dim // heads


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_no_input_and_no_bias_gives_no_undefined_values_in_half_precision(dtype):
    module = XCA(12, 3, qkv_bias=False)
    x = torch.zeros(1, 20, 12, requires_grad=True)
    with torch.autocast('cpu', dtype):
        y = module(x, (4, 5))
    y.float().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_without_timm_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm.models.xcit', None)
    with pytest.raises(UserError, match='pip install timm'):
        build_attention('XCA', 12, 3)
