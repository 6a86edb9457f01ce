"""The report: what stands together, what it says of each number, and that nothing in a record can break it."""

import csv
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')

from lisa_backbone.config import load_config  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.costs import costs, read_benchmarks  # noqa: E402
from lisa_backbone.leaderboard.page import _embedded  # noqa: E402
from lisa_backbone.leaderboard.report import report  # noqa: E402
from lisa_backbone.leaderboard.sections import sections, split_overrides  # noqa: E402
from lisa_backbone.leaderboard.statistics import RANK_METHOD  # noqa: E402
from lisa_backbone.leaderboard.sweep import schedule_options  # noqa: E402
from lisa_backbone.leaderboard.wording import MARKS_RULE, count, input_words, number, percent, protocol_words  # noqa: E402
from lisa_backbone.records import add_records, read_records, validate  # noqa: E402
from lisa_backbone.tasks import MINI_TASKS  # noqa: E402

PUBLISHED = Path(__file__).parents[1] / 'results' / 'published.jsonl'


def run(model, seed, task='mini COCO', status='mini', **more):
    """A measured record: box AP 0.4 + 0.01 per seed unless told otherwise."""
    record = {
        'schema': 1,
        'status': status,
        'task': task,
        'model': model,
        'backbone': 'LiSA pico',
        'attention': 'LiSAttention',
        'seed': seed,
        'metrics': {'box AP': round(0.4 + 0.01 * seed, 4), 'mask AP': 0.25},
        'protocol': {'input': '128x128', 'flip': False},
        'parameters': {'backbone': 1_000_000, 'model': 3_400_000},
        'macs': {'value': 70_000_000, 'input': [1, 3, 128, 128]},
        'config': {'file': 'configs/det/mini.py', 'digest': 'c' * 64, 'overrides': ['a.b=1']},
        'code': {'commit': 'd' * 40, 'dirty': True},
        'weights': {'initial': [], 'tested': {'file': f'seed{seed}.pth', 'sha256': f'{seed}' * 64}},
        'data': {'name': 'mini COCO', 'fingerprint': 'f' * 64},
        'cost': {
            'iterations': 400,
            'train_seconds': 100.0 + seed,
            'test_seconds': 9.0,
            'train_peak_mib': 812.4,
            'test_peak_mib': None,
        },
        'machine': {'device': 'x86_64, 2 cores', 'processes': 1, 'threads': 2},
        'versions': {'torch': '2.13.0', 'mmengine': '0.10.12'},
        'predictions': None,
        'source': None,
        'note': None,
        'date': '2026-11-21',
    }
    return validate({**record, **more}, f'{model}, seed {seed}')


def published(model, value, **more):
    record = {
        **dict.fromkeys(run('x', 0)),
        'schema': 1,
        'status': 'published',
        'task': 'COCO Mask R-CNN 1x',
        'model': model,
        'backbone': model,
        'metrics': {'box AP': value},
        'protocol': {'schedule': '1x'},
        'parameters': {'backbone': 28_000_000, 'model': None},
        'source': f'paper of {model}',
    }
    return validate({**record, **more}, model)


def three_seeds(model, values, task='mini COCO', metric='box AP', **more):
    return [run(model, seed, task, metrics={metric: value}, **more) for seed, value in enumerate(values)]


def mini_records():
    """Three operators on three tasks, of which one has a single seed, and a control."""
    records = []
    for task, metric, base in (('mini COCO', 'box AP', 0.47), ('mini ADE20K', 'mIoU', 0.62)):
        for model, shift in (('LiSA pico, A', 0.0), ('LiSA pico, B', -0.004), ('LiSA pico, C', -0.2)):
            # A rises with the seed and B falls, so that their difference is inside the noise.
            slope = -0.01 if model.endswith('B') else 0.01
            values = [round(base + shift + slope * (seed - 1), 4) for seed in range(3)]
            records += three_seeds(model, values, task, metric, attention=model[-1])
    records += three_seeds('LiSA pico, A', [0.1], 'mini SSv2 one frame', 'top-1')
    return records


HOSTILE = '<script>alert(1)</script>'


