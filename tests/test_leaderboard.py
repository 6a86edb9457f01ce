"""The sweep: what it runs, what it skips and resumes, and the arithmetic of its table and its estimate."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmdet')
pytest.importorskip('mmcv')

from lisa_backbone.data.mini_sets import mini_set  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.sweep import (  # noqa: E402
    Run,
    Settings,
    _alone,
    _progress,
    attention_options,
    run_sweep,
    time_left,
)
from lisa_backbone.leaderboard.table import read_table, table  # noqa: E402
from lisa_backbone.leaderboard.tasks import MINI_CONTROLS, MINI_TASKS, Metric, Task, choose, make_data  # noqa: E402
from lisa_backbone.rows import append_rows, read_rows  # noqa: E402

REPO = Path(__file__).parents[1]
ONE = Task('mini One', 'configs/one.py', 'mini_one', 'coco', (Metric('top1', 'top-1', 0.01), Metric('ap', 'AP')))
TWO = Task('mini Two', 'configs/two.py', 'mini_two', 'coco', (Metric('top1', 'top-1'),))

# Stands for tools/train.py and tools/test.py: notes down its call and writes what those write.
TOOL = """
import json, pathlib, sys
mode, work = pathlib.Path(sys.argv[0]).stem, pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
seed = int(sys.argv[sys.argv.index('--seed') + 1])
with open({calls!r}, 'a') as file:
    print(mode, *sys.argv[1:], file=file)
if mode == 'train' and pathlib.Path({failing!r}).exists():
    sys.exit('error: the disk is full')
