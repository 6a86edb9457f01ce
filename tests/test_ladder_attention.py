"""Ladder self-attention."""

import itertools
import math

import pytest
import torch
from oracle import GRIDS, RELATIVE, OnGrid, assert_equals_oracle, relative_error, spread_parameters, tokens

from lisa_backbone.attention import LadderAttention
from lisa_backbone.complexity import count_macs
from lisa_backbone.errors import UserError


def build(dim=12, num_heads=3, **options):
    return spread_parameters(LadderAttention(dim, num_heads, **options).double())


def window_of(position, size, window, shift):
    """Number of the window of a position on an axis of windows that start at ``shift`` modulo the window."""
    return 0 if size <= window else (position - shift) // window


def by_definition(module, x, grid):
    """Branch by branch and token by token."""
    sizes, heads, m, branches = (1, 1, *grid)[-3:], module.num_heads, module.window_size, len(module.branches)
    windows = (module.window_frames, m, m)
    positions = list(itertools.product(*map(range, sizes)))
    width = module.branches[0].qkv.in_features
    d = width // heads
    full = torch.cat([x, torch.zeros(*x.shape[:2], branches * width - module.dim, dtype=x.dtype)], dim=-1)
    outputs = []
    for t, branch in enumerate(module.branches):
        part = full[..., t * width : (t + 1) * width]
        made = branch.qkv(part)
        q, k = made[..., :width], made[..., width : 2 * width]
        v = made[..., 2 * width :] if t == 0 else outputs[-1]
        # Forward by half a window is +, backward -.
        shifts = [(0, w // 2, -(w // 2))[t % 3] for w in windows]
        places = [tuple(window_of(*z) for z in zip(p, sizes, windows, shifts, strict=True)) for p in positions]
        rows = []
        for a, (f, i, j) in enumerate(positions):
            near = [b for b in range(len(positions)) if places[b] == places[a]]
            bias = torch.stack(
                [branch.rpe.table[:, positions[b][1] - i + m - 1, positions[b][2] - j + m - 1] for b in near]
            )
            frames = module.window_frames - 1
            for row, b in enumerate(near):
                later = positions[b][0] - f
                if later:  # the entries of -frames .. -1 come before those of 1 .. frames
                    bias[row] = bias[row] + branch.rpe.time[:, later + frames - (later > 0)]
            query, key, value = (
                q[:, a].unflatten(-1, (heads, d)),
                *(z[:, near].unflatten(-1, (heads, d)) for z in (k, v)),
            )
            scores = torch.einsum('bhc,bjhc->bjh', query, key) / math.sqrt(d) + bias
            rows.append(torch.einsum('bjh,bjhc->bhc', scores.softmax(dim=1), value).flatten(1))
        outputs.append(part + branch.proj(torch.stack(rows, dim=1)))
    o = torch.cat(outputs, dim=-1)
    first, _, second, _ = module.weigh
    z = o / (1 + (-second(first(o).clamp(min=0))).exp())
    return z[..., : module.dim] + module.proj(z)


@pytest.mark.parametrize(
    'options',
    [dict(), dict(window_size=3, window_frames=2), dict(window_size=2, num_branches=4)],
    ids=str,
)
@pytest.mark.parametrize('grid', GRIDS)
def test_equals_the_definition(grid, options):
    assert_equals_oracle(build(**options), by_definition, grid)


def test_channels_that_the_branches_do_not_divide_are_padded():
    module = build(dim=8, num_heads=2)
    assert [branch.dim for branch in module.branches] == [4, 4, 4]
    assert_equals_oracle(module, by_definition, (5, 7), dim=8)


def seen(module, grid, token):
    """Which tokens the output of a token depends on."""
    x = tokens(grid).requires_grad_()
    (grad,) = torch.autograd.grad(module(x, grid)[:, token].sum(), x)
    return (grad.abs().sum(dim=(0, 2)) > 0).reshape(grid).nonzero().flatten().tolist()


def test_what_a_token_sees_grows_from_branch_to_branch():
    """In a row of 14 with windows of 4: 4-7, then 2-5 and 6-9 (whose tokens see 0-3, 4-7 and 8-11)."""
    assert seen(build(window_size=4, num_branches=1), (14,), 5) == [4, 5, 6, 7]
    assert seen(build(window_size=4, num_branches=2), (14,), 5) == list(range(8))
    # 2-5 again, backward; each sees 2-5 of the second branch, and those the windows 0-3 and 4-7 of the first.
    assert seen(build(window_size=4, num_branches=3), (14,), 5) == list(range(8))
    # Odd windows of 3 move by 1 forward (4-6), then backward (5-7, which saw 4-6 and 7-9 before).
    assert seen(build(window_size=3, num_branches=3), (14,), 6) == list(range(3, 12))


def test_a_branch_takes_the_output_of_the_one_before_as_its_values():
    """The second branch has no values of its own, and what the first makes of its part moves its output."""
    module, x = build(num_branches=2, window_size=3), tokens((4, 6)).requires_grad_()
    assert [branch.qkv.out_features for branch in module.branches] == [18, 12]
    found = []
    module.branches[1].register_forward_hook(lambda branch, given, out: found.append(out))
    module(x, (4, 6))
    (grad,) = torch.autograd.grad(found[0].sum(), x)
    assert grad[..., :6].abs().max() > 1e-3


def test_a_clip_of_identical_frames_is_treated_like_the_image():
    module, x = build(window_size=3, window_frames=2), tokens((5, 7))
    for branch in module.branches:
        torch.nn.init.zeros_(branch.rpe.time)  # as an image model keeps it
    assert relative_error(module(x.repeat(1, 5, 1), (5, 5, 7)), module(x, (5, 7)).repeat(1, 5, 1)) < RELATIVE


@pytest.mark.parametrize(
    ('grid', 'padded', 'tokens_of_a_window'),
    [((14, 14), 196, 49), ((8, 5), 70, 35), ((10,), 14, 7), ((3, 5, 7), 105, 105), ((9, 7, 7), 784, 392)],
)
def test_macs(grid, padded, tokens_of_a_window):
    """Three branches of 8 channels; projections of tokens, products of padded windows, and the fusion."""
    n, dim, width = math.prod(grid), 24, 8
    macs = n * (3 + 2 + 2 + 3) * width**2 + 3 * 2 * padded * tokens_of_a_window * width + n * (2 * 24 * 12 + 24**2)
    assert count_macs(OnGrid(LadderAttention(dim, 4)), (1, dim, *grid)) == macs


@pytest.mark.parametrize('option', ['num_branches', 'window_size', 'window_frames'])
def test_sizes_below_one_are_refused(option):
    with pytest.raises(UserError, match=f'{option}=0'):
        LadderAttention(12, 3, **{option: 0})