def hostile_records():
    """Every text of a record that a page shows, as markup that would run or end an element."""
    evil = '</script><img src=x onerror=alert(1)>"\'&amp;|`*'
    measured = run(
        HOSTILE,
        0,
        f'mini {evil}',
        metrics={evil: 0.5},
        protocol={evil: evil},
        attention=evil,
        note=evil,
        config={'file': evil, 'digest': 'c' * 64, 'overrides': [evil]},
        data={'name': evil, 'fingerprint': 'f' * 64},
        machine={'device': evil, 'processes': 1, 'threads': 1},
        versions={evil: evil},
    )
    return [measured, published(HOSTILE, 0.5, source=evil, note=evil, task=evil, protocol={'a': evil})]


class Page(HTMLParser):
    """Elements of a page, with the text of each kind."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data):
        self.texts.setdefault(self.open, []).append(data)


def files(records, tmp_path, benchmarks=()):
    html, markdown, table = report(records, tmp_path / 'out', benchmarks)
    return html.read_text(), markdown.read_text(), list(csv.DictReader(table.open(newline='')))


def embedded(html):
    """The data in a page, as its script reads them."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S).group(1))


# ------------------------------------------------------------------------------------------------- what stands together


def test_kinds_of_figures_are_never_in_one_table():
    records = [published('LiSA', 0.5), run('LiSA', 0), run('LiSA', 1, 'COCO Mask R-CNN 1x', 'reproduced')]
    found = {section.status: section for section in sections(records)}
    assert list(found) == ['published', 'reproduced', 'mini']
    for status, section in found.items():
        assert [row.model for row in section.rows] == ['LiSA']
        assert {one['status'] for cell in section.rows[0].cells.values() for one in cell.runs} == {status}
    assert [section.rows for section in sections([])] == [(), (), ()]


def test_protocols_and_data_have_columns_of_their_own():
    records = [
        published('A', 0.40, protocol={'schedule': '1x', 'quoted by': 'B'}),
        published('A', 0.41),
        published('B', 0.42),
    ]
    groups = sections(records)[0].groups
    assert [(group.title, group.models) for group in groups] == [
        ('COCO Mask R-CNN 1x', 2),  # the commonest protocol first
        ('COCO Mask R-CNN 1x (quoted by B)', 1),
    ]
    other = {'name': 'mini COCO', 'fingerprint': 'e' * 64}
    section = sections([run('A', 0), run('B', 0), run('A', 1, data=other)])[2]
    assert [group.title for group in section.groups] == ['mini COCO (data ffffffff)', 'mini COCO (data eeeeeeee)']
    assert [cell.summary.mean for cell in section.rows[0].cells.values()] == [0.4, 0.25, 0.41, 0.25]
    assert section.ranking is None
    assert 'several protocols, trainings or data sets' in section.unranked


def columns_of(records):
    return [(group.title, group.models) for group in sections(records)[2].groups]


def trained(model, seed, overrides=(), processes=1, iterations=400, initial=()):
    base = run(model, seed)
    digest = hashlib.sha256(f'{model} {overrides}'.encode()).hexdigest()
    return {
        **base,
        'config': {**base['config'], 'digest': digest, 'overrides': list(overrides)},
        'machine': {**base['machine'], 'processes': processes},
        'cost': {**base['cost'], 'iterations': iterations},
        'weights': {**base['weights'], 'initial': [{'file': 'a.pth', 'sha256': one * 64} for one in initial]},
    }


def test_other_trainings_have_columns_of_their_own():
    short = [trained('A', seed, ('model.backbone.x=1', 'train_cfg.max_epochs=3')) for seed in range(2)]
    long = [trained('B', seed, ('train_cfg.max_epochs=50',), 8, 4000) for seed in range(2)]
    records = [*short, *long, trained('C', 0, ('train_cfg.max_epochs=3',))]
    assert columns_of(records) == [
        ('mini COCO (iterations 400, processes 1, train_cfg.max_epochs 3)', 2),
        ('mini COCO (iterations 4000, processes 8, train_cfg.max_epochs 50)', 1),
    ]
    rows = {row.model: row for row in sections(records)[2].rows}
    assert list(rows['B'].cells) == [(1, 'box AP'), (1, 'mask AP')]
    assert not any(cell.standing == 'best' for cell in rows['B'].cells.values())  # it has a column for itself
    assert 'several protocols, trainings or data sets' in sections(records)[2].unranked


