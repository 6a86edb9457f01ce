"""The linter: what it counts, and what it finds."""

import json
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmcv')
pytest.importorskip('mmpretrain')

from lisa_backbone.attention import ATTENTION  # noqa: E402
from lisa_backbone.collect import attention_of  # noqa: E402
from lisa_backbone.config import config_digest, load_config, parse_options  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.lint import (  # noqa: E402
    COSTS,
    REPORT,
    TABLES,
    _lint_page,
    _names,
    cost_of,
    fill_tables,
    lint,
    list_configs,
)
from lisa_backbone.leaderboard.operators import _options  # noqa: E402
from lisa_backbone.leaderboard.report import report  # noqa: E402
from lisa_backbone.records import add_records, read_records  # noqa: E402
from lisa_backbone.rows import append_rows  # noqa: E402

REPO = Path(__file__).parents[1]
DIGEST = 'ab' * 32
CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VGG', depth=11, num_classes=10),
)
test_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[dict(type='ResizeEdge', scale=256),
                                                                    dict(type='CenterCrop', crop_size=32)]))
"""


def vgg11():
    """Parameters and MACs of VGG-11 at 32 x 32, by hand: 3 x 3 convolutions with biases, then 25088-4096-4096-10."""
    widths, sizes = (64, 128, 256, 256, 512, 512, 512, 512), (32, 16, 8, 8, 4, 4, 2, 2)
    parameters = macs = 0
    before = 3
    for width, size in zip(widths, sizes, strict=True):
        parameters += 9 * before * width + width
        macs += 9 * before * width * size * size
        before = width
    return parameters, macs


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one config, a record of it, costs and a page with a table, all in order."""
    for page in TABLES.keys() - {'README.md'}:
        monkeypatch.delitem(TABLES, page)
    (tmp_path / 'configs' / 'pretrain').mkdir(parents=True)
    path = tmp_path / 'configs' / 'pretrain' / 'vgg_mini-imagenet.py'
    path.write_text(CONFIG.replace(', num_classes=10', ', out_indices=(4,)'))
    cost = cost_of(path)
    record = json.loads((REPO / 'results' / 'published.jsonl').read_text().splitlines()[0])
    record |= {
        'status': 'mini',
        'task': 'mini ImageNet',
        'model': 'vgg',
        'backbone': 'vgg',
        'seed': 0,
        'metrics': {'top-1': 0.5},
        'parameters': {'model': cost.parameters, 'backbone': cost.backbone_parameters},
        'macs': {'value': cost.backbone_macs, 'input': [1, 3, 32, 32]},
        'config': {
            'file': 'configs/pretrain/vgg_mini-imagenet.py',
            'digest': config_digest(load_config(path)),
            'overrides': [],
        },
        'code': {'commit': 'unknown', 'dirty': False},
        'weights': {'initial': [], 'tested': {'file': 'a.pth', 'sha256': DIGEST}},
        'data': {'name': 'mini ImageNet', 'fingerprint': DIGEST},
        'cost': {
            'iterations': 1,
            'train_seconds': 1.0,
            'test_seconds': 1.0,
            'train_peak_mib': 1.0,
            'test_peak_mib': 1.0,
        },
        'machine': {'device': 'cpu', 'processes': 1, 'threads': 1},
        'versions': {'torch': metadata.version('torch')},
        'source': None,
        'date': '2026-11-21',
    }
    add_records(tmp_path / 'results' / 'mini.jsonl', [record])
    (tmp_path / 'README.md').write_text('# A\n\n<!-- table: results/mini.jsonl -->\n<!-- end of table -->\n\nB\n')
    assert lint(tmp_path, mend=True, show=False) == []
    assert lint(tmp_path, show=False) == []
    return tmp_path


def found(checkout):
    return [str(problem) for problem in lint(checkout, show=False)]


def test_costs_are_those_of_the_formulas(tmp_path):
    path = tmp_path / 'vgg.py'
    path.write_text(CONFIG.replace(', num_classes=10', ', out_indices=(4,)'))
    parameters, macs = vgg11()
    cost = cost_of(path)
    assert (cost.parameters, cost.backbone_parameters) == (parameters, parameters)
    assert (cost.backbone_macs, cost.input) == (macs, '1x3x32x32')


