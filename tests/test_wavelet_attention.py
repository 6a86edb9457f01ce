"""Wavelet attention against one wavelet after the other, and its reach."""

import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import WaveletAttention, build_attention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def convolve(image, kernel):
    """Each output channel a sum over the channels of its group and over the offsets, with zeros around the image."""
    out, width, size, _ = kernel.shape
    rows, columns = image.shape[-2:]
    y = torch.zeros_like(image)
    for o in range(out):
        group = slice(o // width * width, o // width * width + width)
        for r in range(rows):
            for c in range(columns):
                for dr in range(size):
                    for dc in range(size):
                        at = (r + dr - size // 2, c + dc - size // 2)
                        if 0 <= at[0] < rows and 0 <= at[1] < columns:
                            y[:, o, r, c] = y[:, o, r, c] + image[:, group, at[0], at[1]] @ kernel[o, :, dr, dc]
    return y


def haar(n):
    """The two orthonormal halves of a transform of an axis of even size: means and differences of its pairs."""
    low, high = torch.zeros(2, n // 2, n, dtype=torch.double)
    for i in range(n // 2):
        low[i, 2 * i] = low[i, 2 * i + 1] = high[i, 2 * i] = 0.5**0.5
        high[i, 2 * i + 1] = -(0.5**0.5)
    return low, high


def in_wavelets(image, details, approximation):
    """D^-1(R * D(x)) by matrices, level within level."""
    if not details:
        return convolve(image, approximation)
    rows, columns = image.shape[-2:]
    image = torch.cat([image, image[..., -1:, :]], dim=-2) if rows % 2 else image
    image = torch.cat([image, image[..., -1:]], dim=-1) if columns % 2 else image
    vertical, horizontal = haar(image.shape[-2]), haar(image.shape[-1])
    y, kernels = 0, details[0].chunk(3)
    for band, (v, h) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        coefficients = vertical[v] @ image @ horizontal[h].T
        if band == 0:
            coefficients = in_wavelets(coefficients, details[1:], approximation)
        else:
            coefficients = convolve(coefficients, kernels[band - 1])
        y = y + vertical[v].T @ coefficients @ horizontal[h]
    return y[..., :rows, :columns]


def by_definition(module, x, grid):
    image = x.transpose(1, 2).reshape(len(x), -1, *(1, *grid)[-2:])
    kernels = [convolution.weight for convolution in module.details]
    mixed = in_wavelets(image, kernels, module.approximation.weight).flatten(2).transpose(1, 2)
    return module.proj(torch.nn.functional.gelu(mixed + module.skip(x)))


@pytest.mark.parametrize('grid', [grid for grid in GRIDS if len(grid) < 3])
def test_equals_oracle(grid):
    torch.manual_seed(0)
    assert_equals_oracle(spread_parameters(WaveletAttention(4, 2, levels=2).double()), by_definition, grid, dim=4)


@pytest.mark.parametrize('grid', [(7,), (5, 1), (5, 7), (12, 9)])
def test_a_convolution_that_does_nothing_gives_the_image_back(grid):
    module, x = WaveletAttention(12, 3).double(), tokens(grid)
    with torch.no_grad():
        for convolution in (*module.details, module.approximation):
            convolution.weight.zero_()
            for channel in range(len(convolution.weight)):
                convolution.weight[channel, channel % 4, 1, 1] = 1
    expected = module.proj(torch.nn.functional.gelu(x + module.skip(x)))
    assert relative_error(module(x, grid), expected) < 1e-12


@pytest.mark.parametrize(('levels', 'reach'), [(1, 4), (3, 16)])
def test_the_reach_doubles_with_every_level(levels, reach):
    """The token in the corner reaches over its own block of the last level and the next: 2 x 2^levels tokens."""
    module, x = spread_parameters(WaveletAttention(12, 3, levels=levels).double()), tokens((24, 24), batch=1)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(module(x, (24, 24))[0, 0].sum(), x)
    seen = grad.reshape(24, 24, 12).abs().sum(-1) > 1e-9 * grad.abs().max()
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[:reach, :reach] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize('grid', [(50,), (7, 9), (16, 16)])
def test_macs(grid):
    n, (rows, columns), dim, width = math.prod(grid), (1, *grid)[-2:], 12, 4
    expected = 2 * n * dim * dim
    for level in (1, 2, 3):
        coefficients = math.ceil(rows / 2**level) * math.ceil(columns / 2**level)
        expected += coefficients * (4 if level == 3 else 3) * dim * width * 9
    assert count_macs(OnGrid(WaveletAttention(dim, 3)), (1, dim, *grid)) == expected


@pytest.mark.parametrize('option', [dict(levels=0), dict(kernel_size=2)])
def test_options_that_make_no_transform_are_refused(option):
    with pytest.raises(UserError, match=next(iter(option))):
        build_attention(dict(type='WaveletAttention', **option), 12, 3)