def test_seeds_with_and_without_trained_weights_have_no_common_mean():
    records = [trained('A', 0, initial='a'), trained('A', 1, initial='b'), trained('A', 2)]
    assert columns_of(records) == [('mini COCO (from trained weights)', 1), ('mini COCO (from random weights)', 1)]
    cells = sections(records)[2].rows[0].cells
    # Each seed has a pretraining of its own, so that other weights are no other training.
    assert [[one['seed'] for one in cells[number, 'box AP'].runs] for number in range(2)] == [[0, 1], [2]]


def test_what_changes_no_training_opens_no_column():
    overrides = [
        ('data_root=/a', 'load_from=a.pth', 'train_dataloader.num_workers=2', 'randomness.deterministic=True'),
        ('model.backbone.init_cfg.checkpoint=b.pth', 'train_dataloader.dataset.data_root=/b', 'work_dir=c'),
        ('model.backbone.attention.type=XCA', 'param_scheduler.0.end=40', 'log_level=ERROR'),
    ]
    assert columns_of([trained(name, 0, one) for name, one in zip('ABC', overrides, strict=True)]) == [('mini COCO', 3)]
    # How it is tested is no part of the model.
    assert split_overrides(['model.neck.a=1', 'model.test_cfg.b=2', 'amp=True', 'optim_wrapper.optimizer.lr=1e-3']) == (
        {'model.neck.a': '1'},
        {'model.test_cfg.b': '2', 'amp': 'True', 'optim_wrapper.optimizer.lr': '1e-3'},
    )


@pytest.mark.parametrize('task', MINI_TASKS, ids=lambda task: task.key)
def test_peers_of_a_shortened_sweep_share_a_column(task):
    root, trainings = PUBLISHED.parents[1], []
    for model in ('lisa-p', 'swin-p', 'resnet-p'):
        config = root / task.config_of(model)
        options = [*task.options, *schedule_options(config, task.options, 0.4)]
        batch = load_config(config).train_dataloader.batch_size
        trainings.append((batch, split_overrides(options)))
    assert trainings[0][1][1].keys() >= {'train_cfg.val_interval'}
    assert trainings == trainings[:1] * 3


def test_committed_mini_results_have_one_column_a_task_and_metric():
    groups = sections(read_records(PUBLISHED.with_name('mini.jsonl')))[2].groups
    assert groups
    assert [group.variation for group in groups] == [''] * len(groups)


def test_seeds_have_mean_and_deviation():
    section = sections([run('A', 1), run('A', 0), run('A', 2)])[2]
    cell = section.rows[0].cells[0, 'box AP']
    assert [one['seed'] for one in cell.runs] == [0, 1, 2]
    assert (cell.summary.mean, cell.summary.deviation, cell.summary.count) == pytest.approx((0.41, 0.01, 3))
    assert sections([run('A', 0)])[2].rows[0].cells[0, 'box AP'].summary.deviation is None


def test_seeds_of_different_configs_have_no_mean():
    other = {'file': 'configs/det/mini.py', 'digest': 'b' * 64, 'overrides': ['a.b=1']}
    with pytest.raises(UserError, match=r'seeds of A on mini COCO are of different configs \(digests bbb.*, cccc'):
        sections([run('A', 0), run('A', 1, config=other)])


def test_the_best_and_what_is_inside_the_noise():
    section = sections(mini_records())[2]
    standing = {row.model: [cell.standing for cell in row.cells.values()] for row in section.rows}
    assert standing == {
        'LiSA pico, A': ['best', 'best', ''],
        'LiSA pico, B': ['noise', 'noise'],
        'LiSA pico, C': ['', ''],
    }
    comparison = section.rows[1].cells[0, 'box AP'].comparison
    assert comparison.startswith('box AP on mini COCO: LiSA pico, A 0.470')
    assert comparison.endswith('inside the noise over seeds')
    # One seed tells nothing, so that nothing is best; and published figures have no seeds.
    single = sections([run('A', 0), run('B', 0)])[2].rows
    assert {cell.standing for row in single for cell in row.cells.values()} == {'untold'}
    assert {c.standing for row in sections([run('A', 0)])[2].rows for c in row.cells.values()} == {''}
    assert all(not c.standing for row in sections([published('A', 0.4), published('B', 0.5)])[0].rows
               for c in row.cells.values())  # fmt: skip