def test_the_page_got_its_table(checkout):
    parameters, macs = vgg11()
    assert (checkout / 'README.md').read_text() == (
        '# A\n\n<!-- table: results/mini.jsonl -->\n'
        '| model | parameters, M | MACs, mini ImageNet, M | mini ImageNet, top-1 |\n|---|---:|---:|---:|\n'
        f'| vgg | {parameters / 1e6:.3g} | {macs / 1e6:.3g} | 50.0 (1) |\n<!-- end of table -->\n\nB\n'
    )


def test_a_typed_table_is_found_and_mended(checkout):
    page = checkout / 'README.md'
    page.write_text(page.read_text().replace('50.0', '51.0'))
    assert found(checkout) == ['README.md: a table is not that of its records']
    lint(checkout, mend=True, show=False)
    assert '50.0' in page.read_text()


def test_wrong_costs_are_found(checkout):
    path = checkout / COSTS
    right = path.read_text()
    _, macs = vgg11()
    path.write_text(right.replace(str(macs), '7'))
    assert found(checkout) == [
        f'{COSTS}, configs/pretrain/vgg_mini-imagenet.py: says backbone_macs 7, and it is {macs}'
    ]
    path.write_text(right + right.splitlines()[1].replace('vgg', 'gone') + '\n')
    assert found(checkout) == [
        f'{COSTS}: has a row of configs/pretrain/gone_mini-imagenet.py, which is no config or cannot be built'
    ]
    path.write_text(right.splitlines()[0] + '\n')
    assert found(checkout) == [f'{COSTS}: has no row of configs/pretrain/vgg_mini-imagenet.py']


def change(checkout, **more):
    path = checkout / 'results' / 'mini.jsonl'
    (record,) = read_records(path)
    path.write_text(json.dumps({**record, **more}) + '\n')
    with suppress(UserError):  # of a record that is refused there is no report
        report(read_records(path.parent), checkout / REPORT)
        _lint_page('README.md', checkout, True)


def test_a_record_that_says_otherwise_is_found(checkout):
    parameters, macs = vgg11()
    change(checkout, parameters={'model': 1, 'backbone': parameters}, macs={'value': 2, 'input': [1, 3, 32, 32]})
    where = 'record of mini ImageNet, vgg, seed 0'
    assert found(checkout) == [
        f'{where}: says parameters 1, and it is {parameters}',
        f'{where}: says MACs 2, and it is {macs}',
    ]
    change(checkout, parameters={'model': None, 'backbone': None}, cost=None)
    assert 'is mini and has no cost: a result without provenance' in found(checkout)[0]


def test_macs_of_another_input_are_found(checkout):
    _, macs = vgg11()
    change(checkout, macs={'value': macs, 'input': [1, 3, 224, 224]})
    assert found(checkout) == [
        'record of mini ImageNet, vgg, seed 0: says input of MACs 1x3x224x224, and it is 1x3x32x32'
    ]


def test_a_record_whose_config_cannot_be_built_does_not_hide_others(checkout):
    path = checkout / 'results' / 'mini.jsonl'
    (record,) = read_records(path)
    (checkout / 'configs' / 'pretrain' / 'broken_mini-imagenet.py').write_text("model = dict(type='Nothing')\n")
    broken = {**record, 'config': {**record['config'], 'file': 'configs/pretrain/broken_mini-imagenet.py'}}
    others = {'versions': {'onedl-mmengine': '0.0.1'}}  # of frameworks with which it may have been built
    misspelt = {**record['config'], 'overrides': ['model.backbone.dept=13']}
    add_records(
        path,
        [
            {**broken, 'model': 'broken', 'backbone': 'broken', **others},
            {**record, 'model': 'vgg 13', 'config': misspelt, **others},
            {**record, 'model': 'vgg 14', 'parameters': {'model': 1, 'backbone': 1}},
        ],
    )
    sentences = [line for line in found(checkout) if line.startswith('record of')]
    assert sentences[0].startswith('record of mini ImageNet, broken, seed 0: its config cannot be built: ')
    assert sentences[1].startswith('record of mini ImageNet, vgg 13, seed 0: its config cannot be built: ')
    assert 'depth' in sentences[1]  # what was meant
    assert sentences[2].startswith('record of mini ImageNet, vgg 14, seed 0: says parameters 1, ')


@pytest.mark.parametrize(
    ('more', 'problem'),
    [
        ({'task': 'mini COCO'}, 'says task mini COCO, and that of its config is mini ImageNet'),
        ({'backbone': 'swin-p'}, 'says backbone swin-p, and that of its config is vgg'),
        ({'attention': 'LiSAttention'}, 'says attention LiSAttention, and that of its config is None'),
        ({'model': 'vgg16'}, 'says model vgg16, and that of its config is vgg'),
        ({'model': 'vgg (old recipe)'}, None),
    ],
)
def test_a_record_under_another_name_is_found(checkout, more, problem):
    change(checkout, **more)
    lines = [line.partition('seed 0: ')[2] for line in found(checkout) if line.startswith('record')]
    assert lines == ([problem] if problem else [])


