"""The MAC counter against formulas worked out by hand."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lisa_backbone.attention import LiSAttention, SelfAttention
from lisa_backbone.complexity import count_macs, count_parameters


class OnGrid(nn.Module):
    """An operator as a model of one tensor (B, C, H, W)."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, x):
        return self.operator(x.flatten(2).transpose(1, 2), tuple(x.shape[2:]))


def test_parameters_and_macs_of_plain_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    assert count_parameters(model) == 3 * 8 * 9 + 8 + 8 * 9 + 8
    assert count_macs(model, (2, 3, 16, 16)) == 2 * 64 * (3 * 8 * 9 + 8 * 9)


def test_self_attention():
    n, dim = 5 * 6, 16
    macs = 4 * n * dim * dim + 2 * n * n * dim
    assert count_macs(OnGrid(SelfAttention(dim, 4, rpe=None)), (1, dim, 5, 6)) == macs


@pytest.mark.parametrize('batch', [1, 3])
def test_lisa_counts_its_transforms(batch):
    dim, heads, patterns, (height, width) = 12, 3, 2, (6, 8)
    n, frequencies = height * width, height * (width // 2 + 1)
    operator = LiSAttention(dim, heads, num_patterns=patterns, rpe=dict(type='table', radius=2), local_conv=False)
    signals = batch * patterns * (dim + heads)
    projections = batch * n * dim * (2 * dim + 2 * heads * patterns)
    # An inverse and a forward transform of each signal, a forward one of each RPE; two operations are one MAC.
    transforms = (2 * signals + heads * patterns) * 2.5 * n * math.log2(n) / 2
    products = 4 * signals * frequencies
    expected = projections + transforms + products
    assert count_macs(OnGrid(operator), (batch, dim, height, width)) == pytest.approx(expected, abs=2)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    count_macs(model, (1, 3, 8, 8))
    assert model.training
    assert torch.equal(model[1].running_mean, torch.zeros(4))


def test_the_readme_states_what_the_tool_prints():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, 'tools/get_flops.py'], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('| arch |')
    assert done.stdout in (root / 'README.md').read_text()
