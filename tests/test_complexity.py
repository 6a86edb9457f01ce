"""The MAC counter against formulas worked out by hand."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from oracle import OnGrid
from torch import nn

from lisa_backbone.attention import (
    LiSAttention,
    NoMixing,
    PatternCodeAttention,
    SelfAttention,
    correlation,
    pattern_sum,
)
from lisa_backbone.complexity import count, count_macs, count_parameters

GRIDS = [(50,), (7, 7), (14, 14), (25, 40), (3, 5, 6)]
SMOOTH = {6: 6, 13: 15, 14: 15, 27: 27, 49: 50, 79: 80, 99: 100, 5: 5, 9: 9, 11: 12}  # lengths of padded transforms


class Calls(nn.Module):
    """A function as a model of one tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def fft(points):
    """MACs of a real transform; two operations are one."""
    return 2.5 * points * math.log2(points) / 2


# ------------------------------------------------------------------------------------------------- layers and operators


def test_parameters_and_macs_of_plain_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    assert count_parameters(model) == 3 * 8 * 9 + 8 + 8 * 9 + 8
    assert count_macs(model, (2, 3, 16, 16)) == 2 * 64 * (3 * 8 * 9 + 8 * 9)


def test_transposed_and_three_dimensional_convolutions():
    up = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2)
    assert count_macs(up, (2, 6, 5, 7)) == 2 * 35 * 6 * (4 // 2) * 9  # each input value meets the kernel once
    clip = nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))
    assert count_macs(clip, (1, 3, 6, 16, 12)) == 3 * 4 * 3 * 8 * 3 * 2 * 16


def test_linear_layers_on_vectors_and_tokens():
    assert count_macs(nn.Linear(8, 5), (8,)) == 40
    assert count_macs(nn.Linear(8, 5), (2, 3, 4, 8)) == 24 * 40


@pytest.mark.parametrize('rpe', [None, 'continuous'])
@pytest.mark.parametrize('grid', GRIDS)
def test_self_attention(grid, rpe):
    n, dim, heads = math.prod(grid), 16, 4
    macs = 4 * n * dim * dim + 2 * n * n * dim
    if rpe:  # an MLP with 3 inputs and 32 hidden units at every offset
        macs += math.prod(2 * size - 1 for size in grid) * (3 * 32 + 32 * heads)
    assert count_macs(OnGrid(SelfAttention(dim, heads, rpe=rpe)), (1, dim, *grid)) == macs


@pytest.mark.parametrize('device', ['cpu', 'meta'])
@pytest.mark.parametrize('batch_first', [False, True])
def test_torchs_own_attention(device, batch_first):
    """In evaluation mode it takes a fused kernel that would hide its products."""
    model = Calls(lambda x: model.attention(x, x, x)[0])
    model.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first).to(device)
    assert count_macs(model, (1, 10, 16) if batch_first else (10, 1, 16)) == 4 * 10 * 256 + 2 * 100 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('form', ['circular', 'padded'])