def test_the_attention_of_a_record_is_that_of_its_overrides():
    record = read_records(REPO / 'results' / 'mini.jsonl')[0]
    config, overrides = REPO / record['config']['file'], record['config']['overrides']
    assert overrides == [f'model.backbone.attention.type={record["attention"]}']

    def attention(pairs):
        return attention_of(load_config(config, parse_options(pairs)).model.backbone)

    assert _names(record, attention(overrides)) == []
    other = _names(record, attention(['model.backbone.attention.type=XCA']))
    assert other == [
        f'says attention {record["attention"]}, and that of its config is XCA',
        f'says model {record["model"]}, and that of its config is {record["backbone"]}, XCA',
    ]
    gone = {**record, 'config': {**record['config'], 'file': 'configs/pretrain/x.py'}}
    assert _names(gone, None) == ['its config configs/pretrain/x.py is of no task of the leaderboard']


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('<!-- table: results/mini.jsonl -->\n', ''),
        ('<!-- end of table -->', ''),
        ('results/mini.jsonl', 'results/other.jsonl'),
        ('# A', '<!-- table: results/mini.jsonl -->\n<!-- end of table -->'),
        ('# A', '<!-- table: results/mini.jsonl -->'),
    ],
    ids=['no mark', 'no end', 'another source', 'one too many', 'one without an end'],
)
def test_a_lost_mark_of_a_table_is_found(checkout, old, new):
    page = checkout / 'README.md'
    broken = page.read_text().replace(old, new)
    page.write_text(broken)
    said = 'README.md: the marks of its tables are not those in lint.TABLES: <!-- table: results/mini.jsonl --> with'
    for mend in (False, True):
        (problem,) = _lint_page('README.md', checkout, mend)
        assert str(problem).startswith(said)
    assert page.read_text() == broken  # not mended, nothing of it lost
    page.unlink()
    assert [problem.where for problem in _lint_page('README.md', checkout, False)] == ['README.md']
    (checkout / 'docs' / 'a.md').write_text('<!-- table: results/mini.jsonl -->\n<!-- end of table -->\n')
    assert 'lint.TABLES: none' in str(_lint_page('docs/a.md', checkout, False)[0])


def test_a_table_whose_records_are_gone_is_found(checkout):
    (checkout / 'results' / 'mini.jsonl').unlink()
    (problem,) = _lint_page('README.md', checkout, True)
    assert str(problem) == 'README.md: a table cannot be made: mini.jsonl is gone; bring it back'
    assert '| 50.0 (1) |' in (checkout / 'README.md').read_text()


def test_a_table_of_a_sweep_has_the_growth_below_it(checkout, monkeypatch):
    path, page = checkout / 'results' / 'benchmark-inference-sweep.csv', checkout / 'docs' / 'a.md'
    same = dict(candidate='a', mode='inference', batch='1', batch_asked='1', parameters='1000000', status='', ratio='')
    same |= dict(iqr_ms='0', per_second='1', weights_mib='0', peak_memory_mib='')
    rows = [
        dict(same, input=f'{n}x{n}', positions=str(n**2), macs=str(n * 10**9), median_ms=str(n**4)) for n in (1, 2, 4)
    ]
    append_rows(path, rows)
    monkeypatch.setitem(TABLES, 'docs/a.md', ('results/benchmark-inference-sweep.csv',))
    page.write_text('<!-- table: results/benchmark-inference-sweep.csv -->\n<!-- end of table -->\n')
    assert str(*_lint_page('docs/a.md', checkout, False)) == 'docs/a.md: a table is not that of its records'
    assert _lint_page('docs/a.md', checkout, True) == _lint_page('docs/a.md', checkout, False) == []
    assert page.read_text().splitlines()[3:-1] == [
        '| a | 1x1 | inference | 1 | 1.00 M | 1.000 G | 1.00 ± 0 | 1.00 |  |  |',
        '| a | 2x2 | inference | 1 | 1.00 M | 2.000 G | 16.0 ± 0 | 1.00 |  |  |',
        '| a | 4x4 | inference | 1 | 1.00 M | 4.000 G | 256 ± 0 | 1.00 |  |  |',
        '',
        '- a, inference, batch 1: time as N^2.00 (N^2.00 at the end; 3 sizes, 1x1 to 4x4)',
    ]