def standings(*models):
    records = [record for name, values in zip('ABCDE', models, strict=False) for record in three_seeds(name, values)]
    return {row.model: row.cells[0, 'box AP'].standing for row in sections(records)[2].rows}


def test_one_seed_beside_three_cannot_be_told():
    assert standings([0.5, 0.52, 0.54], [0.3]) == {'A': 'untold', 'B': 'untold'}
    assert standings([0.5, 0.52, 0.54], [0.9]) == {'B': 'untold', 'A': 'untold'}
    assert standings([0.5, 0.52, 0.54], [0.3, 0.32, 0.34], [0.4]) == {'A': 'best', 'B': '', 'C': 'untold'}


def test_the_comparisons_of_a_column_are_corrected_for_their_number():
    best = [0.500, 0.520, 0.540]
    near = [0.485, 0.515, 0.525]  # differences 0.015, 0.005, 0.015: t = 3.5, p = 0.07
    far = [0.480, 0.495, 0.520]  # 0.020, 0.025, 0.020: t = 13, p = 0.0059
    assert standings(best, far) == {'A': 'best', 'B': ''}
    assert standings(best, far, near) == {'A': 'best', 'B': '', 'C': 'noise'}
    # As one of two like itself p is 0.012, beside eight others 0.053.
    assert standings(best, far, far) == {'A': 'best', 'B': '', 'C': ''}
    many = [record for name in 'BCDEFGHIJ' for record in three_seeds(name, far)]
    rows = sections([*three_seeds('A', best), *many])[2].rows
    assert [row.cells[0, 'box AP'].standing for row in rows] == ['best', *['noise'] * 9]
    assert 'p = 0.0059, corrected for 9 comparisons 0.053' in rows[1].cells[0, 'box AP'].comparison


def test_what_cannot_be_told_is_marked(tmp_path):
    html, markdown, rows = files([*three_seeds('A', [0.5, 0.52, 0.54]), *three_seeds('B', [0.3])], tmp_path)
    assert '| 30.0 (1) ? |' in markdown
    assert [row['standing'] for row in rows] == ['untold', 'untold']
    assert Page(html).texts['span'].count('?') == 2
    assert MARKS_RULE in html
    assert MARKS_RULE in markdown
    assert 'corrected for their number by the method of Holm' in MARKS_RULE


def test_ranks_leave_controls_out():
    section = sections(mini_records())[2]
    assert {row.model: row.rank for row in section.ranking.rows} == {
        'LiSA pico, A': 1,
        'LiSA pico, B': 2,
        'LiSA pico, C': 3,
    }
    assert list(section.ranking.tasks) == ['mini COCO', 'mini ADE20K']
    assert [group.task for group in section.groups] == ['mini COCO', 'mini ADE20K', 'mini SSv2 one frame']


# ----------------------------------------------------------------------------------------------------------- the files


def test_markdown(tmp_path):
    _, markdown, _ = files([published('A', 0.4), published('B', 0.4451), *mini_records()], tmp_path)
    assert '| B | 28 |  | 44.51 | paper of B |\n| A | 28 |  | 40.0 | paper of A |' in markdown
    assert '## Reproduced here\n\nThere are no results of this kind yet.' in markdown
    part = markdown[markdown.index('### mini COCO') : markdown.index('### mini ADE20K')]
    assert part.splitlines()[2:8] == [
        'Protocol: input 128x128, flip no. Training: iterations 400, processes 1, from random weights, a.b 1.',
        '',
        '| model | parameters, M | MACs, G | box AP |',
        '|---|---:|---:|---:|',
        '| LiSA pico, A | 1 | 0.07 | **47.0 ± 1.0 (3)** |',
        '| LiSA pico, B | 1 | 0.07 | 46.6 ± 1.0 (3) ≈ |',
    ]
    assert RANK_METHOD in markdown
    assert re.search(r'\| LiSA pico, C \| 3\.0 \(3\.0 to 3\.0\) \| 3 \| 3 \|', markdown)


