"""SOFT against its equation with loops over pairs and cells, and its iteration against the pseudo-inverse."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, spread_parameters, tokens
from torch import nn

from lisa_backbone.attention import SOFT
from lisa_backbone.attention.soft import newton_inverse
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def gaussian(a, b):
    return torch.stack([(-(row - b).square().sum(1) / 2).exp() for row in a])


def truncated_inverse(a, steps):
    """The same number of steps as a product: A_T = A_0 (1 + R)(1 + R^2)(1 + R^4) .. with R = 1 - A A_0."""
    start = a / a.abs().sum(0).max() ** 2
    identity = torch.eye(len(a), dtype=a.dtype)
    rest, inverse = identity - a @ start, start
    for _ in range(steps):
        inverse, rest = inverse @ (identity + rest), rest @ rest
    return inverse


def landmarks(module, q, grid):
    """Mean of the queries (L, d) over every cell, then linear layer, layer norm and GELU."""
    side = round(module.num_landmarks ** (1 / len(grid)))
    cells = []
    for n in grid:
        m = min(n, side)
        cells.append([range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)])
    positions = {at: i for i, at in enumerate(itertools.product(*map(range, grid)))}
    means = [
        torch.stack([q[positions[at]] for at in itertools.product(*cell)]).mean(0) for cell in itertools.product(*cells)
    ]
    linear, norm, _ = module.landmark
    points = torch.stack(means) @ linear.weight.T
    points = points - points.mean(1, keepdim=True)
    points = points / (points.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
    return points * (1 + torch.erf(points / math.sqrt(2))) / 2


def by_definition(module, x, grid):
    height, width = (1, *grid)[-2:]
    d = module.dim // module.num_heads
    out = []
    for sample in x:
        q = (sample @ module.query.weight.T + module.query.bias) / d**0.25
        v = sample @ module.value.weight.T + module.value.bias
        heads = []
        for h in range(module.num_heads):
            part = slice(h * d, (h + 1) * d)
            points = landmarks(module, q[:, part], grid)
            p = gaussian(q[:, part], points)
            y = p @ truncated_inverse(gaussian(points, points), module.num_steps) @ p.T @ v[:, part]
            frames = v[:, part].reshape(-1, height, width, d)
            padded = torch.zeros(len(frames), height + 2, width + 2, d, dtype=x.dtype)
            padded[:, 1:-1, 1:-1] = frames
            for a, b in itertools.product(range(3), repeat=2):
                weight = module.local_conv.weight[h, 0, a, b]
                y = y + weight * padded[:, a : a + height, b : b + width].reshape(-1, d)
            heads.append(y)
        out.append(torch.cat(heads, dim=1))
    return torch.stack(out) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize('grid', [*GRIDS, (9, 10)])
def test_it_is_its_definition(grid):
    torch.manual_seed(0)
    module = spread_parameters(SOFT(12, 3, num_landmarks=16).double())
    # The steps double rounding errors in directions that A all but lacks, up to 2^20 times.
    assert_equals_oracle(module, by_definition, grid, tolerance=1e-9)


def test_kernel_is_the_matrix_without_the_convolution():
    torch.manual_seed(0)
    module, x = spread_parameters(SOFT(12, 3, num_landmarks=9, conv_size=0).double()), tokens((5, 6))
    v = module.value(x).unflatten(-1, (3, 4)).transpose(1, 2)
    kernel = module.kernel(x, (5, 6))
    torch.testing.assert_close(module(x, (5, 6)), module.proj((kernel @ v).transpose(1, 2).flatten(2)))
    torch.testing.assert_close(kernel, kernel.transpose(-1, -2))
    assert torch.linalg.matrix_rank(kernel[0, 0]) == 9


def test_landmarks_that_are_the_tokens_give_the_full_gaussian_kernel():
    """Without the map of the landmarks the approximation is exact where each token is its own cell."""
    torch.manual_seed(0)
    module = SOFT(12, 3, num_steps=30).double()
    module.landmark = nn.Identity()
    x = 3 * tokens((5, 6))
    q = module.query(x).unflatten(-1, (3, 4)).transpose(1, 2) / 4**0.25
    expected = (-torch.cdist(q, q).square() / 2).exp()
    torch.testing.assert_close(module.kernel(x, (5, 6)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', [1, 5])
def test_steps_lead_to_the_pseudo_inverse(size):
    a = gaussian(*2 * [tokens((size,), dim=3, batch=1)[0]])
    torch.testing.assert_close(newton_inverse(a, 20), torch.linalg.pinv(a))
    # Equal landmarks: the paper's first guess, twice as large, would give zero.
    ones = torch.ones(size, size, dtype=torch.float64)
    torch.testing.assert_close(newton_inverse(ones, 20), ones / size**2)


@pytest.mark.parametrize(('grid', 'landmarks_of'), [((60,), 49), ((7, 9), 49), ((5, 9), 35), ((3, 5, 6), 48)])
def test_macs(grid, landmarks_of):
    n, m, dim, heads = math.prod(grid), landmarks_of, 16, 4
    expected = 3 * n * dim**2 + m * dim * dim // heads  # projections, and the map of the landmarks
    expected += n * m * dim + m * m * dim + 2 * 20 * heads * m**3  # kernels and steps
    expected += 2 * n * m * dim + m * m * dim + n * dim * 9  # products with the values, and the convolution
    assert count_macs(OnGrid(SOFT(dim, heads)), (1, dim, *grid)) == expected


def test_an_even_convolution_is_refused():
    with pytest.raises(UserError, match='conv_size=2'):
        SOFT(12, 3, conv_size=2)
