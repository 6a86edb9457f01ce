"""AFNO against its equation at one frequency after the other, and its two ways of dropping frequencies."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import AFNO, build_attention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def by_definition(module, x, grid):
    """The network on each frequency of the half spectrum, and the real part of the sum of all waves."""
    t, h, w = (1, 1, *grid)[-3:]
    signal = x.reshape(len(x), t, h, w, -1).to(torch.complex128)
    places = torch.stack(torch.meshgrid(*map(torch.arange, (t, h, w)), indexing='ij'), dim=-1).double()
    weights = [torch.complex(*p) for p in (module.weight1, module.bias1, module.weight2, module.bias2)]
    y, d, count = torch.zeros_like(signal.real), module.dim // module.num_heads, t * h * w
    for a, b, c in itertools.product(range(t), range(h), range(w // 2 + 1)):
        if any(min(k, n - k) > module.fraction * (n // 2) for k, n in ((a, t), (b, h), (c, w))):
            continue
        wave = torch.exp(2j * math.pi * (places @ torch.tensor([a / t, b / h, c / w], dtype=torch.double)))
        value = (signal * wave.conj()[None, ..., None]).sum((1, 2, 3)) / count**0.5
        blocks = []
        for head in range(module.num_heads):
            w1, b1, w2, b2 = (weight[head] for weight in weights)
            z = value[:, head * d : (head + 1) * d] @ w1 + b1
            z = torch.complex(z.real.clamp(min=0), z.imag.clamp(min=0)) @ w2 + b2
            parts = [part.sign() * (part.abs() - module.sparsity_threshold).clamp(min=0) for part in (z.real, z.imag)]
            blocks.append(torch.complex(*parts))
        wave = wave * (1 if c in (0, w / 2) else 2) / count**0.5  # the mirrored half of the spectrum adds as much
        y = y + (torch.cat(blocks, dim=-1)[:, None, None, None] * wave[None, ..., None]).real
    return x + y.reshape(x.shape)


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('fraction', [1.0, 0.5])
def test_equals_oracle(grid, fraction):
    module = AFNO(12, 3, hard_thresholding_fraction=fraction, hidden_size_factor=2)
    assert_equals_oracle(spread_parameters(module.double()), by_definition, grid)


@pytest.mark.parametrize('grid', [(14, 14), (15, 28), (3, 6, 7)])
def test_macs(grid):
    n, frequencies = math.prod(grid), math.prod(grid[:-1]) * (grid[-1] // 2 + 1)
    transforms = 2 * 12 * 2.5 * n * math.log2(n) / 2
    expected = transforms + frequencies * 2 * 4 * 12 * (12 // 3)  # complex products are four real ones
    assert count_macs(OnGrid(AFNO(12, 3)), (1, 12, *grid)) == pytest.approx(expected, abs=3)
    if grid == (14, 14):  # frequencies -3 .. 3 and 0 .. 3
        expected = transforms + 7 * 4 * 2 * 4 * 12 * 4
        module = AFNO(12, 3, hard_thresholding_fraction=0.5)
        assert count_macs(OnGrid(module), (1, 12, *grid)) == pytest.approx(expected, abs=3)


def test_a_high_threshold_leaves_the_input_and_no_initial_block_is_silent():
    x = tokens((6, 7))
    assert torch.equal(AFNO(12, 3, sparsity_threshold=1e3).double()(x, (6, 7)), x)
    for dim in (12, 96, 384):
        x = tokens((6, 7), dim)
        change = AFNO(dim, 3).double()(x, (6, 7)) - x
        assert 0.02 < change.std() < 0.5


def test_hard_thresholding_gives_a_smooth_change():
    """With frequency zero alone, every token changes by the same."""
    module, x = spread_parameters(AFNO(12, 3, hard_thresholding_fraction=0.1).double()), tokens((6, 7))
    change = module(x, (6, 7)) - x
    assert relative_error(change, change[:, :1].expand_as(change)) < 1e-12


@pytest.mark.parametrize('fraction', [0.0, 1.5])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(UserError, match=r'\(0, 1\]'):
        build_attention(dict(type='AFNO', hard_thresholding_fraction=fraction), 12, 3)
