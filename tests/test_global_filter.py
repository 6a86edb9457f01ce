"""Global filters against sums over frequencies, and what they do to frames and other grids."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import GlobalFilter, build_attention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def between(samples, frequency):
    """Samples (n, ...) at the frequencies 0, 1/n, .. of a period of one, read linearly at ``frequency``."""
    position = frequency * len(samples)
    low = math.floor(position + 1e-9)
    part = max(position - low, 0.0)
    return (1 - part) * samples[low % len(samples)] + part * samples[(low + 1) % len(samples)]


def by_definition(module, x, grid):
    """y_n = 1/N sum_f K(f) X(f) exp(2 pi i f n), with K(-f) the conjugate of K(f), one frequency after the other."""
    t, h, w = (1, 1, *grid)[-3:]
    signal = x.reshape(len(x), t, h, w, -1).to(torch.complex128)
    learned = torch.complex(*module.weight).permute(1, 2, 0)  # (rows, half of the columns, channels)
    in_time = 1 + torch.cat([torch.zeros(1, module.dim), torch.complex(*module.time).T])
    places = torch.stack(torch.meshgrid(*map(torch.arange, (t, h, w)), indexing='ij'), dim=-1).double()
    y = torch.zeros_like(signal)
    for a, b, c in itertools.product(range(t), range(h), range(w)):
        mirrored = 2 * c > w
        f = [(-k % n) / n if mirrored else k / n for k, n in ((a, t), (b, h), (c, w))]
        row = between(learned, f[1])
        column = f[2] * 14
        low = min(math.floor(column + 1e-9), 6)
        weight = (row[low] + (column - low) * (row[low + 1] - row[low])) * between(in_time, f[0])
        wave = torch.exp(2j * math.pi * (places @ torch.tensor([a / t, b / h, c / w], dtype=torch.double)))
        value = (signal * wave.conj()[None, ..., None]).sum((1, 2, 3))
        y = y + (value * (weight.conj() if mirrored else weight))[:, None, None, None] * wave[None, ..., None]
    return (y.real / (t * h * w)).reshape(x.shape)


@pytest.mark.parametrize('grid', [*GRIDS, (15, 28)])
def test_equals_oracle(grid):
    assert_equals_oracle(spread_parameters(GlobalFilter(12, 3).double()), by_definition, grid)


@pytest.mark.parametrize('grid', [(7,), (5, 7), (4, 6), (3, 4, 5)])
def test_kernel_is_the_matrix_of_each_channel(grid):
    module = spread_parameters(GlobalFilter(12, 3).double())
    x = tokens(grid)
    assert relative_error(torch.einsum('bcij,bjc->bic', module.kernel(x, grid), x), module(x, grid)) < 1e-10


@pytest.mark.parametrize('grid', [(14, 14), (15, 28), (3, 6, 7)])
def test_macs(grid):
    n, frequencies = math.prod(grid), math.prod(grid[:-1]) * (grid[-1] // 2 + 1)
    transforms = 2 * 12 * 2.5 * n * math.log2(n) / 2
    expected = transforms + 4 * 12 * frequencies
    assert count_macs(OnGrid(GlobalFilter(12, 3)), (1, 12, *grid)) == pytest.approx(expected, abs=3)


def test_on_the_base_grid_the_filter_is_the_learned_one_and_on_twice_the_grid_every_second_is():
    module = spread_parameters(GlobalFilter(12, 3).double())
    learned = torch.complex(*module.weight)
    inner = slice(1, -1)  # the edges are made symmetric
    assert torch.equal(module._filter((14, 14))[..., inner], learned[..., inner])
    assert torch.equal(module._filter((28, 28))[:, ::2, ::2][..., inner], learned[..., inner])


def test_a_filter_of_ones_changes_nothing_and_one_without_frequency_zero_takes_the_mean_away():
    module, x = GlobalFilter(12, 3).double(), tokens((14, 14))
    with torch.no_grad():
        module.weight[0], module.weight[1] = 1, 0
        assert relative_error(module(x, (14, 14)), x) < 1e-12
        module.weight[0, :, 0, 0] = 0
    assert relative_error(module(x, (14, 14)), x - x.mean(1, keepdim=True)) < 1e-12


def test_a_clip_of_identical_frames_is_treated_like_the_image_and_frames_mix_once_learned():
    module = GlobalFilter(12, 3).double()
    x, clip = tokens((4, 5)), tokens((3, 4, 5))
    frames = clip.reshape(-1, 20, 12)
    assert relative_error(module(clip, (3, 4, 5)).reshape(frames.shape), module(frames, (4, 5))) < 1e-12
    spread_parameters(module)
    assert relative_error(module(x.repeat(1, 3, 1), (3, 4, 5)), module(x, (4, 5)).repeat(1, 3, 1)) < 1e-12
    assert relative_error(module(clip, (3, 4, 5)).reshape(frames.shape), module(frames, (4, 5))) > 1e-2


def test_the_filter_starts_at_unit_gain():
    torch.manual_seed(0)
    x = torch.randn(4, 14 * 14, 64)
    assert GlobalFilter(64, 4)(x, (14, 14)).square().mean().item() == pytest.approx(
        1, abs=0.15
    )  # real columns lose half


def test_an_odd_number_of_columns_is_refused():
    with pytest.raises(UserError, match=r'base=\(14, 15\) has an odd number of columns'):
        build_attention({'type': 'GlobalFilter', 'base': (14, 15)}, 12, 3)
