"""The table in Markdown: means, deviations and counts, and what never stands in one column."""

from pathlib import Path

import pytest
from processes import run_tool

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')

from test_report import published, run  # noqa: E402

from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.lint import fill_tables, table_of  # noqa: E402
from lisa_backbone.leaderboard.table import table  # noqa: E402
from lisa_backbone.records import add_records, read_records, records_of  # noqa: E402
from lisa_backbone.rows import append_rows  # noqa: E402
from lisa_backbone.step_profile import PARTS  # noqa: E402

REPO = Path(__file__).parents[1]


def test_cells_are_mean_deviation_and_count():
    records = [
        run('b', 0, 'mini SSv2', metrics={'top-1': 0.5}),
        run('b', 1, 'mini SSv2', metrics={'top-1': 0.6}),
        run('b', 2, 'mini SSv2', metrics={'top-1': 0.7}),
        run('b', 0, 'mini COCO', metrics={'box AP': 0.25}),
        run('a', 0, 'mini COCO', metrics={'box AP': 0.125}),
    ]
    assert table(records).splitlines() == [
        '| model | parameters, M | MACs, mini COCO, M | mini COCO, box AP | mini SSv2, top-1 |',
        '|---|---:|---:|---:|---:|',
        '| b | 1 | 70 | 25.0 (1) | 60.0 ± 10.0 (3) |',
        '| a | 1 | 70 | 12.5 (1) |  |',
    ]


def test_the_highest_in_the_first_column_comes_first():
    """Then those without a figure there, as they occur; they have no costs either, which may be others elsewhere."""
    records = [run(name, 0, 'mini SSv2', metrics={'top-1': 0.5}) for name in 'dc']
    macs = {'value': 12_345_000_000, 'input': [1, 3, 128, 128]}
    records += [run(name, 0, metrics={'box AP': value}) for name, value in (('a', 0.1), ('b', 0.2))]
    records += [run('e', 0, metrics={'box AP': 0.15}, macs=macs, parameters={'backbone': 1_234_567, 'model': 2})]
    head, _, *rows = table(records).splitlines()
    assert head.split(' | ')[:3] == ['| model', 'parameters, M', 'MACs, mini COCO, G']  # as the largest asks for
    assert [line.split(' | ')[:4] for line in rows] == [
        ['| b', '1', '0.07', '20.0 (1)'],
        ['| e', '1.23', '12.3', '15.0 (1)'],
        ['| a', '1', '0.07', '10.0 (1)'],
        ['| d', '', '', ''],
        ['| c', '', '', ''],
    ]


def test_protocols_and_data_are_never_averaged():
    other = {'name': 'mini COCO', 'fingerprint': 'e' * 64}
    records = [run('a', 0), run('a', 1, protocol={'input': '256x256', 'flip': False}), run('a', 2, data=other)]
    head, _, row = table(records).splitlines()
    assert head.count('box AP') == 3
    assert 'input 256x256' in head
    assert 'data eeeeeeee' in head
    assert sorted(row.split(' | ')[3::2]) == ['40.0 (1)', '41.0 (1)', '42.0 (1)']


def test_published_figures_of_two_protocols_stand_apart():
    text = table(read_records(REPO / 'results' / 'published.jsonl'))
    (row,) = [line for line in text.splitlines() if line.startswith('| Swin-T |')]
    assert '±' not in text
    assert row.split(' | ')[1:5:2] == ['43.7', '42.7']  # trained in two ways


def test_statuses_have_tables_of_their_own():
    parts = table([published('a', 0.4451), run('a', 0)]).split('\n\n')
    assert parts[0::2] == ['Published', 'Mini sets']
    assert parts[1].splitlines()[2] == '| a | 44.51 |'
    assert parts[3].splitlines()[2] == '| a | 1 | 70 | 40.0 (1) | 25.0 (1) |'
    assert table([]) == ''


def test_tables_of_the_pages_are_those_of_the_records():
    text = (REPO / 'README.md').read_text()
    assert '<!-- table: results/mini.jsonl -->' in text
    assert fill_tables(text, lambda source: table_of(source, REPO)) == text


def test_a_table_of_a_profile(tmp_path):
    row = {'config': 'a.py', 'options': 'x=1', 'batch': 2, 'ms': 200} | {f'{part} ms': 0 for part in PARTS}
    append_rows(tmp_path / 'steps.csv', [row | {'data ms': 10, 'loading ms': 50, 'own transforms ms': 4}])
    assert '| a.py x=1 | 2 | 200 | 5.0 % |' in table_of('./steps.csv', tmp_path)

    rows = [
        {'part': 'stem', 'kind': 'norms', 'forward_ms': 1, 'backward_ms': 2},
        {'part': 'head', 'kind': 'other', 'forward_ms': 1, 'backward_ms': 0},
    ]
    append_rows(tmp_path / 'pass-a.csv', rows)
    assert '| stem | 1.0 | 2.0 | 75.0 % | 75.0 % | 0.0 % |' in table_of('./pass-a.csv', tmp_path)


def test_a_table_of_some_backbones_from_several_files(tmp_path):
    (tmp_path / 'results').mkdir()
    add_records(tmp_path / 'results' / 'a.jsonl', [run('x', 0, backbone='lisa-p'), run('y', 0, backbone='swin-p')])
    add_records(tmp_path / 'results' / 'b.jsonl', [run('z', 0, backbone='lisa-p')])
    text = table_of('results/a.jsonl results/b.jsonl lisa-p', tmp_path)
    assert [line.split(' | ')[0] for line in text.splitlines()[2:]] == ['| x', '| z']
    assert len(table_of('results/a.jsonl results/b.jsonl', tmp_path).splitlines()) == 5
    with pytest.raises(UserError, match='no record of swin-t; there are those of lisa-p, swin-p'):
        table_of('results/a.jsonl swin-t', tmp_path)
    with pytest.raises(UserError, match=r'c\.jsonl is gone'):
        table_of('results/a.jsonl results/c.jsonl', tmp_path)


def test_the_command_line():
    command = ['leaderboard.py', 'table', '--models', 'swin-p', '--results']
    files = ['results/mini.jsonl', 'results/published.jsonl']
    done = run_tool(*command, *files)
    assert done.stdout == table_of('results/mini.jsonl swin-p', REPO) + '\n', done.stderr
    done = run_tool(*command, *files, '--tasks', 'mini-ssv2')
    one = records_of(read_records(REPO / 'results' / 'mini.jsonl'), ['swin-p'], ['mini SSv2'])
    assert done.stdout == table(one) + '\n', done.stderr
    assert len(one) == 3
    done = run_tool(*command, 'nowhere.jsonl')
    assert done.returncode == 2
    assert done.stderr.startswith('error: nowhere.jsonl does not exist; name files of records that do')
