"""Measures of kernels against cases whose answer is known."""

import json
import math
from pathlib import Path

import pytest
import torch
from processes import run_tool

from lisa_backbone import compat

compat.apply()

from lisa_backbone.attention import register_attention  # noqa: E402
from lisa_backbone.attention.registry import ATTENTION  # noqa: E402
from lisa_backbone.backbone import LiSA  # noqa: E402
from lisa_backbone.config import load_config, null_empty_pretrained  # noqa: E402
from lisa_backbone.data.mini_sets import mini_set  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.kernels import (  # noqa: E402
    MEASURES,
    draw,
    effective_rank,
    head_similarity,
    measure_kernels,
    measure_run,
    query_similarity,
)
from lisa_backbone.kernels import table as make_table  # noqa: E402
from lisa_backbone.preflight import build_model  # noqa: E402
from lisa_backbone.rows import append_rows  # noqa: E402

REPO = Path(__file__).parents[1]
N = 6


def test_effective_rank():
    assert effective_rank(torch.eye(N)).item() == pytest.approx(N)
    assert effective_rank(torch.full((2, 3, N, N), 1 / N)).flatten().tolist() == pytest.approx([1] * 6)
    # Singular values 3/4 and 1/4.
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0, 0]))).item() == pytest.approx(math.exp(entropy))


def test_similarity_of_queries():
    assert query_similarity(torch.eye(N)).item() == pytest.approx(0)
    assert query_similarity(torch.ones(N, N)).item() == pytest.approx(1)
    kernel = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    assert query_similarity(kernel).item() == pytest.approx(2 * math.sqrt(0.5) / 6)  # one pair of three, both ways


def test_similarity_of_heads():
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(N, N, generator=generator)
    assert head_similarity(torch.stack([one, one, 3 * one])).item() == pytest.approx(1)
    assert head_similarity(torch.stack([torch.eye(N), torch.eye(N).roll(1, 0)])).item() == pytest.approx(0)
    kernel = torch.rand(2, 3, N, N, generator=generator)
    pairs = [
        torch.cosine_similarity(kernel[:, a], kernel[:, b], dim=-1).mean(dim=-1) for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    torch.testing.assert_close(head_similarity(kernel), torch.stack(pairs).mean(dim=0).double())


class _Uniform(torch.nn.Module):
    """Every token gets the mean of all in the first head, and itself in the second."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x, grid):
        return x * self.scale

    def kernel(self, x, grid):
        count = x.shape[1]
        return torch.stack([torch.full((count, count), 1 / count), torch.eye(count)]).expand(len(x), 2, -1, -1)


@pytest.fixture
def uniform(monkeypatch):
    register_attention(_Uniform)
    yield '_Uniform'
    del ATTENTION['_Uniform']


def test_a_model_is_measured_by_stage(uniform):
    found = measure_kernels(LiSA(arch='pico', attention=uniform).eval(), [torch.zeros(2, 3, 64, 48)])
    assert {stage: values['tokens'] for stage, values in found.items()} == {0: 192, 1: 48, 2: 12, 3: 4}
    for values in found.values():
        count = values['tokens']
        assert values[MEASURES[0]] == pytest.approx((1 / count + 1) / 2)
        assert values[MEASURES[1]] == pytest.approx(0.5)
        assert values[MEASURES[2]] == pytest.approx(count**-0.5, rel=1e-6)


def test_hooks_are_gone_afterwards(uniform):
    backbone = LiSA(arch='pico', attention=uniform).eval()
    measure_kernels(backbone, [torch.zeros(1, 3, 32, 32)])
    assert not any(module._forward_pre_hooks for module in backbone.modules())


def test_an_operator_without_a_kernel_is_named():
    with pytest.raises(UserError, match='NoMixing has no kernel'):
        measure_kernels(LiSA(arch='pico', attention='NoMixing'), [torch.zeros(1, 3, 32, 32)])


def test_table_and_figure(tmp_path):
    rows = [
        {
            'task': 't',
            'model': 'a',
            'seed': seed,
            'stage': stage,
            'tokens': 16,
            'measure': measure,
            'value': f'{0.5 + 0.1 * seed}',
        }
        for seed in (0, 1)
        for stage in (1, 2)
        for measure in MEASURES[: stage + 1]
    ]
    assert make_table(rows).splitlines()[2:] == [
        '| t | a | 1 | 16 | 2 | 0.550 ± 0.071 | 0.550 ± 0.071 |  |',
        '| t | a | 2 | 16 | 2 | 0.550 ± 0.071 | 0.550 ± 0.071 | 0.550 ± 0.071 |',
    ]
    other = [{**row, 'task': 'u', 'tokens': 4, 'value': '0.1'} for row in rows[:1]]  # is no seed of the same
    assert make_table([*rows, *other]).splitlines()[-1] == '| u | a | 1 | 4 | 1 | 0.100 |  |  |'
    draw(rows, tmp_path / 'kernels.png')
    assert (tmp_path / 'kernels.png').stat().st_size > 10_000


@pytest.mark.parametrize('folder', ['', 'work_dirs/a/'], ids=['elsewhere', 'in the checkout'])
def test_a_run_is_measured_on_the_images_of_its_test(tmp_path, folder):
    kind = mini_set('imagenet')
    kind.make(tmp_path / 'data', kind.params(train=20, val=20))
    record = json.loads((REPO / 'results' / 'operators.jsonl').read_text().splitlines()[0])
    record['weights']['tested']['file'] = f'{folder}best.pth'
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    (work_dir / 'record.json').write_text(json.dumps(record))
    cfg = load_config(
        REPO / 'configs/pretrain/lisa-p_mini-imagenet.py', {'model.backbone.attention.type': 'Fibottention'}
    )
    cfg.dump(str(work_dir / 'config.py'))
    null_empty_pretrained(cfg)
    model = build_model(cfg.model, cfg.get('data_preprocessor'))
    with pytest.raises(UserError, match=r'lacks its config or best\.pth; train and test there first'):
        measure_run(work_dir, 2, str(tmp_path / 'data'))
    torch.save({'state_dict': model.state_dict()}, work_dir / 'best.pth')
    with pytest.raises(UserError, match='the test set has 20 images and 21 were asked for; lower --images'):
        measure_run(work_dir, 21, str(tmp_path / 'data'))
    rows = measure_run(work_dir, 2, str(tmp_path / 'data'))
    assert {(row['model'], row['seed'], row['images']) for row in rows} == {(record['model'], record['seed'], 2)}
    assert sorted({(row['stage'], row['tokens']) for row in rows}) == [(1, 256), (2, 64), (3, 16), (4, 4)]
    assert all(0 <= float(row['value']) <= 1 for row in rows)


def test_runs_that_are_measured_already_are_passed_over(tmp_path):
    record = json.loads((REPO / 'results' / 'operators.jsonl').read_text().splitlines()[0])
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'record.json').write_text(json.dumps(record))
    known = {key: record[key] for key in ('task', 'model', 'seed')}
    row = known | {'stage': 1, 'tokens': 256, 'measure': MEASURES[0], 'value': '0.5'}
    append_rows(tmp_path / 'kernels.csv', [row])

    def measure(*runs):
        return run_tool('measure_kernels.py', *runs, '--out', 'kernels.csv', cwd=tmp_path)

    done = measure('work')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('passed over: work, which kernels.csv holds already\n| task | model |')
    done = measure('work', 'absent')
    assert done.returncode == 2
    assert done.stderr == 'error: absent has no record.json; train and test there first\n'
