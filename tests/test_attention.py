"""Contracts of the attention operators: against slow oracles, over grids, dtypes and the whole registry."""

import itertools
import math
import re
import subprocess
import sys

import pytest
import torch
from oracle import (
    GRIDS,
    RELATIVE,
    LargestTensor,
    assert_equals_oracle,
    period,
    relative_error,
    spread_parameters,
    tokens,
)
from scipy.fft import next_fast_len
from torch import nn

from lisa_backbone.attention import (
    ATTENTION,
    URPE,
    LiSAttention,
    PatternCodeAttention,
    build_attention,
    correlation,
    pattern_sum,
    register_attention,
)
from lisa_backbone.attention.correlation import (
    axis_offsets,
    correlate,
    correlate_by_fft,
    correlate_by_matrix,
    next_fast_length,
    offset_matrix,
    wrapped_period,
)
from lisa_backbone.attention.lisa import FEATURE_MAPS
from lisa_backbone.attention.rpe import RPES, SpectrumRPE, TableRPE
from lisa_backbone.errors import UserError

FFT_OPERATORS = [LiSAttention, PatternCodeAttention]


# ---------------------------------------------------------------------------------------------------------------------
# Correlation


def test_fast_lengths_are_those_of_scipy():
    assert [next_fast_length(n) for n in range(1, 700)] == [next_fast_len(n, real=True) for n in range(1, 700)]


