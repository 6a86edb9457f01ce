"""Fibottention against its dense form by the definition, and its patterns against those of the paper."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, OnGrid, assert_equals_oracle, spread_parameters, tokens

from lisa_backbone.attention import Fibottention
from lisa_backbone.attention.fibottention import wythoff_distances
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError

# The first rows of the Wythoff array, OEIS A035513.
ROWS = [[1, 2, 3, 5, 8, 13, 21, 34, 55], [4, 7, 11, 18, 29, 47, 76], [6, 10, 16, 26, 42, 68], [9, 15, 24, 39, 63]]


def pattern(head, heads, count, modified, w_min=5):
    """Distances of one head, from the table and the window of the paper."""
    w_max = max(count // 3, w_min)
    window = w_min + math.floor((w_max - w_min) * head / (heads - 1))
    row = ROWS[head]
    if modified:
        row = [row[0] - (row[1] - row[0]), row[1] - row[0], *row]
    return {row[0], *(term for term in row if term <= window)}


def by_definition(module, x, grid):
    """A softmax for each token over a list of the tokens that it sees, or over all with zeros for those it does not."""
    heads, d = module.num_heads, module.dim // module.num_heads
    weight, bias = module.qkv.weight, module.qkv.bias
    q, k, v = (x @ weight[s * module.dim :][: module.dim].T + bias[s * module.dim :][: module.dim] for s in range(3))
    count = x.shape[1]
    y = []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        distances = pattern(h, heads, count, module.modified)
        rows = []
        for i in range(count):
            logits = (k[:, :, part] * q[:, i, None, part]).sum(-1) / math.sqrt(d)
            seen = [j for j in range(count) if abs(i - j) in distances]
            if module.form == 'masked':
                logits = torch.stack([logits[:, j] if j in seen else 0 * logits[:, j] for j in range(count)], dim=1)
                seen = list(range(count))
            seen = seen or [i]
            weights = logits[:, seen].exp() / logits[:, seen].exp().sum(1, keepdim=True)
            rows.append((weights.unsqueeze(-1) * v[:, seen, part]).sum(1))
        y.append(torch.stack(rows, dim=1))
    return torch.cat(y, dim=-1) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize('modified', [False, True])
@pytest.mark.parametrize('form', ['sparse', 'masked'])
@pytest.mark.parametrize('grid', GRIDS)
def test_it_is_its_definition(grid, form, modified):
    module = spread_parameters(Fibottention(12, 3, form=form, modified=modified).double())
    assert_equals_oracle(module, by_definition, grid)


@pytest.mark.parametrize('form', ['sparse', 'masked'])
@pytest.mark.parametrize('grid', [(3,), (4, 6), (2, 3, 3)])
def test_kernel_is_the_matrix(grid, form):
    module = spread_parameters(Fibottention(12, 3, form=form).double())
    x = tokens(grid)
    v = module.qkv(x)[..., 24:].unflatten(-1, (3, 4)).transpose(1, 2)
    expected = module.proj((module.kernel(x, grid) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, grid), expected)


@pytest.mark.parametrize('modified', [False, True])
@pytest.mark.parametrize('count', [15, 49, 150, 196])
@pytest.mark.parametrize('heads', [2, 3, 4])
def test_distances_are_rows_of_the_wythoff_array_cut_at_the_window(heads, count, modified):
    expected = [sorted(pattern(h, heads, count, modified)) for h in range(heads)]
    assert wythoff_distances(heads, count, modified=modified) == expected


def test_heads_share_no_distance_and_see_no_neighbour_but_the_first():
    distances = wythoff_distances(12, 196)
    assert len({d for head in distances for d in head}) == sum(map(len, distances))
    assert distances[0] == [1, 2, 3, 5]
    assert all(2 not in head and 1 not in head for head in distances[1:])
    # From 2 in a hundred scores on, says the abstract; its numbers are for as many tokens and heads.
    pairs = sum(2 * (196 - d) for head in distances for d in head)
    assert round(100 * pairs / (12 * 196**2)) == 2


def test_only_tokens_of_the_pattern_have_an_influence_where_it_is_sparse():
    x = tokens((40,), batch=1).requires_grad_()
    for form, expected in (
        ('sparse', {20 + s * d for d in (1, 2, 3, 4, 5, 7, 10, 6) for s in (-1, 1)}),
        ('masked', None),
    ):
        module = spread_parameters(Fibottention(12, 3, form=form).double())
        grad = torch.autograd.grad(module(x, (40,))[0, 20].sum(), x)[0][0].abs().amax(-1)
        seen = {j for j in range(40) if grad[j] > 0} - {20}
        assert seen == (expected or set(range(40)) - {20})


def test_the_number_of_distances_grows_as_a_logarithm():
    counts = [sum(map(len, wythoff_distances(4, 4**k))) for k in (4, 5, 6, 7, 8)]
    steps = [b - a for a, b in itertools.pairwise(counts)]
    assert max(steps) <= 4 * math.ceil(math.log(4, (1 + 5**0.5) / 2))


@pytest.mark.parametrize('grid', [(40,), (7, 9), (3, 5, 6)])
def test_macs(grid):
    n, dim, heads = math.prod(grid), 12, 3
    seen = sum(2 * len(pattern(h, heads, n, False)) for h in range(heads))
    assert count_macs(OnGrid(Fibottention(dim, heads)), (1, dim, *grid)) == 4 * n * dim**2 + 2 * n * seen * dim // heads
    masked = Fibottention(dim, heads, form='masked')
    assert count_macs(OnGrid(masked), (1, dim, *grid)) == 4 * n * dim**2 + 2 * n * n * dim


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match='sparse, masked'):
        Fibottention(12, 3, form='dense')
