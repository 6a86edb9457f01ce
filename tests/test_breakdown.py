"""Where the time of a pass goes: every operation is of the part and the kind that it belongs to."""

from pathlib import Path

import pytest
import torch
from processes import run_tool
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lisa_backbone import feed_forward
from lisa_backbone.backbone import LiSA
from lisa_backbone.benchmarking.breakdown import break_down, parts_of, table
from lisa_backbone.benchmarking.passes import make_pass
from lisa_backbone.feed_forward import FeedForward
from lisa_backbone.rows import read_rows

REPO = Path(__file__).parents[1]


class Net(nn.Module):
    """A convolution, linear layers in a list, of which one calls the other's, and an activation of no part."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))])

    def forward(self, x):
        x = self.layers[0](self.conv(x).movedim(1, -1)).sigmoid()
        return self.layers[1](x)


def found(model, parts, size=(3, 9, 9), mode='training'):
    run = make_pass(model, size, 2, mode, 'fp32', 'cpu')
    run()
    return break_down(run, parts, passes=2)


def kinds(rows, part, key):
    return {row['kind'] for row in rows if row['part'] == part and row[key] > 0} - {'other', 'copies'}


def test_operations_are_of_their_parts_and_kinds():
    model = Net()
    parts = parts_of(model)
    assert list(parts) == ['conv', 'layers.0', 'layers.1']
    rows = found(model, parts)
    expected = {
        'conv': {'convolutions'},
        'layers.0': {'matrix products'},
        'layers.1': {'matrix products', 'norms'},
        'rest': {'activations'},
    }
    assert {part: kinds(rows, part, 'forward_ms') for part in expected} == expected
    assert {part: kinds(rows, part, 'backward_ms') for part in expected} == expected


def test_inference_has_no_backward_pass():
    assert {row['backward_ms'] for row in found(Net(), parts_of(Net()), mode='inference')} == {0.0}


def test_the_innermost_part_counts():
    model = Net()
    rows = found(model, {'all': model, 'inner': model.layers[1][0]})
    assert kinds(rows, 'inner', 'forward_ms') == {'norms'}
    assert kinds(rows, 'all', 'forward_ms') == {'convolutions', 'matrix products', 'activations'}
    assert kinds(rows, 'all', 'backward_ms') == {'convolutions', 'matrix products', 'activations'}


def test_all_time_is_there_once():
    """In two profiles of the same passes sums differ by noise; of one profile they are the same."""
    model, kept = Net(), []
    run = make_pass(model, (3, 9, 9), 2, 'training', 'fp32', 'cpu')
    run()

    class Kept(profile):
        def events(self):
            kept.append(super().events())
            return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('lisa_backbone.benchmarking.breakdown.profile', Kept)
        rows = break_down(run, parts_of(model), passes=4)
    whole = sum(event.self_cpu_time_total for event in kept[0]) / 1000 / 4
    assert sum(row['forward_ms'] + row['backward_ms'] for row in rows) == pytest.approx(whole)
    assert whole > 0


def test_what_is_computed_again_is_of_the_backward_pass(monkeypatch):
    monkeypatch.setattr(feed_forward, 'MANY_VALUES', 1)
    model = FeedForward(4, 8)
    rows = found(model, {'network': model}, size=(5, 4))
    (row,) = [row for row in rows if (row['part'], row['kind']) == ('network', 'activations')]
    assert row['forward_ms'] > 0
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(torch.ones(5, 4, requires_grad=True)).sum().backward()
    assert sum(event.name == 'aten::gelu' for event in profiler.events()) == 2  # of which one is in the backward pass
    assert row['backward_ms'] > 0


def test_parts_of_lisa():
    model = LiSA('pico', out_indices=(1, 2))
    names = [f'stages.{i}{part}' for i in range(3) for part in ('', ' embed', ' attention', ' feed-forward')]
    rows = found(model, parts_of(model), size=(3, 64, 64))
    assert list(dict.fromkeys(row['part'] for row in rows)) == [*names, 'rest']
    assert 'transforms' in kinds(rows, 'stages.0 attention', 'forward_ms')  # of 256 tokens
    assert 'transforms' in kinds(rows, 'stages.0 attention', 'backward_ms')
    assert not any('transforms' in kinds(rows, name, 'forward_ms') for name in names if 'attention' not in name)


def test_the_table():
    rows = [
        {'part': 'a', 'kind': 'matrix products', 'forward_ms': 1.0, 'backward_ms': 2.0},
        {'part': 'a', 'kind': 'other', 'forward_ms': '0.5', 'backward_ms': '0.5'},  # as of a CSV file
        {'part': 'b', 'kind': 'other', 'forward_ms': 4.0, 'backward_ms': 0.0},
    ]
    assert table(rows).splitlines() == [
        '| part | forward, ms | backward, ms | share | matrix products | other |',
        '|---|---:|---:|---:|---:|---:|',
        '| a | 1.5 | 2.5 | 50.0 % | 37.5 % | 12.5 % |',
        '| b | 4.0 | 0.0 | 50.0 % | 0.0 % | 50.0 % |',
        '| all | 5.5 | 2.5 | 100.0 % | 37.5 % | 62.5 % |',
    ]


def test_the_command_line(tmp_path):
    command = ['profile_model.py', 'LiSA:arch=pico', '--out', 'parts.csv']
    more = ['--shape', '32', '64', '--mode', 'inference', '--threads', '1', '--passes', '1']
    done = run_tool(*command, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / 'parts.csv')
    assert table(rows) in done.stdout
    assert {(row['candidate'], row['input'], row['mode']) for row in rows} == {('LiSA:arch=pico', '32x64', 'inference')}
    assert {row['threads'] for row in rows} == {'1'}
    assert 'stages.3 feed-forward' in {row['part'] for row in rows}
    done = run_tool(*command, *more, cwd=tmp_path)
    said = 'parts.csv holds candidate LiSA:arch=pico, mode inference, input 32x64, batch 1 already; name another --out'
    assert (done.returncode, done.stderr) == (2, f'error: {said}\n')
    assert read_rows(tmp_path / 'parts.csv') == rows
    done = run_tool(*command, '--passes', '0', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'error: --passes 0 must be positive\n')