def test_the_tables_of_this_project_have_their_marks():
    assert TABLES
    for page, sources in TABLES.items():
        assert re.findall(r'^<!-- table: (.*) -->$', (REPO / page).read_text(), re.MULTILINE) == list(sources)


def test_a_record_of_another_config_is_found(checkout):
    path = checkout / 'configs' / 'pretrain' / 'vgg_mini-imagenet.py'
    path.write_text(path.read_text() + 'max_epochs = 3\n')
    assert 'its config has changed since: digest' in found(checkout)[0]
    change(checkout, versions={'onedl-mmengine': '0.0.1'})  # made on another stack, whose bases are others
    assert found(checkout) == []
    path.rename(path.with_name('vgg_other.py'))
    assert any('its config configs/pretrain/vgg_mini-imagenet.py is gone' in line for line in found(checkout))


def test_a_config_that_cannot_be_built_is_found(checkout):
    (checkout / 'configs' / 'pretrain' / 'broken.py').write_text("model = dict(type='Nothing')\n")
    assert [line[:50] for line in found(checkout)] == ['configs/pretrain/broken.py: cannot be built: confi']


def test_options_are_told_with_their_defaults():
    """Of every operator and the backbone; a docstring that lacks one is an error."""

    class Mixer(torch.nn.Module):
        """One line.

        Args:
            dim: Channels.
            num_heads: Heads.
            form: ``'a'`` or
                ``'b'``, as in :class:`~lisa_backbone.backbone.LiSA`.
            eps: A | B.

        Raises:
            UserError: Never.
        """

        def __init__(self, dim, num_heads, form='a', eps=0.1):
            super().__init__()

    expected = [
        "| `form` | `'a'` | `'a'` or `'b'`, as in `lisa_backbone.backbone.LiSA`. |",
        '| `eps` | `0.1` | A \\| B. |',
    ]
    assert _options(Mixer).splitlines()[2:] == expected
    Mixer.__doc__ = Mixer.__doc__.replace('eps:', 'epsilon:')
    with pytest.raises(KeyError, match='eps'):
        _options(Mixer)
    assert '| `num_patterns` | `4` |' in _options(ATTENTION['LiSAttention'])
    assert all(_options(operator) for name, operator in ATTENTION.items())


def test_a_page_of_operators_that_was_edited_is_found_and_mended(checkout):
    page = checkout / 'docs' / 'operators.md'
    made = page.read_text()
    assert all(f'## {name}\n' in made for name in ATTENTION)
    page.write_text(made.replace('N log N', 'N'))
    assert found(checkout) == ['docs/operators.md: is not what the registry of operators gives']
    assert lint(checkout, mend=True, show=False) == []
    assert page.read_text() == made


def test_a_report_that_was_edited_or_is_gone_is_found_and_mended(checkout):
    page, table = checkout / REPORT / 'leaderboard.html', checkout / REPORT / 'leaderboard.csv'
    made = page.read_text()
    page.write_text(made.replace('50.0', '51.0'))
    assert page.read_text() != made
    table.unlink()
    problems = lint(checkout, show=False)
    assert [problem.where for problem in problems] == [f'{REPORT}/{page.name}', f'{REPORT}/{table.name}']
    assert lint(checkout, mend=True, show=False) == []
    assert page.read_text() == made
    assert table.is_file()


def test_marks_without_an_end_are_left_alone():
    first = '<!-- table: a -->\nkept\n'
    second = '<!-- table: b -->\nx\n<!-- end of table -->\n'
    assert fill_tables(first + second, str.upper) == first + second.replace('x', 'B')
    text = '<!-- table: a -->\nB\n'
    assert fill_tables(text, lambda source: 'T') == text
    twice = '<!-- table: a -->\nx\n<!-- end of table -->\n<!-- table: b -->\n<!-- end of table -->\n'
    assert fill_tables(twice, str.upper) == (
        '<!-- table: a -->\nA\n<!-- end of table -->\n<!-- table: b -->\nB\n<!-- end of table -->\n'
    )


def test_configs_are_listed():
    configs = [path.relative_to(REPO).as_posix() for path in list_configs(REPO)]
    assert 'configs/det/mask-rcnn_lisa-t_fpn_1x_coco.py' in configs
    assert not any('_base_' in config for config in configs)
