"""Kernelized attention with a position bias against its sums, and against the softmax that it stands for."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import KernelizedRPE, SelfAttention, kernelized_rpe
from lisa_backbone.attention.correlation import correlate_by_fft
from lisa_backbone.complexity import count_macs


def positions_of(grid):
    return list(itertools.product(*map(range, grid)))


def biases(module, grid):
    """b_{j-i} for every head, row i and column j, one entry after the other."""
    values = module.rpe(grid, False)
    places = positions_of(grid)
    # Negative offsets stand at the end, where Python's negative indices find them.
    rows = [[values[(slice(None), *(b - a for a, b in zip(i, j, strict=True)))] for j in places] for i in places]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def by_definition(module, x, grid):
    """phi with all its factors, on queries and keys of length one, and the division at the end."""
    d = module.dim // module.num_heads
    q, k, v = module.qkv(x).split(module.dim, dim=-1)
    bias, heads = biases(module, grid), []
    for h in range(module.num_heads):
        part = slice(h * d, (h + 1) * d)
        features = []
        for z in (q[..., part], k[..., part]):
            z = z / z.square().sum(-1, keepdim=True).sqrt()
            w = module.directions[h]
            features.append(torch.exp(z @ w.T - z.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(w)))
        weights = features[0] @ features[1].transpose(1, 2) * bias[h].exp()
        heads.append(weights @ v[..., part] / weights.sum(-1, keepdim=True))
    return module.proj(torch.cat(heads, dim=-1))


@pytest.mark.parametrize('matrix', [False, True], ids=['fft', 'matrix'])
@pytest.mark.parametrize('grid', GRIDS)
def test_equals_oracle(grid, matrix, monkeypatch):
    monkeypatch.setattr(KernelizedRPE, '_takes_matrix', lambda self, grid: matrix)
    assert_equals_oracle(spread_parameters(KernelizedRPE(12, 3, num_features=5).double()), by_definition, grid)


def test_kernel_gives_the_output_and_its_rows_sum_to_one():
    module, x, grid = spread_parameters(KernelizedRPE(12, 3).double()), tokens((5, 7)), (5, 7)
    kernel = module.kernel(x, grid)
    assert (kernel > 0).all()
    assert relative_error(kernel.sum(-1), torch.ones(2, 3, 35)) < 1e-12
    values = module.qkv(x)[..., 24:].unflatten(-1, (3, 4)).transpose(1, 2)
    assert relative_error(module.proj((kernel @ values).transpose(1, 2).flatten(2)), module(x, grid)) < 1e-10


def test_with_many_features_it_is_softmax_attention_with_the_bias_on_queries_and_keys_of_length_one():
    module = spread_parameters(KernelizedRPE(12, 3, num_features=100_000).double())
    softmax = SelfAttention(12, 3).double()
    softmax.load_state_dict({k: v for k, v in module.state_dict().items() if k != 'directions'})
    x, grid = tokens((3, 4)), (3, 4)
    q, k = (z.unflatten(-1, (3, 4)) for z in softmax.qkv(x).chunk(3, dim=-1)[:2])
    scores = torch.einsum('bihd,bjhd->bhij', *(z / z.norm(dim=-1, keepdim=True) for z in (q, k)))
    expected = (scores + biases(module, grid)).softmax(-1)
    assert relative_error(module.kernel(x, grid), expected) < 0.03  # 1 / sqrt(100,000) times the spread of exp(w . z)


def test_features_are_drawn_for_each_layer_or_from_a_seed_of_their_own():
    torch.manual_seed(0)
    first, second = KernelizedRPE(12, 3), KernelizedRPE(12, 3)
    assert not torch.equal(first.directions, second.directions)
    torch.manual_seed(0)
    assert torch.equal(first.directions, KernelizedRPE(12, 3).directions)
    assert torch.equal(KernelizedRPE(12, 3, seed=1).directions, KernelizedRPE(12, 3, seed=1).directions)


# One channel and one feature are two signals: with padding, 2 x 3 x 3 values on 2 x 2 positions, 2 x 1 x 9 on 1 x 5.
@pytest.mark.parametrize(('grid', 'matrix'), [((2, 2), True), ((2, 3), False), ((1, 4), True), ((1, 5), False)])
def test_the_matrix_is_taken_where_it_is_no_larger_than_the_padded_signals(grid, matrix, monkeypatch):
    transforms = []
    monkeypatch.setattr(
        kernelized_rpe, 'correlate_by_fft', lambda *args: transforms.append(args) or correlate_by_fft(*args)
    )
    KernelizedRPE(1, 1, num_features=1).double()(tokens(grid, 1), grid)
    assert len(transforms) == (not matrix)


@pytest.mark.parametrize(
    ('grid', 'sizes'), [((6, 7), None), ((3, 6, 5), None), ((14, 8), (27, 15)), ((5, 12, 11), (9, 24, 24))]
)
def test_macs(grid, sizes):
    n, dim, heads, features = math.prod(grid), 12, 3, 4
    signals = features * (dim + heads)
    expected = (
        4 * n * dim * dim  # projections
        + math.prod(2 * size - 1 for size in grid) * (3 * 32 + 32 * heads)  # the bias
        + 2 * n * dim * features  # w . q and w . k
    )
    if sizes is None:  # a small grid: the matrix of the features, and its product with values and ones
        expected += heads * n * n * features + n * n * (dim + heads)
    else:
        points, frequencies = math.prod(sizes), math.prod(sizes[:-1]) * (sizes[-1] // 2 + 1)
        expected += n * signals  # the sum over the features
        expected += (2 * signals + heads) * 2.5 * points * math.log2(points) / 2 + 4 * signals * frequencies
    operator = KernelizedRPE(dim, heads, num_features=features)
    assert count_macs(OnGrid(operator), (1, dim, *grid)) == pytest.approx(expected, abs=3)