def test_csv(tmp_path):
    _, _, rows = files([published('A', 0.4), *mini_records()], tmp_path)
    assert len(rows) == 1 + 3 * 2 + 1
    assert rows[0]['status'] == 'published'
    assert (rows[0]['mean'], rows[0]['sd'], rows[0]['n'], rows[0]['source']) == ('0.4', '', '1', 'paper of A')
    found = {(row['model'], row['task']): row for row in rows}
    row = found['LiSA pico, B', 'mini COCO']
    assert (row['mean'], row['sd'], row['n'], row['seeds'], row['standing']) == ('0.466', '0.01', '3', '0 1 2', 'noise')
    assert (row['backbone_parameters'], row['model_parameters']) == ('1000000', '3400000')
    assert (row['backbone_macs'], row['macs_input']) == ('70000000', '1x3x128x128')
    assert row['protocol'] == 'input 128x128, flip no'
    assert row['training'] == 'iterations 400, processes 1, from random weights, a.b 1'
    assert rows[0]['training'] == ''


def test_page_tells_where_each_number_comes_from(tmp_path):
    html, _, _ = files([published('A', 0.4451), *mini_records()], tmp_path)
    entries = {(entry['title'], entry['value']): entry for entry in embedded(html)['details']}
    facts = dict(entries['A, COCO Mask R-CNN 1x', 'box AP 44.51']['facts'])
    assert facts['Source'] == 'paper of A'
    assert facts['Status'].startswith('published')
    assert 'Config' not in facts
    entry = entries['LiSA pico, B, mini COCO', 'box AP 46.6 ± 1.00']
    facts = dict(entry['facts'])
    assert facts['Config'] == 'configs/det/mini.py'
    assert facts['Config digest'] == 'c' * 64
    assert facts['Overrides'] == 'a.b=1'
    assert facts['Commit'] == 'd' * 40 + ', with changes that were not committed'
    assert facts['Weights at the start'] == 'random'
    elsewhere = run(
        'E', 0, code={'commit': 'unknown', 'dirty': False},
        data={'name': 'D', 'fingerprint': 'f' * 64, 'training': 'e' * 64},
        weights={'initial': [{'file': 'timm:resnet18', 'sha256': None}], 'tested': {'file': 'a', 'sha256': 'a' * 64}},
    )  # fmt: skip
    elsewhere['code']['earlier'] = [{'commit': '0' * 40, 'dirty': False}]
    html, _, _ = files([elsewhere], tmp_path)
    unknown = dict(embedded(html)['details'][0]['facts'])
    assert unknown['Commit'] == 'not known, as it was run outside of a git checkout; begun with ' + '0' * 40
    assert unknown['Data'] == f'D, fingerprint {"f" * 64}, of the training data {"e" * 64}'
    assert unknown['Weights at the start'] == 'timm:resnet18, SHA-256 not known'
    assert facts['Weights tested'].splitlines()[2] == 'seed 2: seed2.pth, SHA-256 ' + '2' * 64
    assert facts['Data'] == 'mini COCO, fingerprint ' + 'f' * 64
    assert facts['Protocol'] == 'input 128x128, flip no'
    assert facts['Parameters'] == 'backbone 1 M, model 3.4 M'
    assert facts['MACs'] == 'backbone 70 M for an input of 128 x 128'
    assert facts['Machine'] == 'x86_64, 2 cores, processes 1, threads 2'
    assert facts['Versions'] == 'torch 2.13.0, mmengine 0.10.12'
    assert facts['Beside the best'].endswith('inside the noise over seeds')
    assert entry['runs']['rows'][0] == ['0', '47.60', '100 s', '9 s', '812 MiB', 'not known', '2026-11-21']
    assert [row[1] for row in entry['runs']['rows']] == ['47.60', '46.60', '45.60']


