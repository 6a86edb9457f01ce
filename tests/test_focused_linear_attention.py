"""Focused linear attention against a matrix on tokens and a convolution as loops, and what the paper says of it."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import FocusedLinearAttention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def focused(z, scale, p):
    """|z| z^p / |z^p| of one vector after ReLU, with the power written out."""
    z = (torch.maximum(z, torch.zeros_like(z)) + 1e-6) / (1 + scale.exp()).log()
    power = (p * z.log()).exp()
    return z.square().sum().sqrt() / power.square().sum().sqrt() * power


def features(module, x):
    """Features of query and key, and values, of one sample (L, C)."""
    q, k, v = (x @ w.T + b for w, b in zip(module.qkv.weight.chunk(3), module.qkv.bias.chunk(3), strict=True))
    phi, psi = (torch.stack([focused(z, module.scale, module.focusing_factor) for z in rows]) for rows in (q, k))
    return phi, psi, v


def matrix(module, x, head):
    phi, psi, _ = features(module, x)
    scores = phi[:, head] @ psi[:, head].T
    return scores / (scores.sum(1, keepdim=True) + 1e-6 * len(x))


def by_definition(module, x, grid):
    height, width = (1, *grid)[-2:]
    d = module.dim // module.num_heads
    kernel, bias = module.local_conv.weight[:, 0], module.local_conv.bias
    middle = kernel.shape[-1] // 2
    out = []
    for sample in x:
        v = features(module, sample)[2]
        heads = [slice(h * d, (h + 1) * d) for h in range(module.num_heads)]
        attended = torch.cat([matrix(module, sample, head) @ v[:, head] for head in heads], dim=1)
        rows = []
        for i in range(len(v)):
            frame, at = divmod(i, height * width)
            row, column = divmod(at, width)
            total = bias.repeat(module.num_heads)
            for a, b in itertools.product(range(-middle, middle + 1), repeat=2):
                if 0 <= row + a < height and 0 <= column + b < width:
                    near = (frame * height + row + a) * width + column + b
                    total = total + kernel[:, middle + a, middle + b].repeat(module.num_heads) * v[near]
            rows.append(total)
        out.append(attended + torch.stack(rows))
    return torch.stack(out) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize('grid', GRIDS)
def test_it_is_its_definition(grid):
    assert_equals_oracle(spread_parameters(FocusedLinearAttention(12, 3, kernel_size=3).double()), by_definition, grid)


def test_kernel_is_the_matrix_without_the_convolution():
    module, x = spread_parameters(FocusedLinearAttention(12, 3).double()), tokens((4, 6))
    kernel = module.kernel(x, (4, 6))
    expected = [[matrix(module, sample, slice(4 * h, 4 * h + 4)) for h in range(3)] for sample in x]
    assert relative_error(kernel, torch.stack([torch.stack(heads) for heads in expected])) < 1e-10
    assert (kernel >= 0).all()
    assert (kernel.sum(-1) < 1 + 1e-12).all()


def test_with_power_one_it_is_linear_attention_of_relus():
    module = spread_parameters(FocusedLinearAttention(12, 1, focusing_factor=1).double())
    x = tokens((4, 6))
    q, k, _ = ((z.relu() + 1e-6) / torch.nn.functional.softplus(module.scale) for z in module.qkv(x).chunk(3, dim=-1))
    weights = q @ k.transpose(1, 2)
    weights = weights / (weights.sum(-1, keepdim=True) + 24e-6)
    assert relative_error(module.kernel(x, (4, 6))[:, 0], weights) < 1e-10


def test_a_higher_power_keeps_the_length_and_focuses_the_weights():
    """Section 4.1 of the paper: vectors with different largest entries are pushed apart, and rows become less even."""
    x, entropies = tokens((6, 6), dim=48), []
    for p in (1, 3, 9):
        torch.manual_seed(0)
        module = FocusedLinearAttention(48, 1, focusing_factor=p).double()
        kernel = module.kernel(x, (6, 6))
        entropies.append(-(kernel * kernel.clamp(min=1e-30).log()).sum(-1).mean())
    assert entropies[0] > entropies[1] > entropies[2]
    z = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    for p in (1, 3, 9):
        assert abs(focused(z, torch.tensor(math.log(math.e - 1), dtype=torch.float64), p).norm() - z.norm()) < 1e-5


@pytest.mark.parametrize('grid', [(50,), (7, 9), (3, 5, 6)])
def test_macs(grid):
    n, dim, heads = math.prod(grid), 16, 4
    d = dim // heads
    expected = 4 * n * dim**2 + n * dim * (2 * d + 1) + n * dim * 25
    assert count_macs(OnGrid(FocusedLinearAttention(dim, heads)), (1, dim, *grid)) == expected


def test_an_even_convolution_is_refused():
    with pytest.raises(UserError, match='kernel_size=4'):
        FocusedLinearAttention(12, 3, kernel_size=4)
