"""The mixer of PoolFormer."""

import itertools

import pytest
import torch
from oracle import GRIDS, RELATIVE, OnGrid, relative_error, tokens

from lisa_backbone.attention import AveragePooling
from lisa_backbone.complexity import count
from lisa_backbone.errors import UserError


def by_definition(x, grid, radius):
    """The mean over the positions at most ``radius`` away on every axis, minus the token."""
    positions = list(itertools.product(*map(range, grid)))
    rows = []
    for i, at in enumerate(positions):
        near = [j for j, to in enumerate(positions) if max(abs(a - b) for a, b in zip(at, to, strict=True)) <= radius]
        rows.append(sum(x[:, j] for j in near) / len(near) - x[:, i])
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize('pool_size', [1, 3, 5])
@pytest.mark.parametrize('grid', GRIDS)
def test_equals_the_definition(grid, pool_size):
    module, x, weights = AveragePooling(12, 3, pool_size=pool_size), tokens(grid).requires_grad_(), tokens(grid, seed=1)
    y, expected = module(x, grid), by_definition(x, grid, pool_size // 2)
    assert (y - expected).abs().max() < 1e-12
    grads = [torch.autograd.grad((v * weights).sum(), x)[0] for v in (y, expected)]
    assert (grads[0] - grads[1]).abs().max() < 1e-12


@pytest.mark.parametrize('grid', [(7,), (5, 7), (3, 4, 5)])
def test_the_kernel_is_the_operator(grid):
    module, x = AveragePooling(12, 3), tokens(grid)
    kernel = module.kernel(x, grid)
    assert kernel.shape == (2, 3, x.shape[1], x.shape[1])
    assert relative_error(kernel[:, 0] @ x, module(x, grid)) < RELATIVE


@pytest.mark.parametrize('grid', [(1,), (9,), (5, 7), (3, 4, 5)])
def test_a_constant_is_left_with_nothing_up_to_the_border(grid):
    x = torch.full_like(tokens(grid), 3.0)
    assert AveragePooling(12, 3)(x, grid).abs().max() < 1e-12


def test_it_has_neither_parameters_nor_macs():
    module = AveragePooling(16, 4)
    assert not list(module.parameters())
    found = count(OnGrid(module), (1, 16, 9, 10))
    assert (found.macs, found.uncounted) == (0, ())


@pytest.mark.parametrize('pool_size', [2, 0, -1])
def test_pools_without_a_middle_are_refused(pool_size):
    with pytest.raises(UserError, match='odd'):
        AveragePooling(12, 3, pool_size=pool_size)