def test_plots_have_one_axis_for_each_size_of_input_and_condition(tmp_path):
    clip = {'value': 88_000_000_000, 'input': []}
    records = [
        published('A', 0.4, macs={'value': 4_500_000_000, 'input': [1, 3, 224, 224]}),
        published('B', 0.5, macs=clip, parameters={'backbone': None, 'model': None}),
        run('C', 0),
        run('D', 0, config={'file': 'configs/det/mini.py', 'digest': 'a' * 64, 'overrides': ['model.c=1', 'a.b=1']}),
    ]
    shared = {'mode': 'inference', 'dtype': 'fp32', 'views': '1', 'batch': '8', 'device': 'cpu', 'device_name': 'Xeon'}
    shared |= {'threads': '2', 'input': '224x224'}
    benchmarks = [
        {**shared, 'candidate': 'timm.a', 'model': 'A', 'per_second': '12.5'},
        {**shared, 'candidate': 'configs/det/mini.py', 'per_second': '80'},  # overrides of the training do not matter
        {**shared, 'candidate': 'configs/det/mini.py:model.c=2', 'per_second': '90'},  # another model
        {**shared, 'candidate': 'configs/det/mini.py:model.c=1', 'per_second': ''},  # out of memory
        {**shared, 'candidate': 'B', 'batch': '1', 'per_second': '3', 'kind': 'model', 'compiled': 'yes'},
        {**shared, 'candidate': 'B', 'batch': '1', 'per_second': '4', 'kind': 'model', 'graph': 'yes'},
    ]
    plots = embedded(files(records, tmp_path, benchmarks)[0])['plots']
    labels = [f'{axis["label"]} ({axis["unit"]})' for axis in plots['published']['axes']]
    assert labels == [
        'Parameters of the backbone (M)',
        'MACs of the backbone for an input of 224 x 224 (G)',
        'Throughput of the backbone, inference, fp32, 224 x 224, batch 8, Xeon, 2 threads (a second)',
        'MACs of the backbone for a view of a clip, of the size its source took (G)',
        'Throughput of the whole model, inference, fp32, 224 x 224, batch 1, Xeon, 2 threads, compiled (a second)',
        'Throughput of the whole model, inference, fp32, 224 x 224, batch 1, Xeon, 2 threads, CUDA graph (a second)',
    ]
    points = {point['model']: point for point in plots['published']['figures'][0]['points']}
    assert points['A']['at'] == {'0': 28.0, '1': 4.5, '2': 12.5}
    assert points['B']['at'] == {'3': 88.0, '4': 3.0, '5': 4.0}
    points = {point['model']: point for point in plots['mini']['figures'][0]['points']}
    assert points['C']['at'] == {'0': 1.0, '1': 0.07, '2': 80.0}
    assert points['D']['at'] == {'0': 1.0, '1': 0.07}
    assert (points['C']['mean'], points['C']['sd'], points['C']['text']) == (40.0, None, '40.0 (1)')


def test_frames_of_an_image_backbone_are_no_image(tmp_path):
    image, clip, frames = ([1, 3, 224, 224], [1, 3, 8, 224, 224], [8, 3, 224, 224])
    assert [input_words(shape) for shape in (image, clip, frames, [])] == [
        '224 x 224',
        '8 x 224 x 224',
        '8 x 224 x 224',
        'a clip',
    ]
    records = [
        run('TSM', 0, 'mini SSv2', macs={'value': 8_000, 'input': frames}),
        run('TSM', 0, macs={'value': 1_000, 'input': image}),
    ]
    section = sections(records)[2]
    assert section.rows[0].macs == {'224 x 224': 1_000, '8 x 224 x 224': 8_000}
    labels = [axis.label for cell in section.rows[0].cells.values() for axis in costs(cell, 'TSM')]
    assert {label for label in labels if 'MACs' in label} == {
        'MACs of the backbone for an input of 224 x 224',
        'MACs of the backbone for an input of 8 x 224 x 224',
    }


CONDITIONS = {'mode': 'inference', 'batch_asked': '8', 'batch': '8', 'input': '64x64', 'torch': '2.13.0+cpu'}


def throughputs(rows, overrides=(), model='A'):
    config = {'file': 'configs/det/mini.py', 'digest': 'c' * 64, 'overrides': list(overrides)}
    cell = sections([run(model, 0, config=config)])[2].rows[0].cells[0, 'box AP']
    given = [{**CONDITIONS, 'candidate': 'configs/det/mini.py', **row} for row in rows]
    found = costs(cell, model, given)
    return {axis.label.partition('inference, ')[2]: value for axis, value in found.items() if 'Through' in axis.label}