def test_periods_have_small_factors():
    assert [wrapped_period(n) for n in (1, 13, 16, 17, 29, 34, 68, 53, 127)] == [1, 13, 16, 20, 32, 36, 72, 56, 128]
    assert [wrapped_period(n) for n in range(1, 700)] == [period(n) for n in range(1, 700)]


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize('grid', GRIDS)
def test_correlation_is_the_sum_over_offsets(grid, wrap):
    axes = [axis_offsets(n, wrap).tolist() for n in grid]
    r = {o: math.sin(1 + sum((k + 2) ** 2 * v for k, v in enumerate(o))) for o in itertools.product(*axes)}
    values = torch.tensor(list(r.values()), dtype=torch.float64).reshape([len(a) for a in axes])
    x = tokens(grid, dim=1, batch=1).reshape(grid)
    expected = torch.zeros(grid, dtype=torch.float64)
    for i in itertools.product(*map(range, grid)):
        for j in itertools.product(*map(range, grid)):
            offset = [b - a for a, b in zip(i, j, strict=True)]
            if wrap:
                offset = [(o + p // 2) % p - p // 2 for o, p in zip(offset, map(period, grid), strict=True)]
            expected[i] += r[tuple(offset)] * x[j]
    for form in (correlate, correlate_by_fft, correlate_by_matrix):
        assert relative_error(form(x, values, grid, wrap), expected) < 1e-12
    assert relative_error((offset_matrix(values, grid) @ x.flatten()).reshape(grid), expected) < 1e-12


# ---------------------------------------------------------------------------------------------------------------------
# LiSA and its sibling against the definition


@pytest.mark.parametrize('block', [1, 40, 10**9], ids=['a channel', 'some channels', 'all'])
@pytest.mark.parametrize('channels', [6, 5], ids=['even', 'odd'])  # those of a head are transformed in pairs
@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize('grid', GRIDS)
def test_a_mean_in_blocks_of_pairs_is_that_by_matrices(grid, wrap, channels, block, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    tokens, periods = math.prod(grid), [period(n) if wrap else 2 * n - 1 for n in grid]
    shapes = (2, 3, 2, tokens), (2, 3, 2, tokens), (2, tokens, 3 * channels), (3, 2, *periods)
    inputs = [torch.rand(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = torch.randn(shapes[2], generator=generator, dtype=torch.float64)
    monkeypatch.setattr(pattern_sum, 'BLOCK_VALUES', block)
    results = []
    for limit in (10**9, 0):
        monkeypatch.setattr(correlation, 'MATRIX_LIMIT', limit)
        y = pattern_sum.average_patterns(*inputs, grid, wrap)
        results.append((y, *torch.autograd.grad((y * weights).sum(), inputs)))
    for expected, value in zip(
        *results, strict=True
    ):  # on a grid of one token some gradients are zero but for rounding
        torch.testing.assert_close(value, expected, rtol=RELATIVE, atol=1e-12)


def test_training_keeps_the_values_and_no_signals_made_of_them():
    grid, kept = (9, 10), []
    shapes = (1, 3, 2, 90), (1, 3, 2, 90), (1, 90, 3 * 6), (3, 2, *grid)
    phi, psi, value, r = (torch.rand(shape, requires_grad=True) for shape in shapes)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = pattern_sum.average_patterns(phi, psi, value, r, grid, wrap=True)
    y.sum().backward()
    large = [t for t in kept if t.numel() >= value.numel() // 2]  # two channels are one complex signal
    assert not any(t.is_complex() for t in large)
    own = value.untyped_storage().data_ptr()
    assert {t.untyped_storage().data_ptr() for t in large} <= {own}


def lisa_by_definition(module, x, grid, wrap):
    """K_ij = sum_m phi(q_i)_m psi(k_j)_m r^m_{j-i} with sum_o r^m_o = 1, and y_i = sum_j K_ij v_j / sum_j K_ij."""
    heads, patterns, d = module.num_heads, module.num_patterns, module.dim // module.num_heads
    q, k, v = module.query(x), module.key(x), module.value(x)
    r = module.rpe(grid, wrap).flatten(1).exp()
    r = r / r.sum(dim=1, keepdim=True)
    axes = [axis_offsets(n, wrap).tolist() for n in grid]
    column = {o: c for c, o in enumerate(itertools.product(*axes))}
    positions = list(itertools.product(*map(range, grid)))
    y = torch.zeros_like(x)
    for b, h, (i, at) in itertools.product(range(x.shape[0]), range(heads), enumerate(positions)):
        weights = []
        for j, to in enumerate(positions):
            offset = [t - a for a, t in zip(at, to, strict=True)]
            if wrap:
                offset = [(o + p // 2) % p - p // 2 for o, p in zip(offset, map(period, grid), strict=True)]
            weight = 0.0
            for m in range(patterns):
                c = h * patterns + m
                phi, psi = q[b, i, c].clamp(min=0) + module.eps, k[b, j, c].clamp(min=0) + module.eps
                weight = weight + phi * psi * r[c, column[tuple(offset)]]
            weights.append(weight)
        weights = torch.stack(weights)
        y[b, i, h * d : (h + 1) * d] = (weights / weights.sum()) @ v[b, :, h * d : (h + 1) * d]
    return y


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize('grid', [(5,), (3, 4), (2, 2, 3), (17,)])
def test_lisa_is_its_definition(grid, wrap):
    module = spread_parameters(LiSAttention(6, 3, num_patterns=2, form='dense', wrap=wrap, local_conv=False).double())
    x = tokens(grid, dim=6, batch=1)
    with torch.no_grad():
        expected = module.proj(lisa_by_definition(module, x, grid, wrap))
        assert relative_error(module(x, grid), expected) < RELATIVE


@pytest.mark.parametrize('matrix_limit', [0, 10**6], ids=['fft', 'matrix'])
@pytest.mark.parametrize('rpe', RPES)
@pytest.mark.parametrize('form', ['padded', 'circular'])
@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('operator', FFT_OPERATORS)
def test_fast_forms_equal_dense_in_values_and_gradients(operator, grid, form, rpe, matrix_limit, monkeypatch):
    monkeypatch.setattr(correlation, 'MATRIX_LIMIT', matrix_limit)
    torch.manual_seed(0)
    dense = spread_parameters(operator(12, 3, form='dense', wrap=form == 'circular', rpe=rpe).double())
    fast = operator(12, 3, form=form, rpe=rpe).double()
    fast.load_state_dict(dense.state_dict())
    x = tokens(grid).requires_grad_()
    weights = tokens(grid, seed=1)
    results = []
    for module in (fast, dense):
        y = module(x, grid)
        results.append((y, *torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])))
    for value, expected in zip(*results, strict=True):
        # Gradients that are zero but for rounding (all of the kernel's, for a single token) are held to that of x.
        scale = expected.abs().max().clamp(min=1e-2 * results[1][1].abs().max())
        assert (value - expected).abs().max() / scale < RELATIVE


@pytest.mark.parametrize('feature_map', FEATURE_MAPS)
def test_every_feature_map_gives_a_kernel_of_positive_rows_that_sum_to_one(feature_map):
    module = spread_parameters(LiSAttention(12, 3, feature_map=feature_map, form='padded', local_conv=False).double())
    x, grid = tokens((4, 5)), (4, 5)
    kernel = module.kernel(x, grid)
    assert kernel.shape == (2, 3, 20, 20)
    assert (kernel > 0).all()
    torch.testing.assert_close(kernel.sum(-1), torch.ones(2, 3, 20, dtype=torch.float64))
    values = module.value(x).unflatten(-1, (3, 4)).transpose(1, 2)
    expected = module.proj((kernel @ values).transpose(1, 2).flatten(2))
    assert relative_error(module(x, grid), expected) < RELATIVE


def test_with_constant_rpes_lisa_is_linear_attention_and_rpes_raise_the_rank():
    module = spread_parameters(LiSAttention(16, 1, num_patterns=3, form='padded', local_conv=False).double())
    x, grid = tokens((5, 5), dim=16, batch=1), (5, 5)
    assert torch.linalg.matrix_rank(module.kernel(x, grid)[0, 0]) == 25
    with torch.no_grad():
        for parameter in module.rpe.parameters():
            parameter.zero_()
    phi, psi = (torch.relu(z) + module.eps for z in (module.query(x), module.key(x)))
    expected = phi @ (psi.transpose(1, 2) @ module.value(x)) / (phi @ psi.sum(1).unsqueeze(-1))
    assert relative_error(module(x, grid), module.proj(expected)) < RELATIVE
    assert torch.linalg.matrix_rank(module.kernel(x, grid)[0, 0]) == 3


@pytest.mark.parametrize('operator', FFT_OPERATORS)
def test_circular_form_commutes_with_cyclic_shifts(operator):
    module = spread_parameters(operator(12, 3, local_conv=False).double())
    image = tokens((6, 7)).reshape(2, 6, 7, 12)
    shifted = image.roll((2, 3), (1, 2))
    y = module(image.flatten(1, 2), (6, 7)).reshape(image.shape)
    assert relative_error(module(shifted.flatten(1, 2), (6, 7)).reshape(image.shape), y.roll((2, 3), (1, 2))) < RELATIVE


@pytest.mark.parametrize('form', ['padded', 'circular'])
def test_a_clip_of_identical_frames_is_treated_like_the_image(form):
    module = LiSAttention(12, 3, form=form).double()
    x = tokens((4, 5))
    clip = x.repeat(1, 3, 1)
    assert relative_error(module(clip, (3, 4, 5)), module(x, (4, 5)).repeat(1, 3, 1)) < RELATIVE


# ---------------------------------------------------------------------------------------------------------------------
# RPEs


@pytest.mark.parametrize('wrap', [False, True])
def test_table_is_the_sum_of_an_entry_of_space_and_one_of_time(wrap):
    """Beyond the radius the border goes on; the entries of time are those of -2, -1, 1 and 2 frames."""
    rpe, grid = spread_parameters(TableRPE(2, radius=1, frames=2).double()), (7, 4, 3)
    values = rpe(grid, wrap)
    axes = [axis_offsets(n, wrap).tolist() for n in grid]
    assert values.shape == (2, *map(len, axes))
    for place in itertools.product(*(range(len(axis)) for axis in axes)):
        t, h, w = (axis[i] for axis, i in zip(axes, place, strict=True))
        expected = rpe.table[:, max(min(h, 1), -1) + 1, max(min(w, 1), -1) + 1]
        if t:
            expected = expected + rpe.time[:, {-2: 0, -1: 1, 1: 2, 2: 3}[max(min(t, 2), -2)]]
        assert torch.equal(values[(slice(None), *place)], expected)
    assert torch.equal(rpe(grid[1:], wrap), values[:, 0])
    assert torch.equal(rpe(grid[2:], wrap), values[:, 0, 0])


@pytest.mark.parametrize('wrap', [False, True])
def test_spectrum_is_the_sum_of_a_series_of_space_and_one_of_time(wrap):
    rpe, grid = spread_parameters(SpectrumRPE(2, num_frequencies=2).double()), (5, 4, 3)
    values = rpe(grid, wrap)
    axes = [axis_offsets(n, wrap).tolist() for n in grid]
    for place in itertools.product(*(range(len(axis)) for axis in axes)):
        bases = []
        for axis, i in zip(axes, place, strict=True):
            phase = 2 * math.pi * axis[i] / len(axis)
            bases.append([1, *(math.cos(k * phase) for k in (1, 2)), *(math.sin(k * phase) for k in (1, 2))])
        times, rows, columns = (torch.tensor(basis, dtype=torch.float64) for basis in bases)
        cosines = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)  # so that it is zero at offset 0
        expected = rpe.time @ (times[1:] - cosines) + torch.einsum('ruv,u,v->r', rpe.coefficients, rows, columns)
        torch.testing.assert_close(values[(slice(None), *place)], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rpe(grid[1:], wrap), values[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('rpe', RPES)
@pytest.mark.parametrize('operator', [*FFT_OPERATORS, URPE])
def test_training_on_images_leaves_the_weights_of_time_at_zero(operator, rpe):
    """Exactly, with a gradient for every parameter: from a rounding error Adam would make a step of full size."""
    module = operator(12, 3, **{'factor' if operator is URPE else 'rpe': rpe})
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        module(tokens((4, 5), dtype=torch.float32), (4, 5)).square().sum().backward()
        assert all(p.grad is not None for p in module.parameters())
        optimizer.step()
    learned = module.rpe_factor if operator is URPE else module.rpe
    time = learned.hidden.weight[:, 0] if rpe == 'continuous' else learned.time
    assert time.numel()
    assert not time.any()
    still = tokens((4, 5), dtype=torch.float32).repeat(1, 3, 1)
    expected = module(still[:, :20], (4, 5)).repeat(1, 3, 1)
    assert relative_error(module(still, (3, 4, 5)), expected) < 1e-4


# ---------------------------------------------------------------------------------------------------------------------
# Softmax attention, and none


@pytest.mark.parametrize('grid', GRIDS)
def test_no_mixing_is_its_definition(grid):
    def oracle(module, x, grid):
        rows = []
        for token in x.flatten(0, 1):
            value = module.value.weight @ token + module.value.bias
            rows.append(module.proj.weight @ value + module.proj.bias)
        return torch.stack(rows).reshape(x.shape)

    assert_equals_oracle(spread_parameters(build_attention('NoMixing', 12, 3).double()), oracle, grid)


@pytest.mark.parametrize('large', [1, 10**9], ids=['by sample', 'by torch'])
@pytest.mark.parametrize('rpe', [None, 'continuous'])
@pytest.mark.parametrize('grid', GRIDS)
def test_softmax_attention_is_its_definition(grid, rpe, large, monkeypatch):
    monkeypatch.setattr('lisa_backbone.attention.self_attention._LARGE', large)

    def oracle(module, x, grid):
        q, k, v = module.qkv(x).unflatten(-1, (3, 3, 4)).unbind(2)
        scores = torch.einsum('bihd,bjhd->bhij', q, k) / 2
        if rpe:
            values = module.rpe(grid, False)
            axes = [list(range(n)) for n in grid]
            positions = torch.tensor(list(itertools.product(*axes)))
            offsets = positions[None, :] - positions[:, None]
            scores = scores + values[(slice(None), *offsets.unbind(-1))]  # a negative offset counts from the end
        weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        return module.proj(torch.einsum('bhij,bjhd->bihd', weights, v).flatten(2))

    module = spread_parameters(build_attention(dict(type='SelfAttention', rpe=rpe), 12, 3).double())
    assert_equals_oracle(module, oracle, grid)


# ---------------------------------------------------------------------------------------------------------------------
# Numeric range


@pytest.mark.parametrize('form', ['padded', 'circular'])
@pytest.mark.parametrize('operator', FFT_OPERATORS)
def test_float32_is_close_to_float64(operator, form):
    module = spread_parameters(operator(32, 4, form=form))
    x, grid = tokens((31, 45), dim=32, dtype=torch.float32), (31, 45)
    y = module(x, grid)
    # Rounding 1e-7 of an FFT over 1395 tokens, and a kernel whose entries span a factor of some thousands.
    assert relative_error(y.double(), module.double()(x.double(), grid)) < 1e-4


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('scale', [0.0, 1.0, 1e3])
@pytest.mark.parametrize('name', ATTENTION)
def test_half_precision_gives_finite_values_and_gradients(name, scale, dtype):
    torch.manual_seed(0)
    module = ATTENTION[name](24, 3)
    x = (scale * tokens((7, 9), dim=24, dtype=torch.float32)).requires_grad_()
    with torch.autocast('cpu', dtype):
        y = module(x, (7, 9))
        loss = y.float().square().mean()
    loss.backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    if scale == 1.0:
        # Relative rounding is 2^-8 (bfloat16) and 2^-11 (float16); the projections add up to a few of them.
        assert relative_error(y.float(), module(x, (7, 9))) < {torch.bfloat16: 4e-2, torch.float16: 5e-3}[dtype]


@pytest.mark.parametrize('value', [0.0, -3.0, 1e4, 1e30])
@pytest.mark.parametrize('name', ['LiSAttention', 'PatternCodeAttention'])
def test_constant_and_huge_inputs_give_finite_values_and_gradients(name, value):
    module = spread_parameters(ATTENTION[name](24, 3))
    x = torch.full((1, 63, 24), value, requires_grad=True)
    y = module(x, (7, 9))
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_one_dominant_key_gives_finite_values_and_gradients():
    module = spread_parameters(LiSAttention(24, 3))
    x = tokens((31, 33), dim=24, dtype=torch.float32)
    x[:, 5] *= 1e6
    x.requires_grad_()
    module(x, (31, 33)).square().mean().backward()
    assert x.grad.isfinite().all()


def test_weights_in_bfloat16_run():
    module = LiSAttention(24, 3)
    x = tokens((7, 9), dim=24, dtype=torch.float32)
    expected = module(x, (7, 9))
    y = module.bfloat16()(x.bfloat16(), (7, 9))
    assert y.dtype == torch.bfloat16
    assert relative_error(y.float(), expected) < 4e-2


MEMORY_SCRIPT = """
import resource, torch
from lisa_backbone.attention import build_attention
torch.manual_seed(0)
module = build_attention({name!r}, 32, 2)
module(torch.randn(1, 64, 32), (8, 8)).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module(torch.randn(1, 65536, 32), (256, 256)).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize('name', ['LiSAttention', 'PatternCodeAttention'])
def test_no_tensor_of_n_by_n_on_the_fast_path(name):
    """At N = 65,536 one N x N float32 tensor of one head takes 16 GiB; forward and backward must take far less."""
    done = subprocess.run(
        [sys.executable, '-c', MEMORY_SCRIPT.format(name=name)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2048, f'peak memory grew by {done.stdout} MiB'


# ---------------------------------------------------------------------------------------------------------------------
# The whole registry


def takes(name, grid):
    """Whether an operator has a form for so many axes."""
    return len(grid) in ATTENTION[name].about.axes


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('name', ATTENTION)
def test_contract(name, grid):
    module = build_attention(name, 12, 3)
    x = tokens(grid, dtype=torch.float32).requires_grad_()
    if not takes(name, grid):
        with pytest.raises(UserError, match='positive sizes'):
            module(x, grid)
        return
    y = module(x, grid)
    assert y.shape == x.shape
    assert y.isfinite().all()
    torch.testing.assert_close(module(x[1:], grid), y[1:], msg='a sample depends on the rest of its batch')
    y.square().sum().backward()
    missing = [key for key, p in module.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize('name', ATTENTION)
def test_an_operator_says_what_it_is(name):
    about = ATTENTION[name].about
    assert about.equation
    assert re.search(r'arXiv \d{4}\.\d{4,5}', about.source) or name in ('NoMixing', 'AveragePooling')
    assert 2 in about.axes


@pytest.mark.parametrize('name', [name for name, cls in ATTENTION.items() if cls.about.cost != 'N^2'])
@pytest.mark.parametrize('grid', [(64, 48), (3, 32, 32)])
def test_nothing_of_n_by_n_is_made_where_the_cost_is_below(name, grid):
    if not takes(name, grid):
        pytest.skip('no form for videos')
    module = build_attention(name, 4, 1)
    x = tokens(grid, 4, batch=1, dtype=torch.float32).requires_grad_()
    with LargestTensor() as largest:
        module(x, grid).square().sum().backward()
    assert largest.elements < math.prod(grid) ** 2 / 4


@pytest.mark.parametrize('grid', [grid for grid in GRIDS if len(grid) > 1])
@pytest.mark.parametrize('name', ATTENTION)
def test_symmetry(name, grid):
    """What an operator says it commutes with, it commutes with."""
    symmetry = ATTENTION[name].about.symmetry
    if not symmetry or not takes(name, grid):
        pytest.skip('it claims none')
    module = spread_parameters(build_attention(name, 12, 3).double())
    x, count = tokens(grid), math.prod(grid)
    if symmetry == 'permutation':
        order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    else:
        order = torch.arange(count).reshape(grid).roll((1, 2), (-2, -1)).flatten()
    # Means over the tokens are summed in another order.
    assert relative_error(module(x[:, order], grid), module(x, grid)[:, order]) < RELATIVE


@pytest.mark.parametrize('name', [name for name in ATTENTION if takes(name, (1, 1, 1))])
def test_a_clip_of_one_frame_is_the_image(name):
    module, x = spread_parameters(build_attention(name, 12, 3).double()), tokens((5, 8))
    expected = module(x, (5, 8))
    assert expected.abs().max() > 1e-3
    assert relative_error(module(x, (1, 5, 8)), expected) < RELATIVE


@pytest.mark.parametrize('name', [name for name in ATTENTION if takes(name, (1, 1, 1))])
def test_a_still_clip_gets_what_the_operator_says(name):
    """With the weights of time as an image model has them: what it claims holds, what it does not claim does not."""
    about = ATTENTION[name].about
    assert bool(about.not_inflated) == (not about.inflates)
    assert not (about.frames_alike and about.inflates)
    torch.manual_seed(0)
    module, x = build_attention(name, 12, 3).double(), tokens((5, 8))
    for frames in (3, 6):
        y = module(x.repeat(1, frames, 1), (frames, 5, 8)).unflatten(1, (frames, 40))
        errors = [relative_error(y, expected.expand_as(y)) for expected in (y[:, :1], module(x, (5, 8)).unsqueeze(1))]
        for error, claimed in zip(errors, (about.frames_alike or about.inflates, about.inflates), strict=True):
            assert error < RELATIVE if claimed else error > 1e-4


@pytest.mark.parametrize('name', ATTENTION)
def test_state_dict_round_trip(name):
    x = tokens((5, 6), dtype=torch.float32)
    first, second = (spread_parameters(build_attention(name, 12, 3), seed) for seed in (0, 1))
    if not first.state_dict():
        pytest.skip('it has no parameters')
    assert not torch.equal(first(x, (5, 6)), second(x, (5, 6)))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, (5, 6)), second(x, (5, 6)))


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ('LisaAttention', "did you mean 'LiSAttention'"),
        (dict(type='LiSAttention', num_pattern=2), "did you mean 'num_patterns'"),
        (dict(type='LiSAttention', form='fourier'), 'padded'),
        (dict(type='LiSAttention', rpe='sine'), 'continuous'),
        (dict(type='LiSAttention', feature_map='cosine'), 'relu'),
        (dict(type='PatternCodeAttention', form='fourier'), 'padded'),
    ],
)
def test_unknown_names_are_refused_with_what_is_known(config, words):
    with pytest.raises(UserError, match=words):
        build_attention(config, 12, 3)


def test_an_operator_of_another_package_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / 'own_operators.py').write_text(
        'from lisa_backbone.attention import SelfAttention\n\n\nclass Mine(SelfAttention):\n    pass\n\n\nsize = 3\n'
    )
    name = 'own_operators.Mine'
    with pytest.raises(UserError, match=f"'{name}' cannot be imported .*; install its package or .* PYTHONPATH"):
        build_attention(name, 12, 3)
    monkeypatch.syspath_prepend(tmp_path)
    built = build_attention(dict(type=name, qkv_bias=False), 12, 3)
    assert (type(built).__module__, type(built).__name__, built.qkv.bias) == ('own_operators', 'Mine', None)
    assert 'Mine' not in ATTENTION
    for config, words in (
        (dict(type=name, bias=True), f"option 'bias' is unknown to {name}.*it takes .*qkv_bias"),
        ('own_operators.Min', "not in that module .*'Min'"),
        ('own_operators.size', 'not a class of torch.nn.Module'),
        ('..Mine', r"'\.\.Mine' is unknown"),
        ('own_operators.', "'own_operators.' is unknown"),
        ('own operators.Mine', "'own operators.Mine' is unknown"),
    ):
        with pytest.raises(UserError, match=words):
            build_attention(config, 12, 3)


def test_heads_and_tokens_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match='num_heads=5'):
        LiSAttention(12, 5)
    with pytest.raises(UserError, match=r'\(B, 20, 12\)'):
        LiSAttention(12, 3)(torch.zeros(1, 21, 12), (4, 5))
    with pytest.raises(UserError, match='1, 2 or 3'):
        LiSAttention(12, 3)(torch.zeros(1, 16, 12), (2, 2, 2, 2))


@pytest.mark.parametrize('name', ATTENTION)
def test_a_batch_of_no_samples_is_refused(name):
    with pytest.raises(UserError, match='hold no samples'):
        build_attention(name, 12, 3)(torch.zeros(0, 30, 12), (5, 6))


def test_a_name_is_registered_once():
    with pytest.raises(KeyError, match='LiSAttention'):
        register_attention(type('LiSAttention', (nn.Module,), {}))


def test_padded_form_cannot_wrap():
    for operator in FFT_OPERATORS:
        with pytest.raises(UserError, match="form='padded' takes all offsets; take form='circular'"):
            operator(12, 3, form='padded', wrap=True)


def test_bias_of_softmax_attention_is_made_in_full_precision():
    """Half precision cannot tell large offsets apart, and the RPE is a function of them."""
    model = spread_parameters(build_attention('SelfAttention', 12, 3))
    grid, seen = (20, 21), []
    model.rpe.register_forward_hook(lambda *found: seen.append(found[2]))
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            model(tokens(grid, dtype=torch.float32), grid)
    assert torch.equal(*seen)


def test_a_token_of_zeros_has_bounded_gradients():
    """Zeros are padding; dividing a query by its length would send the gradient to infinity."""
    for name in ATTENTION:
        torch.manual_seed(0)
        model = build_attention(name, 12, 3)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key.endswith('bias') and 'norm' not in key:
                    parameter.zero_()
        x = tokens((4, 6), dtype=torch.float32)
        x[:, 5] = 0
        x.requires_grad_()
        model(x, (4, 6)).sum().backward()
        assert x.grad.abs().max() < 1e6, name
