"""Synthesizer against its equations, with an interpolation written out."""

import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import Synthesizer, build_attention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def read(lines, share):
    """The mean of the two of n lines that are nearest to a share of the length, by their distance."""
    position = min(max(share * len(lines) - 0.5, 0.0), len(lines) - 1.0)
    low = math.floor(position)
    return lines[low] + (position - low) * (lines[min(low + 1, len(lines) - 1)] - lines[low])


def by_definition(module, x, grid):
    """One position after the other."""
    rows, columns = (1, *grid)[-2:]
    hidden = module.hidden(x).clamp(min=0).unflatten(-1, (module.num_heads, -1))
    logits = []
    for j in range(rows * columns):
        product = 1.0
        for image in module.maps:
            row = read(image.unbind(-2), (j // columns + 0.5) / rows)
            weights = read(row.unbind(-1), (j % columns + 0.5) / columns)
            product = product * ((hidden * weights[:, :-1]).sum(-1) + weights[:, -1])
        logits.append(product)
    weights = torch.stack(logits, dim=-1).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    values = module.value(x).unflatten(-1, (module.num_heads, -1))
    return module.proj(torch.einsum('bihj,bjhd->bihd', weights, values).flatten(2))


@pytest.mark.parametrize('variant', ['dense', 'factorized'])
@pytest.mark.parametrize('grid', [grid for grid in GRIDS if len(grid) < 3])
def test_equals_oracle(grid, variant):
    assert_equals_oracle(spread_parameters(Synthesizer(12, 3, variant).double()), by_definition, grid)


def test_on_the_base_grid_the_weights_are_the_learned_ones():
    module, x = spread_parameters(Synthesizer(12, 3, base=(3, 5)).double()), tokens((3, 5))
    hidden = module.hidden(x).relu().unflatten(-1, (3, 4)).transpose(1, 2)
    image = module.maps[0].flatten(2)
    expected = (hidden @ image[:, :-1] + image[:, -1:]).softmax(-1)
    assert relative_error(module.kernel(x, (3, 5)), expected) < 1e-12


def test_weights_depend_on_the_query_and_on_positions_but_on_no_other_token():
    module, x = spread_parameters(Synthesizer(12, 3).double()), tokens((4, 6))
    kernel = module.kernel(x, (4, 6))
    assert relative_error(kernel.sum(-1), torch.ones(2, 3, 24)) < 1e-12
    others = x.clone()
    others[:, 1:] += 1
    changed = module.kernel(others, (4, 6))
    assert torch.equal(changed[:, :, 0], kernel[:, :, 0])
    assert relative_error(changed[:, :, 1], kernel[:, :, 1]) > 1e-2


@pytest.mark.parametrize('grid', [(50,), (7, 9), (14, 14)])
def test_macs(grid):
    n, (rows, columns), dim = math.prod(grid), (1, *grid)[-2:], 12
    macs = 3 * n * dim * dim + n * n * dim
    assert count_macs(OnGrid(Synthesizer(dim, 3)), (1, dim, *grid)) == macs + n * n * dim
    factorized = Synthesizer(dim, 3, 'factorized')
    assert count_macs(OnGrid(factorized), (1, dim, *grid)) == macs + n * (rows + columns) * dim


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match='factorized'):
        build_attention(dict(type='Synthesizer', variant='random'), 12, 3)