@pytest.mark.parametrize('value', ['nan', 'inf', 'fast'])
def test_a_throughput_that_is_no_number_is_named(value):
    with pytest.raises(UserError, match=f"gives '{value}' as the throughput of configs/det/mini.py"):
        throughputs([{'per_second': value}])


def test_each_version_of_torch_and_batch_has_an_axis():
    rows = [
        {'per_second': '10'},
        {'per_second': '11', 'torch': '2.9.1'},
        {'per_second': '12', 'batch_asked': '32'},  # which ran out of memory
        {'per_second': '13', 'batch_asked': '32', 'batch': '32'},
    ]
    assert throughputs(rows) == {
        '64 x 64, batch 8, torch 2.13.0+cpu': 10,
        '64 x 64, batch 8, torch 2.9.1': 11,
        '64 x 64, batch 8 where 32 do not fit, torch 2.13.0+cpu': 12,
        '64 x 64, batch 32, torch 2.13.0+cpu': 13,
    }
    with pytest.raises(
        UserError, match=r'throughput of configs/det/mini.py twice \(inference, 64 x 64, batch 8, torch'
    ):
        throughputs([*rows, {'per_second': '10'}])


def test_benchmarks_are_found_by_config_and_overrides_of_the_model():
    rows = [
        {
            'candidate': 'configs/det/mini.py:model.backbone.attention.type=XCA,model.backbone.a=0.001',
            'per_second': '5',
        },
        {'candidate': 'configs/det/mini.py:model.backbone.attention.type=TSSA', 'per_second': '6', 'torch': '2'},
        {'candidate': 'configs/det/other.py', 'per_second': '7', 'torch': '3'},
    ]
    trained = ('train_cfg.max_epochs=6', 'model.backbone.a=1e-3', 'model.backbone.attention.type=XCA', 'data_root=/d')
    assert list(throughputs(rows, trained).values()) == [5]
    assert throughputs(rows) == {}
    assert list(throughputs([{**rows[2], 'model': 'A'}]).values()) == [7]
    assert throughputs([{**rows[2], 'model': 'B'}]) == {}


def test_benchmarks_of_the_results_folder_are_taken(tmp_path):
    for name, speed in (('benchmark-a.csv', '1'), ('decoding.csv', '2')):
        (tmp_path / name).write_text(f'candidate,per_second\nA,{speed}\n')
    assert read_benchmarks(None, tmp_path) == [{'candidate': 'A', 'per_second': '1'}]
    assert read_benchmarks([], tmp_path) == []
    assert read_benchmarks([tmp_path / 'decoding.csv'], tmp_path) == [{'candidate': 'A', 'per_second': '2'}]
    with pytest.raises(UserError, match=r'benchmark-b.csv does not exist; name files'):
        read_benchmarks([tmp_path / 'benchmark-b.csv'], tmp_path)


def test_the_tool_takes_them_unless_others_are_named(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('tool', PUBLISHED.parents[1] / 'tools' / 'leaderboard.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, 'REPO', tmp_path)
    add_records(tmp_path / 'results' / 'mini.jsonl', [run('A', 0)])
    rows = tmp_path / 'results' / 'benchmark-a.csv'
    rows.write_text('candidate,per_second\nconfigs/det/mini.py,25\n')
    for more, axes in (([], 3), (['--benchmarks'], 2), (['--benchmarks', str(rows)], 3)):
        monkeypatch.setattr(sys, 'argv', ['leaderboard.py', 'report', '--out', str(tmp_path / 'out'), *more])
        assert tool.report(tool.parse_args()) == 0
        plots = embedded((tmp_path / 'out' / 'leaderboard.html').read_text())['plots']
        assert len(plots['mini']['axes']) == axes


def test_nothing_in_a_record_becomes_markup(tmp_path):
    html, markdown, _ = files(hostile_records(), tmp_path)
    page = Page(html)
    assert not [tag for tag, _ in page.elements if tag in ('img', 'iframe', 'object', 'a')]
    assert [attrs.get('type') for tag, attrs in page.elements if tag == 'script'] == ['application/json', None]
    assert html.count('</script>') == 2
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith('on')]
    assert page.texts['th'].count(HOSTILE) == 2
    assert embedded(html)['details'][0]['title'].startswith(HOSTILE)
    assert not re.search(r'<(?!!--)[a-z/]', markdown)
    tables = [line for line in markdown.splitlines() if line.startswith('|')]
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in tables} == {5, 6}


