"""The table in Markdown: means, deviations and counts, and what never stands in one column."""

from pathlib import Path

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')

from test_report import published, run  # noqa: E402

from lisa_backbone.leaderboard.lint import fill_tables  # noqa: E402
from lisa_backbone.leaderboard.table import table  # noqa: E402
from lisa_backbone.records import read_records  # noqa: E402

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
        '| model | mini COCO, box AP | mini SSv2, top-1 |',
        '|---|---:|---:|',
        '| b | 25.0 (1) | 60.0 ± 10.0 (3) |',
        '| a | 12.5 (1) |  |',
    ]


def test_protocols_and_data_are_never_averaged():
    other = {'name': 'mini COCO', 'fingerprint': 'e' * 64}
    records = [run('a', 0), run('a', 1, protocol={'input': '256x256', 'flip': False}), run('a', 2, data=other)]
    head, _, row = table(records).splitlines()
    assert head.count('box AP') == 3
    assert 'input 256x256' in head
    assert 'data eeeeeeee' in head
    assert sorted(row.split(' | ')[1::2]) == ['40.0 (1)', '41.0 (1)', '42.0 (1)']


def test_published_figures_of_two_protocols_stand_apart():
    text = table(read_records(REPO / 'results' / 'published.jsonl'))
    (row,) = [line for line in text.splitlines() if line.startswith('| Swin-T |')]
    assert '±' not in text
    assert row.split(' | ')[1:5:2] == ['43.7', '42.7']  # trained in two ways


def test_statuses_have_tables_of_their_own():
    parts = table([published('a', 0.4451), run('a', 0)]).split('\n\n')
    assert parts[0::2] == ['Published', 'Mini sets']
    assert parts[1].splitlines()[2] == '| a | 44.51 |'
    assert parts[3].splitlines()[2] == '| a | 40.0 (1) | 25.0 (1) |'
    assert table([]) == ''


def test_tables_of_the_pages_are_those_of_the_records():
    text = (REPO / 'README.md').read_text()
    assert '<!-- table: results/mini.jsonl -->' in text
    assert fill_tables(text, lambda source: table(read_records(REPO / source))) == text
