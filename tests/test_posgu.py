"""The positional gating unit against its softmax, and what its two encodings see."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import PoSGU, build_attention, correlation
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def matrix(module, grid):
    """M, one entry after the other, (heads, N, N)."""
    places = [(0,) * (3 - len(grid)) + place for place in itertools.product(*map(range, grid))]
    offsets = torch.tensor([[[b - a for a, b in zip(i, j, strict=True)] for j in places] for i in places])
    heads = []
    for h in range(module.num_heads):
        if module.encoding == 'learned':
            table = module.rpe_table[h]
            radius = len(table) // 2
            inside = (offsets[..., 0] == 0) & (offsets.abs() <= radius).all(-1)
            heads.append(table[tuple((offsets[..., 1:] + radius).clamp(0, 2 * radius).unbind(-1))] * inside)
            continue
        inverse = module.rpe_spread[h] @ module.rpe_spread[h].T
        every = torch.cartesian_prod(*(torch.arange(1 - n, n) for n in (*(1,) * (3 - len(grid)), *grid)))
        logits = [
            -torch.einsum('...a,ab,...b', o - module.rpe_centre[h], inverse, o - module.rpe_centre[h]) / 2
            for o in (offsets, every)
        ]
        weights = (logits[0] - logits[1].max()).exp() + 1e-3 / len(every)
        heads.append(weights / weights.sum(-1, keepdim=True))
    return torch.stack(heads)


def by_definition(module, x, grid):
    u, v = torch.nn.functional.gelu(module.expand(x)).split(module.dim, dim=-1)
    u = module.norm(u).unflatten(-1, (module.num_heads, -1))
    gate = torch.einsum('hij,bjhd->bihd', matrix(module, grid), u) + module.beta[:, None]
    return module.proj(gate.flatten(2) * v)


@pytest.mark.parametrize('matrix_limit', [0, 10**6], ids=['fft', 'matrix'])
@pytest.mark.parametrize('options', [{}, dict(encoding='learned', window=3)], ids=['quadratic', 'learned'])
@pytest.mark.parametrize('grid', GRIDS)
def test_equals_oracle(grid, options, matrix_limit, monkeypatch):
    monkeypatch.setattr(correlation, 'MATRIX_LIMIT', matrix_limit)
    module = spread_parameters(PoSGU(12, 3, **options).double())
    # The floor of the weights magnifies what an FFT rounds, by up to its inverse.
    assert_equals_oracle(module, by_definition, grid, tolerance=1e-9)


@pytest.mark.parametrize('options', [{}, dict(encoding='learned', window=3)], ids=['quadratic', 'learned'])
def test_kernel_is_the_matrix(options):
    module, x = spread_parameters(PoSGU(12, 3, **options).double()), tokens((5, 7))
    expected = matrix(module, (5, 7)).expand(2, -1, -1, -1)
    assert relative_error(module.kernel(x, (5, 7)), expected) < 1e-12


def test_the_quadratic_encoding_looks_where_its_centre_is():
    """One group copies the token two rows above, or the mean of all where there is none."""
    module, grid = PoSGU(12, 3).double(), (9, 10)
    with torch.no_grad():
        module.rpe_centre.copy_(torch.tensor([[0.0, -2.0, 0.0]]).expand(3, 3))
        module.rpe_spread.copy_(10 * torch.eye(3))
    x = tokens(grid)
    kernel = module.kernel(x, grid)
    expected = torch.eye(90).roll(-20, 1)
    expected[:20] = 1 / 90
    assert (kernel[0, 0] - expected).abs().max() < 1e-3
    u, v = torch.nn.functional.gelu(module.expand(x)).chunk(2, dim=-1)
    assert relative_error(module(x, grid)[:, 20:], module.proj(module.norm(u)[:, :70] * v[:, 20:])) < 1e-2


def test_the_learned_encoding_sees_its_window_and_no_other_frame():
    module, grid = spread_parameters(PoSGU(12, 3, encoding='learned', window=3).double()), (2, 9, 11)
    x = tokens(grid).requires_grad_()
    y = module(x, grid).reshape(2, *grid, 12)
    (grad,) = torch.autograd.grad(y[0, 1, 4, 5].sum(), x)
    seen = grad.reshape(2, *grid, 12)[0].abs().sum(-1) > 1e-9 * grad.abs().max()
    expected = torch.zeros(grid, dtype=torch.bool)
    expected[1, 2:7, 3:8] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize('encoding', ['quadratic', 'learned'])
@pytest.mark.parametrize(('grid', 'sizes'), [((6, 7), None), ((14, 8), (27, 15)), ((3, 6, 5), (5, 12, 9))])
def test_macs(grid, sizes, encoding):
    n, dim, heads = math.prod(grid), 12, 3
    signals = dim + (heads if encoding == 'quadratic' else 0)
    expected = 3 * n * dim * dim  # in and out
    if encoding == 'quadratic':
        expected += math.prod(2 * size - 1 for size in grid) * 9 * heads  # A (o - c)
    if sizes is None:  # a small grid: products with the matrix
        expected += signals * n * n
    else:
        points, frequencies = math.prod(sizes), math.prod(sizes[:-1]) * (sizes[-1] // 2 + 1)
        expected += (2 * signals + heads) * 2.5 * points * math.log2(points) / 2 + 4 * signals * frequencies
    operator = PoSGU(dim, heads, encoding=encoding)
    assert count_macs(OnGrid(operator), (1, dim, *grid)) == pytest.approx(expected, abs=3)


def test_an_unknown_encoding_is_refused():
    with pytest.raises(UserError, match='quadratic'):
        build_attention(dict(type='PoSGU', encoding='cubic'), 12, 3)


def test_the_learned_encoding_inflates():
    """Other frames are outside its window, so that each frame of any clip gets what it gets as an image."""
    module = spread_parameters(PoSGU(12, 3, encoding='learned').double())
    clip = tokens((3, 4, 5)).unflatten(1, (3, 20))
    expected = torch.stack([module(frame, (4, 5)) for frame in clip.unbind(1)], dim=1)
    assert relative_error(module(clip.flatten(1, 2), (3, 4, 5)).unflatten(1, (3, 20)), expected) < 1e-10