@pytest.mark.parametrize('grid', GRIDS)
def test_lisa_counts_its_transforms(grid, form, batch, monkeypatch):
    monkeypatch.setattr(correlation, 'MATRIX_LIMIT', 0)
    dim, heads, patterns = 12, 3, 4
    n = math.prod(grid)
    sizes = grid if form == 'circular' else [SMOOTH[2 * size - 1] for size in grid]
    points, frequencies = math.prod(sizes), math.prod(sizes[:-1]) * (sizes[-1] // 2 + 1)
    offsets = n if form == 'circular' else math.prod(2 * size - 1 for size in grid)
    weights, pairs = batch * patterns * heads, batch * patterns * dim // 2
    expected = (
        batch * n * dim * (2 * dim + 2 * heads * patterns)  # projections
        + batch * n * dim * 9  # local convolution
        + offsets * (3 * 32 + 32 * heads * patterns)  # RPEs
        # A forward and an inverse transform of each pair of channels, a complex one, and of each denominator; of each
        # RPE a complex one for the former and a real one for the latter.
        + (2 * 2 * pairs + 2 * weights + (2 + 1) * heads * patterns) * fft(points)
        + 4 * pairs * points
        + 4 * weights * frequencies
    )
    operator = LiSAttention(dim, heads, num_patterns=patterns, form=form)
    assert count_macs(OnGrid(operator), (batch, dim, *grid)) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize('form', ['circular', 'padded'])
def test_lisa_on_a_small_grid_counts_products_with_a_matrix(form):
    n, dim, heads, patterns = 49, 12, 3, 4
    operator = LiSAttention(dim, heads, num_patterns=patterns, form=form, rpe='table', local_conv=False)
    expected = n * dim * (2 * dim + 2 * heads * patterns) + patterns * (dim + heads) * n * n
    assert count_macs(OnGrid(operator), (1, dim, 7, 7)) == expected


def test_lisa_dense_counts_its_kernel():
    n, dim, heads, patterns = 30, 12, 3, 2
    operator = LiSAttention(dim, heads, num_patterns=patterns, form='dense', rpe='table', local_conv=False)
    expected = (
        n * dim * (2 * dim + 2 * heads * patterns)
        + heads * patterns * n * n  # the sum over the patterns; phi times psi is elementwise
        + n * n * dim  # the kernel times the values; its sums are not counted
    )
    assert count_macs(OnGrid(operator), (1, dim, 5, 6)) == expected


def test_pattern_codes(monkeypatch):
    monkeypatch.setattr(correlation, 'MATRIX_LIMIT', 0)
    n, dim, heads, patterns = 48, 12, 3, 2
    operator = PatternCodeAttention(dim, heads, num_patterns=patterns, rpe='table', local_conv=False)
    frequencies = 6 * 5
    expected = (
        4 * n * dim * dim
        + (dim + heads * patterns + dim * patterns) * fft(n)  # keys, a, and back
        + (dim + heads * (patterns + 1) + dim * (patterns + 1)) * fft(n)  # values, b and c, and back
        + 4 * dim * (2 * patterns + 1) * frequencies
        + 2 * n * patterns * dim  # encoding and decoding
        + heads * n * patterns * patterns  # rho
    )
    assert count_macs(OnGrid(operator), (1, dim, 6, 8)) == pytest.approx(expected, abs=4)


def test_complex_transforms_and_products():
    def mixing(x):  # as global filters and Fourier operators do
        spectrum = torch.fft.fft2(torch.complex(x, x))
        return torch.fft.ifft2(torch.einsum('nihw,io->nohw', spectrum * spectrum, spectrum[0, :, :3, 0])) * 2.0

    channels, outputs, n = 5, 3, 64
    transforms = (channels + outputs) * 2 * fft(n)
    products = 4 * channels * n + 4 * channels * outputs * n + 2 * outputs * n
    assert count_macs(Calls(mixing), (1, channels, 8, 8)) == transforms + products


def test_products_in_place():
    def mixing(x):
        y = torch.zeros(4, 4).addmm_(x[0], x[1]) + torch.zeros(4, 4).addbmm_(x, x)
        return torch.zeros(2, 4, 4).baddbmm_(x, x) + y + torch.mv(x[0], x[1, 0]) + torch.dot(x[0, 0], x[0, 1])

    assert count_macs(Calls(mixing), (2, 4, 4)) == 64 + 128 + 128 + 16 + 4


@pytest.mark.parametrize('batch', [1, 2])
def test_deformable_convolution_of_mmcv(batch):
    ops = pytest.importorskip('mmcv.ops')
    model = ops.DeformConv2dPack(8, 16, 3, padding=1)
    offsets, samples = 8 * 18 * 9, 8 * 16 * 9
    found = count(model, (batch, 8, 10, 12))
    assert (found.macs, found.uncounted) == (batch * 120 * (offsets + samples), ())


# --------------------------------------------------------------------------------------------------------------- models


def test_resnet50():
    """4.1 GMACs at 224 x 224 (He et al., 2016, who give 3.8 for the strides of their first version)."""
    models = pytest.importorskip('mmdet.models')
    macs, width_in = 112**2 * 64 * 3 * 49, 64
    for width, blocks, side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for block in range(blocks):
            stride = 2 if side < 56 and block == 0 else 1
            macs += (side * stride) ** 2 * width_in * width + side**2 * (width * width * 9 + width * 4 * width)
            if block == 0:
                macs += side**2 * width_in * 4 * width
            width_in = 4 * width
    found = count_macs(models.ResNet(50), (1, 3, 224, 224))
    assert found == macs
    assert f'{found / 1e9:.1f}' == '4.1'


def test_swin_tiny():
    """4.5 GMACs at 224 x 224 (Liu et al., 2021, Table 1), by their formula for windows of 7 x 7."""
    models = pytest.importorskip('mmdet.models')
    macs = 56**2 * 96 * 3 * 16
    for stage, blocks in enumerate((2, 2, 6, 2)):
        n, dim = (56 >> stage) ** 2, 96 << stage
        if stage:
            macs += n * (2 * dim) * dim  # merging 4 x dim/2 channels into dim
        macs += blocks * (4 * n * dim**2 + 2 * 49 * n * dim + 8 * n * dim**2)
    found = count_macs(models.SwinTransformer(), (1, 3, 224, 224))
    assert found == macs
    assert f'{found / 1e9:.1f}' == '4.5'


def test_clip_without_exchange_costs_as_many_images():
    from lisa_backbone.backbone import LiSA

    model = LiSA('pico', attention=dict(type='NoMixing', local_conv=True))
    image = count_macs(model, (1, 3, 64, 96))
    assert count_macs(model, (1, 3, 5, 64, 96)) == 5 * image
    assert count_macs(model, (2, 3, 64, 96)) == 2 * image


def test_nothing_need_be_computed():
    """On the meta device the count is the same, at any size."""
    operators = [LiSAttention(16, 2), SelfAttention(16, 2), NoMixing(16, 2), PatternCodeAttention(16, 2)]
    for operator in operators:
        on_cpu = count_macs(OnGrid(operator), (1, 16, 9, 10))
        assert count_macs(OnGrid(operator).to('meta'), (1, 16, 9, 10)) == on_cpu
    n = 1024**2
    macs = 4 * n * 16**2 + 2 * n * n * 16
    assert count_macs(OnGrid(SelfAttention(16, 2, rpe=None)).to('meta'), (1, 16, 1024, 1024)) == macs


# ---------------------------------------------------------------------------------------------------- what is not seen


def test_what_is_not_counted_is_named():
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            return torch.from_numpy(x.numpy() @ weight.detach().numpy())

    class HiddenLinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

        def forward(self, x):
            return Hidden.apply(x, self.weight)

    class Positions(nn.Embedding):
        def forward(self, x):
            return x + super().forward(torch.arange(x.shape[1]))

    found = count(nn.Sequential(HiddenLinear(), nn.Linear(4, 4), nn.LayerNorm(4)), (1, 5, 4))
    assert (found.macs, found.uncounted) == (5 * 16, ('HiddenLinear',))
    assert count(Positions(5, 4), (1, 5, 4)).uncounted == ('Positions',)
    assert count(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), (2, 4)).uncounted == ()


def test_foreign_operation_is_named():
    @torch.library.custom_op('lisa_test::double', mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x @ torch.eye(x.shape[-1])

    assert count(Calls(double), (3, 4)).uncounted == ('lisa_test::double',)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout().eval()).train()
    model[2].eval()
    count_macs(model, (1, 3, 8, 8))
    assert [module.training for module in model] == [True, True, False]
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_the_readme_states_what_the_tool_prints():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, 'tools/get_flops.py'], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('| arch |')
    assert done.stdout in (root / 'README.md').read_text()


def test_what_a_fused_kernel_computes_is_counted_too(monkeypatch):
    """Its launch is no operation of torch, so the same is done in plain torch while it is counted."""
    monkeypatch.setattr(pattern_sum, '_kernels', lambda: 'kernels')
    on_gpu, asked = SimpleNamespace(is_cuda=True, dtype=torch.float32), []

    def forward(x):
        asked.append(pattern_sum.fused(on_gpu))
        return x @ x

    assert pattern_sum.fused(on_gpu) == 'kernels'
    assert count_macs(Calls(forward), (3, 3)) == 27
    assert asked == [None]
    assert pattern_sum.fused(on_gpu) == 'kernels'