def test_what_is_embedded_can_be_parsed_by_a_browser():
    assert json.loads(_embedded({'a': [0.5, '<']})) == {'a': [0.5, '<']}
    with pytest.raises(ValueError, match='not JSON compliant'):
        _embedded({'a': float('nan')})


def test_page_loads_nothing(tmp_path):
    html, _, _ = files(read_records(PUBLISHED), tmp_path)
    for tag, attrs in Page(html).elements:
        assert tag not in ('img', 'iframe', 'object', 'embed', 'base', 'audio', 'video')
        for name in ('src', 'srcset', 'href', 'action', 'data', 'poster'):
            assert attrs.get(name) in (None, 'data:,'), (tag, attrs)
    style = re.search(r'<style>(.*?)</style>', html, re.S).group(1)
    assert 'url(' not in style
    assert '@import' not in style
    script = html[html.rindex('<script>') :]
    assert not re.search(r'\b(fetch|XMLHttpRequest|import|WebSocket|sendBeacon|Worker)\b', script)
    assert "default-src 'none'" in html


def test_published_figures_are_all_shown(tmp_path):
    html, _, rows = files(read_records(PUBLISHED), tmp_path)
    assert len(rows) == len(embedded(html)['details']) == 125
    assert sum(attrs.get('class', '').startswith('figure') for _, attrs in Page(html).elements) == 125
    tasks = [group.title for group in sections(read_records(PUBLISHED))[0].groups if group.models > 1]
    assert tasks == [
        'COCO Mask R-CNN 1x',
        'COCO Mask R-CNN 3x',
        'ADE20K UPerNet 160k',
        'ADE20K Semantic FPN 80k',
        'Kinetics-400 (views as published)',
        'Something-Something-V2',
    ]


def test_numbers_as_text():
    assert [percent(value) for value in (0.4451, 0.46, 0.437, 0.47233)] == ['44.51', '46.0', '43.7', '47.23']
    assert [number(value) for value in (940, 28_200_000, 4_530_000_000, 188_200_000_000, 1000)] == [
        '940',
        '28.2 M',
        '4.53 G',
        '188 G',
        '1 k',
    ]
    assert [count(value, 1e6) for value in (25_400_000, 28_000_000, 122_000_000)] == ['25.4', '28', '122']
    assert protocol_words({'views': 4, 'flip': True, 'mode': None}) == 'views 4, flip yes, mode not given'


@pytest.mark.parametrize('required', ['', '1'])
def test_without_a_browser_the_page_is_not_passed_over_in_silence(required, tmp_path):
    pytest.importorskip('selenium')
    variables = {**os.environ, 'PATH': str(tmp_path), 'SE_CACHE_PATH': str(tmp_path), 'CI_REQUIRE_BROWSER': required}
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', 'tests/test_report_browser.py', '-k', 'kinds']
    ran = subprocess.run(command, cwd=PUBLISHED.parents[1], env=variables, capture_output=True, text=True, timeout=300)
    if 'passed' in ran.stdout:
        pytest.skip('Selenium knows of a browser outside the path')
    assert ran.returncode == (1 if required else 0), ran.stdout
    said = (
        'CI_REQUIRE_BROWSER is set, and there is no chromium' if required else 'want of a browser: 1 tests of the page'
    )
    assert said in ran.stdout


def test_assets_are_part_of_the_package():
    """A wheel holds what the page is made of."""
    tomllib = pytest.importorskip('tomllib')
    root = Path(__file__).parents[1]
    patterns = tomllib.loads((root / 'pyproject.toml').read_text())['tool']['setuptools']['package-data']
    folder = root / 'lisa_backbone' / 'leaderboard'
    held = {path.name for pattern in patterns['lisa_backbone.leaderboard'] for path in folder.glob(pattern)}
    assert held == {path.name for path in (folder / 'assets').iterdir()} == {'page.html', 'page.css', 'page.js'}