shared = dict(seconds=3.0, device='cpu, 2 cores', versions=dict(torch='2.13.0'))
train = dict(shared, parameters=100, backbone_parameters=60, iterations=7, resumed_from=None)
path = work / 'metrics.json'
content = json.loads(path.read_text()) if path.exists() else dict()
content[mode] = train if mode == 'train' else dict(shared, metrics=dict(top1=80.0 + seed, ap=0.25))
path.write_text(json.dumps(content))
"""


@pytest.fixture
def place(tmp_path):
    """A checkout with two tasks, and data for them."""
    for name in ('configs', 'tools', 'data/mini_one', 'data/mini_two'):
        (tmp_path / name).mkdir(parents=True)
    for name in ('one', 'two'):
        (tmp_path / 'configs' / f'{name}.py').write_text(f"model = dict(type='Net')\nname = {name!r}\n")
        record = {'set': 'mini COCO', 'fingerprint': f'fingerprint-{name}'}
        (tmp_path / 'data' / f'mini_{name}' / 'mini.json').write_text(json.dumps(record))
    for name in ('train', 'test'):
        (tmp_path / 'tools' / f'{name}.py').write_text(
            TOOL.format(calls=str(tmp_path / 'calls.txt'), failing=str(tmp_path / 'failing'))
        )
    return tmp_path


def settings(place, **more):
    return Settings(place, place / 'data', place / 'work', place / 'results' / 'mini.csv', **more)


def calls(place):
    path = place / 'calls.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def row(attention, task, value, seed=0, metric='top-1', **more):
    return {'attention': attention, 'task': task, 'value': str(value), 'seed': str(seed), 'metric': metric, **more}


# ------------------------------------------------------------------------------------------------------------ the sweep


def test_each_run_is_trained_tested_and_written(place):
    assert run_sweep([ONE, TWO], ['LiSAttention'], [0, 1], settings(place, options=('a.b=1',), threads=1)) == {}
    found = calls(place)
    assert [call.split()[0] for call in found] == ['train', 'test'] * 4
    assert [re.search(r'configs/(\w+)\.py .*--seed (\d)', call).groups() for call in found[::2]] == [
        ('one', '0'),
        ('two', '0'),
        ('one', '1'),
        ('two', '1'),
    ]
    assert found[0].endswith(
        f'--seed 0 --cfg-options data_root={place}/data/mini_one model.backbone.attention.type=LiSAttention a.b=1'
    )
    assert all(('--resume' in call) == call.startswith('train') for call in found)
    rows = read_rows(place / 'results' / 'mini.csv')
    assert [(r['task'], r['seed'], r['metric'], r['value']) for r in rows] == [
        ('mini One', '0', 'top-1', '0.80000'),  # the test's number is in percent
        ('mini One', '0', 'AP', '0.25000'),
        ('mini Two', '0', 'top-1', '80.00000'),
        ('mini One', '1', 'top-1', '0.81000'),
        ('mini One', '1', 'AP', '0.25000'),
        ('mini Two', '1', 'top-1', '81.00000'),
    ]
    first = rows[0]
    assert (first['parameters'], first['backbone_parameters'], first['iterations']) == ('100', '60', '7')
    assert (first['train_seconds'], first['overrides'], first['versions']) == ('3.0', 'a.b=1', 'torch=2.13.0')
    assert first['data_fingerprint'] == 'fingerprint-one'
    assert first['machine'].endswith('cpu, 2 cores, 1 threads')


def test_what_is_done_is_passed_over(place):
    run_sweep([ONE], ['LiSAttention'], [0], settings(place))
    calls(place)
    run_sweep([ONE], ['LiSAttention', 'SelfAttention'], [0, 0], settings(place, jobs=2))
    assert [call.split()[0] for call in calls(place)] == ['train', 'test']
    assert len(read_rows(place / 'results' / 'mini.csv')) == 4
    (place / 'results' / 'mini.csv').unlink()  # the figures are still in the work directories
    run_sweep([ONE], ['LiSAttention', 'SelfAttention'], [0], settings(place))
    assert calls(place) == []
    assert len(read_rows(place / 'results' / 'mini.csv')) == 4


def test_stopped_runs_go_on(place):
    """A run whose training is done is only tested; one that failed is trained again, with --resume."""
    (place / 'failing').touch()
    failed = run_sweep([ONE], ['LiSAttention'], [0], settings(place))
    assert {str(run): why for run, why in failed.items()} == {'mini One, LiSAttention, seed 0': 'the disk is full'}
    assert not (place / 'results' / 'mini.csv').exists()
    (place / 'failing').unlink()
    run_sweep([ONE], ['LiSAttention'], [0], settings(place))
    metrics = next((place / 'work').rglob('metrics.json'))
    content = json.loads(metrics.read_text())
    assert [call.split()[0] for call in calls(place)] == ['train', 'train', 'test']
    del content['test']
    content['train']['resumed_from'] = 'epoch_1.pth'
    metrics.write_text(json.dumps(content))
    (place / 'results' / 'mini.csv').unlink()
    run_sweep([ONE], ['LiSAttention'], [0], settings(place))
    assert [call.split()[0] for call in calls(place)] == ['test']
    assert read_rows(place / 'results' / 'mini.csv')[0]['train_seconds'] == ''  # of its last part only


def test_failed_run_does_not_stop_the_others(place):
    (place / 'tools' / 'test.py').write_text(
        (place / 'tools' / 'test.py').read_text().replace('top1=80.0 + seed', 'top1=None if seed == 0 else 1.0')
    )
    failed = run_sweep([TWO], ['LiSAttention'], [0, 1], settings(place))
    assert [run.seed for run in failed] == [0]
    assert 'gives no finite top1, only top1, ap; see' in next(iter(failed.values()))
    assert [r['seed'] for r in read_rows(place / 'results' / 'mini.csv')] == ['1']


def test_results_of_other_settings_are_not_mixed(place):
    run_sweep([ONE], ['LiSAttention'], [0], settings(place))
    calls(place)
    with pytest.raises(UserError, match=r'mini\.csv holds runs of mini One with another config or other overrides'):
        run_sweep([ONE], ['LiSAttention'], [1], settings(place, options=('max=1',)))
    (place / 'data' / 'mini_one' / 'mini.json').write_text('{"set": "mini COCO", "fingerprint": "other"}')
    with pytest.raises(UserError, match=r'another data set \(data_fingerprint fingerpr, now other\)'):
        run_sweep([ONE], ['LiSAttention'], [1], settings(place))
    assert calls(place) == []
    run_sweep([TWO], ['LiSAttention'], [1], settings(place, options=('max=1',)))  # of which it holds none
    assert len(calls(place)) == 2


def test_bad_arguments_are_told_before_anything_runs(place):
    with pytest.raises(UserError, match="attention type 'LisAttention' is unknown"):
        run_sweep([ONE], ['LiSAttention', 'LisAttention'], [0], settings(place))
    with pytest.raises(UserError, match='--jobs 0'):
        run_sweep([ONE], ['LiSAttention'], [0], settings(place, jobs=0))
    (place / 'work').mkdir()
    with (
        _alone(place / 'work'),
        pytest.raises(UserError, match='another sweep is at work'),
    ):
        run_sweep([ONE], ['LiSAttention'], [0], settings(place))
    assert calls(place) == []


def test_operators_become_overrides():
    assert attention_options('SelfAttention') == ['model.backbone.attention.type=SelfAttention']
    assert attention_options('SelfAttention:local_conv=True,rpe=table') == [
        'model.backbone.attention.type=SelfAttention',
        'model.backbone.attention.local_conv=True',
        'model.backbone.attention.rpe=table',
    ]
    with pytest.raises(UserError, match="option 'local_con' is unknown to SelfAttention"):
        attention_options('SelfAttention:local_con=True')


# ---------------------------------------------------------------------------------------------------- tasks and figures


def test_tasks_are_chosen_by_key():
    assert [task.key for task in choose(None)] == [
        'mini-coco',
        'mini-ade20k',
        'mini-kinetics',
        'mini-ssv2',
        'mini-imagenet',
    ]
    assert [task.name for task in choose(['mini-ssv2', 'mini-coco', 'mini-ssv2'])] == ['mini SSv2', 'mini COCO']
    assert choose(['mini-ssv2-one-frame'])[0] in MINI_CONTROLS
    with pytest.raises(UserError, match=r"'mini-coc' is unknown; did you mean 'mini-coco'"):
        choose(['mini-coc'])


@pytest.mark.parametrize('task', MINI_TASKS + MINI_CONTROLS, ids=lambda task: task.key)
def test_tasks_are_of_this_repository(task):
    """Each names a config whose data root is that of its mini set, and metrics in the unit that its test gives."""
    from lisa_backbone.config import load_config

    cfg = load_config(REPO / task.config, {'model.backbone.attention.type': 'SelfAttention'})
    assert cfg.data_root.rstrip('/') == f'data/{task.data}'
    assert mini_set(task.mini).name == task.name.removesuffix(' one frame')
    in_percent = cfg.default_scope in ('mmseg', 'mmpretrain')
    assert {metric.unit for metric in task.metrics} == {0.01 if in_percent else 1.0}
    assert cfg.model.backbone.type.endswith('LiSA')
    assert cfg.model.backbone.attention == {'type': 'SelfAttention'}


def test_data_are_made_once_and_taken_as_they_are(tmp_path):
    task = choose(['mini-coco'])[0]
    kind = mini_set('coco')
    made = kind.make(tmp_path / 'mini_coco', kind.params(train=2, val=1))
    assert make_data(task, tmp_path)['fingerprint'] == made['fingerprint']
    (tmp_path / 'mini_coco' / 'mini.json').write_text('{}')
    with pytest.raises(UserError, match='not a mini set'):
        make_data(task, tmp_path)


def test_table_gives_mean_deviation_and_count():
    rows = [
        row('LiSAttention', 'mini Two', 0.5, seed=0),
        row('LiSAttention', 'mini Two', 0.6, seed=1),
        row('LiSAttention', 'mini Two', 0.7, seed=2),
        row('LiSAttention', 'mini One', 0.25, metric='AP'),
        row('SelfAttention', 'mini One', 0.125, metric='AP'),
        row('SelfAttention', 'my own', 0.3),
    ]
    assert table(rows, [ONE, TWO]).splitlines() == [
        '| attention | mini One, AP | mini Two, top-1 | my own, top-1 |',
        '|---|---:|---:|---:|',
        '| LiSAttention | 0.250 (1) | 0.600 ± 0.100 (3) |  |',
        '| SelfAttention | 0.125 (1) |  | 0.300 (1) |',
    ]


def test_table_of_nothing_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r'holds no results; make them with tools/leaderboard\.py run'):
        read_table(tmp_path / 'none.csv', MINI_TASKS)


def test_time_left():
    runs = [Run(task, 'LiSAttention', seed) for task in (ONE, TWO) for seed in (0, 1)]
    took = {'mini One': [10.0, 30.0], 'mini Two': [40.0]}
    assert time_left(dict.fromkeys(runs, 0.0), {}, 1) is None
    assert time_left(dict.fromkeys(runs, 0.0), took, 1) == 2 * 20 + 2 * 40
    assert time_left(dict.fromkeys(runs, 0.0), took, 2) == 60
    assert time_left({runs[0]: 5.0, runs[2]: 100.0}, took, 1) == 15  # the second takes longer than was to be expected
    assert time_left({runs[2]: 0.0}, took, 4) == 40  # one run is not split
    assert time_left({runs[2]: 0.0}, {'mini One': [10.0]}, 1) == 10
    assert time_left({}, took, 2) == 0


def test_progress_is_read_from_the_log(tmp_path):
    log = tmp_path / 'log.txt'
    assert _progress(log) == 'starting'
    log.write_text('loading\n')
    assert _progress(log) == 'at work'
    line = '11/21 08:00:00 - mmengine - INFO - {}  lr: 1e-03  eta: {}  time: 0.9  loss: 1.2\n'
    log.write_text(line.format('Epoch(train)  [1][10/50]', '0:09:00') + line.format('Iter(train) [ 20/400]', '0:04:10'))
    assert _progress(log) == 'Iter(train) [ 20/400], eta 0:04:10'


def test_rows_are_added_whole(tmp_path):
    path = tmp_path / 'new' / 'rows.csv'
    assert read_rows(path) == []
    append_rows(path, [{'a': '1', 'b': 'x, y'}])
    append_rows(path, [{'a': '2', 'b': ''}])
    assert read_rows(path) == [{'a': '1', 'b': 'x, y'}, {'a': '2', 'b': ''}]
    assert sorted(p.name for p in path.parent.iterdir()) == ['rows.csv']


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command_line(tmp_path):
    """One task on a tiny set, for a step or two, as a user sweeps it."""
    kind = mini_set('imagenet')
    kind.make(tmp_path / 'data' / 'mini_imagenet', kind.params(train=20, val=10))
    command = [sys.executable, REPO / 'tools' / 'leaderboard.py', 'run', '--tasks', 'mini-imagenet']
    command += ['--attention', 'SelfAttention', '--seeds', '3', '--data', 'data', '--work-dir', 'work']
    command += ['--results', 'tiny.csv', '--threads', '1', '--cfg-options', 'train_cfg.max_epochs=1']
    command += ['train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(list(map(str, command)), env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(tmp_path / 'tiny.csv')
    assert [(r['task'], r['attention'], r['seed']) for r in rows] == [('mini ImageNet', 'SelfAttention', '3')]
    value = float(rows[0]['value'])
    assert value in [k / 10 for k in range(11)]  # a share of ten images
    assert 0.9e6 < int(rows[0]['backbone_parameters']) < int(rows[0]['parameters']) < 1.3e6
    assert int(rows[0]['iterations']) == 3
    assert f'| SelfAttention | {value:.3f} (1) |' in done.stdout
