"""The sweep: what it runs, what it skips and resumes, and the arithmetic of its estimate."""

import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import run_tool

from lisa_backbone import compat, jobs

compat.apply()
pytest.importorskip('mmdet')
pytest.importorskip('mmcv')

from lisa_backbone.collect import attention_of  # noqa: E402
from lisa_backbone.config import load_config, parse_options  # noqa: E402
from lisa_backbone.data.mini_sets import mini_set  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.jobs import Processes, sentence_of, work_through  # noqa: E402
from lisa_backbone.leaderboard.models import Model, attention_options, list_models, recipe_options, weights_of  # noqa: E402
from lisa_backbone.leaderboard.sweep import (  # noqa: E402
    Run,
    Settings,
    _alone,
    _digest,
    _progress,
    _state,
    run_sweep,
    schedule_options,
    time_left,
)
from lisa_backbone.predictions import read_predictions  # noqa: E402
from lisa_backbone.provenance import config_of, file_digest  # noqa: E402
from lisa_backbone.records import read_records  # noqa: E402
from lisa_backbone.rehearsals import make_stand_in  # noqa: E402
from lisa_backbone.tasks import (  # noqa: E402
    MINI_CONTROLS,
    MINI_TASKS,
    REAL_TASKS,
    Metric,
    Task,
    choose,
    make_data,
    task_of,
)

REPO = Path(__file__).parents[1]
ONE = Task(
    'mini One',
    'configs/x/{model}_one.py',
    (Metric('top1', 'top-1', 0.01), Metric('ap', 'AP')),
    'mini',
    'mini_one',
    'coco',
)
TWO = Task('mini Two', 'configs/x/{model}_two.py', (Metric('top1', 'top-1'),), 'mini', 'mini_two', 'coco', 'mini One')
LISA, SOFTMAX, OTHER = Model('lisa-p', 'LiSAttention'), Model('lisa-p', 'SelfAttention'), Model('conv-p')
DIGEST = 'ab' * 32

# Stands for tools/train.py and tools/test.py: notes down its call and writes what those write.
TOOL = """
import hashlib, json, pathlib, sys
mode, work = pathlib.Path(sys.argv[0]).stem, pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
seed = int(sys.argv[sys.argv.index('--seed') + 1])
options = dict(pair.split('=', 1) for pair in sys.argv[sys.argv.index('--cfg-options') + 1:])
kept = [f'{{k}}={{v}}' for k, v in options.items() if k != 'data_root' and not k.endswith('checkpoint')]
digest = hashlib.sha256(' '.join([pathlib.Path(sys.argv[1]).name, *kept]).encode()).hexdigest()
with open({calls!r}, 'a') as file:
    print(mode, *sys.argv[1:], file=file)
if mode == 'train' and pathlib.Path({failing!r}).exists():
    sys.exit('error: the disk is full')
work.mkdir(parents=True, exist_ok=True)
path = work / 'metrics.json'
content = json.loads(path.read_text()) if path.exists() else dict()
start = options.get('model.backbone.init_cfg.checkpoint')
content[mode] = dict(checkpoint=str(work / 'last.pth'), start=start, code=dict(commit='c' * 40, dirty=False))
path.write_text(json.dumps(content))
if mode == 'test':
    name = pathlib.Path(sys.argv[1]).stem
    model, _, task = name.rpartition('_')
    made = json.loads((pathlib.Path(options['data_root']) / 'mini.json').read_text())
    attention = options.get('model.backbone.attention.type')
    start = content['train']['start']
    record = dict(
        schema=1, status='mini', task='mini ' + task.title(), model=model + (f', {{attention}}' if attention else ''),
        backbone=model, attention=attention, seed=seed, metrics=dict([('top-1', 0.8 + seed / 100), ('AP', 0.25)]),
        protocol=dict(), parameters=dict(backbone=60, model=100), macs=None,
        config=dict(file='configs/' + name, digest=digest, overrides=kept),
        code=dict(commit='unknown', dirty=False), predictions=None, source=None, note=None, date='2026-11-21',
        weights=dict(
            initial=[dict(file=start, sha256={digest!r})] if start else [],
            tested=dict(file='last.pth', sha256={digest!r}),
        ),
        data=dict(name=task, fingerprint=made['fingerprint']),
        cost=dict(iterations=7, train_seconds=3.0, test_seconds=1.0, train_peak_mib=1.0, test_peak_mib=1.0),
        machine=dict(device='cpu', processes=1, threads=1), versions=dict(torch='2.13.0'),
    )
    (work / 'record.json').write_text(json.dumps(record))
"""


@pytest.fixture
def place(tmp_path):
    """A checkout with two tasks and two models, and data for them."""
    for name in ('configs/x', 'tools', 'data/mini_one', 'data/mini_two'):
        (tmp_path / name).mkdir(parents=True)
    for name in ('one', 'two'):
        for model, backbone in (('lisa-p', 'LiSA'), ('conv-p', 'Conv')):
            (tmp_path / 'configs' / 'x' / f'{model}_{name}.py').write_text(
                f"model = dict(type='Net', backbone=dict(type='{backbone}', init_cfg=dict(type='Pretrained', "
                f"checkpoint=None)))\nname = {name!r}\ndata_root = 'data'\n"
            )
        record = {'set': 'mini COCO', 'fingerprint': {'one': '1', 'two': '2'}[name] * 64}
        (tmp_path / 'data' / f'mini_{name}' / 'mini.json').write_text(json.dumps(record))
    for name in ('train', 'test'):
        (tmp_path / 'tools' / f'{name}.py').write_text(
            TOOL.format(calls=str(tmp_path / 'calls.txt'), failing=str(tmp_path / 'failing'), digest=DIGEST)
        )
    return tmp_path


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The sweep finds the tasks that others start from among these; and a digest that the stand-in can make."""

    def digest(config, options):
        words = [config.name, *options]
        return hashlib.sha256(' '.join(words).encode()).hexdigest()

    monkeypatch.setattr('lisa_backbone.leaderboard.sweep._digest', digest)
    monkeypatch.setattr('lisa_backbone.leaderboard.models.MINI_TASKS', (ONE, TWO, *MINI_TASKS))


def settings(place, **more):
    return Settings(place, place / 'data', place / 'runs', place / 'results' / 'mini.jsonl', **more)


def results(place):
    return read_records(place / 'results' / 'mini.jsonl')


def calls(place):
    path = place / 'calls.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


# ------------------------------------------------------------------------------------------------------------ the sweep


def test_each_run_is_trained_tested_and_recorded(place):
    assert run_sweep([ONE], [LISA, OTHER], [0, 1], settings(place, options=('name=b',), threads=1)) == {}
    found = calls(place)
    assert [call.split()[0] for call in found] == ['train', 'test'] * 4
    assert [re.search(r'configs/x/(\S+)_one\.py .*--seed (\d)', call).groups() for call in found[::2]] == [
        ('lisa-p', '0'),
        ('conv-p', '0'),
        ('lisa-p', '1'),
        ('conv-p', '1'),
    ]
    data = f'--cfg-options data_root={place}/data/mini_one'
    assert found[0].endswith(f'--seed 0 {data} model.backbone.attention.type=LiSAttention name=b')
    assert found[2].endswith(f'--seed 0 {data} name=b')  # another backbone has no operator to choose
    assert all(('--resume' in call) == call.startswith('train') for call in found)
    assert [(r['task'], r['model'], r['seed'], r['metrics']) for r in results(place)] == [
        ('mini One', 'lisa-p, LiSAttention', 0, {'top-1': 0.8, 'AP': 0.25}),
        ('mini One', 'conv-p', 0, {'top-1': 0.8, 'AP': 0.25}),
        ('mini One', 'lisa-p, LiSAttention', 1, {'top-1': 0.81, 'AP': 0.25}),
        ('mini One', 'conv-p', 1, {'top-1': 0.81, 'AP': 0.25}),
    ]


@pytest.mark.parametrize('jobs', [1, 2])
def test_a_task_starts_from_the_weights_of_another(place, jobs):
    """The first task is trained once for each model and seed, also where it is not asked for itself."""
    assert run_sweep([TWO], [LISA, OTHER], [5], settings(place, jobs=jobs)) == {}
    found = calls(place)
    trained = sorted(call.split('configs/x/')[1].split()[0] for call in found if call.startswith('train'))
    assert trained == ['conv-p_one.py', 'conv-p_two.py', 'lisa-p_one.py', 'lisa-p_two.py']
    assert [call.split('configs/x/')[1].split()[0][-6:] for call in found if call.startswith('test')] == ['two.py'] * 2
    for run in results(place):
        (start,) = run['weights']['initial']
        row = run['model'].replace(', ', '_')
        assert re.search(rf'/runs/mini-one/{row}/\w{{8}}-1{{8}}-5/last\.pth$', start['file'])
    run_sweep([ONE, TWO], [LISA], [5], settings(place))
    assert [call.split()[0] for call in calls(place)] == ['test']  # of the first, which was only trained


def test_a_start_is_trained_once_though_several_wait_for_it(place):
    """Its own test, and another run that starts from it, come after that; meanwhile the next model is trained."""
    assert run_sweep([TWO, ONE], [LISA, OTHER], [5], settings(place, jobs=3)) == {}
    found = [call for call in calls(place) if call.startswith('train')]
    trained = [call.split('configs/x/')[1].split()[0] for call in found]
    assert sorted(trained[:2]) == ['conv-p_one.py', 'lisa-p_one.py']
    assert sorted(trained[2:]) == ['conv-p_two.py', 'lisa-p_two.py']
    assert len(results(place)) == 4


def test_overrides_of_a_task_are_for_its_runs_alone(place):
    short = replace(TWO, options=('name=short',))
    assert run_sweep([ONE, short], [OTHER], [0], settings(place, options=('name=all',), threads=1)) == {}
    found = [call for call in calls(place) if call.startswith('train')]
    options = [call.split('--cfg-options ')[1].split()[1:] for call in found]
    assert options[0] == ['name=all']
    assert options[1][:2] == ['name=short', 'name=all']  # what the command line says comes last


def test_an_operator_of_images_is_passed_over_on_videos(place, capsys):
    (place / 'configs' / 'action').mkdir()
    for path in (place / 'configs' / 'x').glob('*_two.py'):
        path.rename(place / 'configs' / 'action' / path.name)
    video = replace(TWO, config='configs/action/{model}_two.py')
    assert run_sweep([video, ONE], [Model('lisa-p', 'WaveletAttention'), LISA, OTHER], [0], settings(place)) == {}
    assert sorted((run['task'], run['model']) for run in results(place)) == [
        ('mini One', 'conv-p'),
        ('mini One', 'lisa-p, LiSAttention'),
        ('mini One', 'lisa-p, WaveletAttention'),
        ('mini Two', 'conv-p'),
        ('mini Two', 'lisa-p, LiSAttention'),
    ]
    told = 'passed over: lisa-p, WaveletAttention on mini Two, for whose 3 axes it has no form'
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith('passed over')] == [told]


@pytest.mark.parametrize(
    ('config', 'options', 'expected'),
    [
        (
            'pretrain/lisa-p_mini-imagenet',
            (),
            'train_cfg.max_epochs=3 train_cfg.val_interval=3 param_scheduler.0.end=160',
        ),  # of 7 and 400
        (
            'seg/lisa-p_fpn_mini-ade20k-128x128',
            (),
            'train_cfg.max_iters=800 train_cfg.val_interval=800 param_scheduler.0.end=20',
        ),  # of 2000
        (
            'det/mask-rcnn_lisa-p_fpn_mini-coco',
            ('train_cfg.max_epochs=1',),
            'train_cfg.max_epochs=1 train_cfg.val_interval=1 param_scheduler.0.end=20',  # never no epoch
        ),
    ],
)
def test_a_share_of_the_schedule(config, options, expected):
    assert schedule_options(REPO / 'configs' / f'{config}.py', options, 0.4) == expected.split()
    assert schedule_options(REPO / 'configs' / f'{config}.py', options, 1) == []


def test_what_is_done_is_passed_over(place, capsys):
    run_sweep([ONE], [LISA], [0], settings(place))
    calls(place)
    run_sweep([ONE], [LISA, SOFTMAX], [0, 0], settings(place, jobs=2))
    assert [call.split()[0] for call in calls(place)] == ['train', 'test']
    assert len(results(place)) == 2
    assert 'will not be repeated' not in capsys.readouterr().out
    (place / 'results' / 'mini.jsonl').unlink()  # the records are still in the work directories
    run_sweep([ONE], [LISA, SOFTMAX], [0], settings(place))
    assert calls(place) == []
    assert len(results(place)) == 2
    # the code may be another by now, which is said
    told = f'2 trainings in {place}/runs by commit cccccccccc (now '
    assert capsys.readouterr().out.startswith(told)


def test_a_sweep_without_locks_of_files(place, monkeypatch):
    """As a file system of a cluster may be."""

    def flock(file, operation):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr('fcntl.flock', flock)
    assert run_sweep([ONE], [LISA], [0], settings(place)) == {}
    assert len(results(place)) == 1


def test_a_broken_file_of_a_start_is_told_of_its_run(place, monkeypatch):
    run_sweep([ONE], [LISA], [0, 1], settings(place))
    path = next((place / 'runs').glob('mini-one/*/*-0/metrics.json'))
    path.write_text(path.read_text()[:20])
    failed = run_sweep([TWO], [LISA], [0, 1], settings(place))
    assert [run.seed for run in failed] == [0]
    assert next(iter(failed.values())).startswith('JSONDecodeError: ')
    assert [r['seed'] for r in results(place) if r['task'] == 'mini Two'] == [1]


@pytest.mark.parametrize('pair', ['load_from=a.pth', 'model.backbone.init_cfg.checkpoint=a.pth', 'data_root=elsewhere'])
def test_what_is_no_part_of_a_setting_is_refused(place, pair):
    """Its runs could not be told from those without it."""
    with pytest.raises(UserError, match=rf'--cfg-options {re.escape(pair)} is not for a sweep'):
        run_sweep([ONE], [LISA], [0], settings(place, options=('name=b', pair)))
    assert not (place / 'runs').exists()


@pytest.mark.parametrize(
    ('config', 'further', 'processes', 'expected'),
    [
        ('seg/swin-t_upernet_8xb2-160k_ade20k-512x512', ('train_dataloader.batch_size=4',), 4, []),
        ('seg/swin-t_upernet_8xb2-160k_ade20k-512x512', ('train_dataloader.batch_size=1',), 16, []),
        ('seg/swin-t_upernet_8xb2-160k_ade20k-512x512', (), 8, []),
        ('det/mask-rcnn_swin-t_fpn_1x_coco', ('train_dataloader.batch_size=4',), 8, ['auto_scale_lr.enable=True']),
    ],
)
def test_the_batch_of_a_recipe_is_that_of_the_overrides(config, further, processes, expected):
    task = next(task for task in REAL_TASKS if task.model_of(f'configs/{config}.py'))
    found = recipe_options(task, Model('swin-t'), REPO, processes, further)
    assert [pair for pair in found if not pair.startswith('model.')] == expected


def test_stopped_runs_go_on(place):
    """A run whose training is done is only tested; one that failed is trained again, with --resume."""
    (place / 'failing').touch()
    failed = run_sweep([TWO], [LISA], [0], settings(place))
    assert {str(run): why for run, why in failed.items()} == {
        'mini Two, lisa-p, LiSAttention, seed 0': (
            'mini One, lisa-p, LiSAttention, seed 0 failed, from whose weights it starts: the disk is full'
        )
    }
    assert results(place) == []
    (place / 'failing').unlink()
    calls(place)
    run_sweep([TWO], [LISA], [0], settings(place))
    assert [call.split()[0] for call in calls(place)] == ['train', 'train', 'test']


def test_failed_run_does_not_stop_the_others(place):
    tool = (place / 'tools' / 'test.py').read_text()
    (place / 'tools' / 'test.py').write_text(tool.replace("if mode == 'test':", "if mode == 'test' and seed:"))
    failed = run_sweep([ONE], [LISA], [0, 1], settings(place))
    assert [run.seed for run in failed] == [0]
    assert 'there is no record of it; see' in next(iter(failed.values()))
    assert [r['seed'] for r in results(place)] == [1]


def test_a_record_that_is_not_taken_is_of_its_run_alone(place):
    """The stand-in makes two records of seed 1: the second is refused, and the sweep goes on."""
    tool = (place / 'tools' / 'test.py').read_text()
    (place / 'tools' / 'test.py').write_text(tool.replace('seed=seed', 'seed={2: 1}.get(seed, seed)'))
    failed = run_sweep([ONE], [LISA], [0, 1, 2, 3], settings(place))
    assert [run.seed for run in failed] == [2]
    assert re.search(r'record\.json, is not taken: .* claim the same mini run', next(iter(failed.values())))
    assert [r['seed'] for r in results(place)] == [0, 1, 3]


def test_a_test_that_was_killed_as_it_wrote_is_made_again(place):
    run_sweep([ONE], [LISA], [0], settings(place))
    (place / 'results' / 'mini.jsonl').unlink()
    (path,) = (place / 'runs').glob('mini-one/*/*/record.json')
    path.write_text(path.read_text()[:100])
    calls(place)
    assert run_sweep([ONE], [LISA], [0], settings(place)) == {}
    assert [call.split()[0] for call in calls(place)] == ['test']
    assert len(results(place)) == 1


# Put before the stand-in for training: of seed 1 it saves a checkpoint and then takes its time, unless it goes on.
SLOW = """
import os, pathlib, sys, time
saved = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1]) / 'epoch_1.pth'
if sys.argv[sys.argv.index('--seed') + 1] == '1' and not saved.exists():
    saved.parent.mkdir(parents=True, exist_ok=True)
    saved.write_text(f'{os.getpid()} ')
    time.sleep(120)
"""


def test_a_killed_sweep_goes_on(place, monkeypatch):
    """SIGKILL ends the sweep but not the training that it started: nothing is started beside that one."""
    train = place / 'tools' / 'train.py'
    train.write_text(SLOW + train.read_text())
    everything = [ONE], [LISA], [0, 1, 2], settings(place)
    sweep = multiprocessing.get_context('fork').Process(target=run_sweep, args=everything)
    sweep.start()
    deadline = time.monotonic() + 60
    while not (saved := [p for p in place.glob('runs/mini-one/*/*/epoch_1.pth') if p.read_text().endswith(' ')]):
        assert sweep.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.join()
    assert sweep.exitcode == -signal.SIGKILL
    assert [r['seed'] for r in results(place)] == [0]
    calls(place)
    monkeypatch.setattr(jobs, '_HANDOVER', 0.2)
    failed = run_sweep(*everything)
    assert [(run.seed, 'is still at work; wait for its end' in why) for run, why in failed.items()] == [(1, True)]
    assert [r['seed'] for r in results(place)] == [0, 2]
    assert [re.search(r'--seed (\d)', call)[1] for call in calls(place)] == ['2', '2']
    os.kill(int(saved[0].read_text()), signal.SIGKILL)
    monkeypatch.setattr(jobs, '_HANDOVER', 60)
    assert run_sweep(*everything) == {}
    assert [(call.split()[0], '--resume' in call) for call in calls(place)] == [('train', True), ('test', False)]
    assert [r['seed'] for r in results(place)] == [0, 2, 1]


def test_results_of_other_settings_are_not_mixed(place):
    run_sweep([ONE], [LISA], [0], settings(place))
    calls(place)
    with pytest.raises(
        UserError, match=r'mini\.jsonl holds runs of mini One, lisa-p, LiSAttention with another config'
    ):
        run_sweep([ONE], [LISA], [1], settings(place, options=('name=1',)))
    (place / 'data' / 'mini_one' / 'mini.json').write_text('{"set": "mini COCO", "fingerprint": "other"}')
    with pytest.raises(UserError, match=r'another data set \(digest 11111111, now other\)'):
        run_sweep([ONE], [LISA], [1], settings(place))
    assert calls(place) == []
    with pytest.raises(UserError, match='another data set'):  # since the second starts from the first
        run_sweep([TWO], [LISA], [1], settings(place))


def test_bad_arguments_are_told_before_anything_runs(place):
    with pytest.raises(UserError, match="attention type 'LisAttention' is unknown"):
        list_models(['lisa-p'], ['LiSAttention', 'LisAttention'], [ONE], place)
    with pytest.raises(
        UserError, match=r"model 'lisa-q' has no config configs/x/lisa-q_one\.py; there are conv-p, lisa-p"
    ):
        list_models(['lisa-q'], ['LiSAttention'], [ONE], place)
    with pytest.raises(UserError, match='--jobs 0'):
        run_sweep([ONE], [LISA], [0], settings(place, jobs=0))
    (place / 'runs').mkdir()
    with (
        _alone(place / 'runs'),
        pytest.raises(UserError, match='another sweep is at work'),
    ):
        run_sweep([ONE], [LISA], [0], settings(place))
    assert calls(place) == []


def test_models_are_listed(place):
    assert list_models(['lisa-p', 'conv-p', 'lisa-p'], ['LiSAttention', 'SelfAttention'], [ONE, TWO], place) == [
        LISA,
        SOFTMAX,
        OTHER,
    ]


def test_operators_become_overrides():
    assert attention_options('SelfAttention') == ['model.backbone.attention.type=SelfAttention']
    assert attention_options('SelfAttention:local_conv=True,rpe=table') == [
        'model.backbone.attention.type=SelfAttention',
        'model.backbone.attention.local_conv=True',
        'model.backbone.attention.rpe=table',
    ]
    with pytest.raises(UserError, match="option 'local_con' is unknown to SelfAttention"):
        attention_options('SelfAttention:local_con=True')
    assert attention_options('ShuntedAttention:reductions=(1,2)') == [
        'model.backbone.attention.type=ShuntedAttention',
        'model.backbone.attention.reductions=(1,2)',
    ]
    listed = parse_options(attention_options('ShuntedAttention:reductions=[1, 2]'))
    assert listed['model.backbone.attention.reductions'] == [1, 2]
    with pytest.raises(UserError, match="'2' in 'LiSAttention:2' is not OPTION=VALUE; write NAME:OPTION=VALUE"):
        attention_options('LiSAttention:2')


@pytest.mark.parametrize('value', ['true', 'True'])
def test_operators_are_named_as_their_records_name_them(place, value):
    """Else a run would never count as done."""
    (model,) = list_models(
        ['lisa-p'], [f'SelfAttention:local_conv={value}', 'SelfAttention:local_conv=True'], [ONE], place
    )
    assert str(model) == 'lisa-p, SelfAttention:local_conv=True'
    options = parse_options(attention_options(f'SelfAttention:local_conv={value}'))
    backbone = load_config(REPO / 'configs/pretrain/lisa-p_mini-imagenet.py', options).model.backbone
    assert model.attention == attention_of(backbone)


# ---------------------------------------------------------------------------------------------------------- real tasks


@pytest.fixture
def real(place):
    """The configs of this repository beside stand-ins for its tools, which make records of Mask R-CNN."""
    for path in (place / 'configs' / 'x').iterdir():
        path.unlink()
    (place / 'configs' / 'x').rmdir()
    (place / 'configs').rmdir()
    (place / 'configs').symlink_to(REPO / 'configs')
    for name in ('train', 'test'):
        tool = (place / 'tools' / f'{name}.py').read_text()
        tool = tool.replace(
            "status='mini', task='mini ' + task.title()", "status='reproduced', task='COCO Mask R-CNN 1x'"
        )
        tool = tool.replace('attention = options', "model = name.split('_')[1]\n    attention = options")
        (place / 'tools' / f'{name}.py').write_text(tool)
    return place


def digest_of(call):
    _, config, *words = call.split()
    return config_of(config, parse_options(words[words.index('--cfg-options') + 1 :]))['digest']


def test_real_tasks(real):
    tasks = choose(['coco-mask-r-cnn-1x'])
    models = list_models(['lisa-t', 'swin-t'], ['LiSAttention'], tasks, real)
    settings = Settings(real, real / 'data', real / 'runs', real / 'results' / 'reproduced.jsonl')
    with pytest.raises(UserError, match=r'ImageNet-1K has no data: there is no folder .*/data/imagenet; put the set'):
        run_sweep(tasks, models, [0], settings)
    make_stand_in('imagenet', real / 'data')
    (real / 'data' / 'coco').mkdir()
    with pytest.raises(
        UserError, match=r'COCO Mask R-CNN 1x has no data that can be used: .*prepare_data\.py coco --root'
    ):
        run_sweep(tasks, models, [0], settings)
    (real / 'data' / 'coco').rmdir()
    make_stand_in('coco', real / 'data')
    assert calls(real) == []
    assert run_sweep(tasks, models, [0], settings) == {}
    found = calls(real)
    assert [(call.split()[0], Path(call.split()[1]).stem) for call in found] == [
        ('train', 'lisa-t_16xb64_in1k'),
        ('train', 'mask-rcnn_lisa-t_fpn_1x_coco'),
        ('test', 'mask-rcnn_lisa-t_fpn_1x_coco'),
        ('train', 'mask-rcnn_swin-t_fpn_1x_coco'),
        ('test', 'mask-rcnn_swin-t_fpn_1x_coco'),
    ]
    assert all('auto_scale_lr.enable=True' in call for call in found)
    assert f'data_root={real}/data/coco ' in found[1]
    assert re.search(r'init_cfg\.checkpoint=\S+/runs/imagenet-1k/lisa-t_LiSAttention/\S+/last\.pth', found[1])
    assert 'init_cfg.checkpoint=https://github.com/SwinTransformer/' in found[3]
    digests = [digest_of(call) for call in found[3:]]  # as training and testing will record it
    assert digests == [_digest(real / tasks[0].config_of('swin-t'), ['auto_scale_lr.enable=True'])] * 2
    recorded = read_records(settings.results)
    assert [(r['status'], r['task'], r['model'], r['weights']['initial'][0]['file'][:8]) for r in recorded] == [
        ('reproduced', 'COCO Mask R-CNN 1x', 'lisa-t, LiSAttention', str(real)[:8]),
        ('reproduced', 'COCO Mask R-CNN 1x', 'swin-t', 'https://'),
    ]
    assert run_sweep(tasks, models, [0], settings) == {}
    assert calls(real) == []


def test_real_tasks_that_cannot_be_run(real, monkeypatch):
    with pytest.raises(UserError, match=r'--tasks mixes mini tasks \(mini-coco\) with real ones'):
        choose(['mini-coco', 'coco-mask-r-cnn-1x'])
    tasks = choose(['ade20k-upernet-160k'])
    settings = Settings(real, real / 'data', real / 'runs', real / 'results' / 'reproduced.jsonl')
    with pytest.raises(UserError, match=r'--schedule 0\.5 is for mini tasks'):
        run_sweep(tasks, [Model('swin-t')], [0], replace(settings, schedule=0.5))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1,2')
    with pytest.raises(UserError, match=r'3 processes of 2 make 6, which is no part of it; give --gpus 8'):
        run_sweep(tasks, [Model('swin-t')], [0], replace(settings, gpus=3))
    config = real / 'mine.py'
    config.write_text(
        (REPO / 'configs/det/mask-rcnn_lisa-t_fpn_1x_coco.py').read_text().replace("'../", f"'{REPO}/configs/")
    )
    with pytest.raises(UserError, match=r"mine\.py names no weights .* add weights = \['KEY=VALUE'\] to it"):
        weights_of(replace(tasks[0], config='mine.py', initial='ImageNet-1K'), Model('mine'), real)
    assert calls(real) == []


# --------------------------------------------------------------------------------------------------- GPUs and clusters

# Stands for torchrun: notes down its options and the GPUs that it sees, and runs the tool once.
TORCHRUN = """
import os, pathlib, runpy, sys
at = next(i for i, word in enumerate(sys.argv) if i and word.endswith('.py'))
path = pathlib.Path(sys.argv[at]).parents[1] / 'torchrun.txt'
with path.open('a') as file:
    print(*sys.argv[1:at], os.environ['CUDA_VISIBLE_DEVICES'], file=file)
sys.argv = sys.argv[at:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""

# What torchrun printed for a process that ended by itself, shortened.
TORCHRUN_REPORT = """
Epoch(train) [1][10/50]
{words}
W1121 13:14:26.409000 25369 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 2 closing signal
E1121 13:14:26.410000 25369 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {status}) local_r
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
"""


@pytest.fixture
def torchrun(place, monkeypatch):
    """A package that stands for torch in the processes of the sweep; GPUs 4 to 7."""
    package = place / 'stand-in' / 'torch' / 'distributed'
    package.mkdir(parents=True)
    (package.parent / '__init__.py').touch()
    (package / '__init__.py').touch()
    (package / 'run.py').write_text(TORCHRUN)
    monkeypatch.setenv('PYTHONPATH', str(place / 'stand-in'))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5,6,7')
    return place / 'torchrun.txt'


def test_several_gpus_by_torchrun(place, torchrun):
    assert run_sweep([TWO], [LISA, OTHER], [0], settings(place, jobs=2, gpus=2)) == {}
    started = [line.rpartition(' ') for line in torchrun.read_text().splitlines()]
    assert {options for options, _, _ in started} == {'--standalone --nproc_per_node 2'}
    assert {gpus for _, _, gpus in started} == {'4,5', '6,7'}
    found = calls(place)
    assert sorted(call.split()[0] for call in found) == ['test'] * 2 + ['train'] * 4
    assert all(('--resume --launcher pytorch' in call) == call.startswith('train') for call in found)
    assert all(re.search(r'--launcher pytorch --work-dir \S+-0-2gpus --seed 0 --cfg-options', call) for call in found)


def test_one_gpu_without_torchrun(place, torchrun):
    assert run_sweep([ONE], [LISA], [0], settings(place, gpus=1)) == {}
    assert not torchrun.exists()
    assert not any('--launcher' in call for call in calls(place))
    (place / 'results' / 'mini.jsonl').unlink()
    # four processes have four times the batch: another training, whose results are not mixed with these
    assert run_sweep([ONE], [LISA], [0], settings(place, gpus=4)) == {}
    assert torchrun.read_text() == '--standalone --nproc_per_node 4 4,5,6,7\n' * 2
    assert [call.split()[0] for call in calls(place)] == ['train', 'test']
    with pytest.raises(UserError, match='holds runs of mini One, lisa-p, LiSAttention in 1 processes, now 2'):
        run_sweep([ONE], [LISA], [1], settings(place, gpus=2))


def test_runs_at_a_time_share_no_gpu(place):
    processes = Processes(1, ['0,1', '2,3'])

    def do(item):
        # waits until the other one is there
        script = f'echo $CUDA_VISIBLE_DEVICES > {place}/{item}; until [ -s {place}/{1 - item} ]; do sleep 0.05; done'
        return processes.run(['/bin/sh', '-c', script], place / f'{item}.log', 20)

    outcomes = []
    work_through([0, 1], do, lambda item, outcome: outcomes.append(outcome.sentence), processes, workers=2)
    assert outcomes == ['', '']
    assert {(place / '0').read_text(), (place / '1').read_text()} == {'0,1\n', '2,3\n'}


@pytest.mark.parametrize(
    ('status', 'words', 'sentence'),
    [
        (1, 'ValueError: seven', 'ValueError: seven; see {log}'),
        (2, 'error: no such file; mend it', 'no such file; mend it'),
        (-9, '', 'was killed by SIGKILL, as the system does where memory runs out; see {log}'),
    ],
)
def test_failure_under_torchrun_is_that_of_the_tool(tmp_path, status, words, sentence):
    log = tmp_path / 'log.txt'
    log.write_text(TORCHRUN_REPORT.format(status=status, words=words))
    assert sentence_of(1, log, 0) == sentence.format(log=log)


def test_sweep_by_jobs(place):
    assert run_sweep([ONE], [LISA], [0], settings(place, executor='submitit-local', threads=1)) == {}
    assert [call.split()[0] for call in calls(place)] == ['train', 'test']
    assert [(r['model'], r['metrics']['top-1']) for r in results(place)] == [('lisa-p, LiSAttention', 0.8)]
    assert list((place / 'runs' / 'jobs').glob('*_0_log.out'))


@pytest.mark.parametrize(
    ('more', 'sentence'),
    [
        (dict(gpus=2, jobs=3), '--jobs 3 with --gpus 2 each take 6 GPUs, and this machine has 4; lower one'),
        (dict(gpus=-1), '--gpus -1 must be positive'),
        (dict(executor='slurm', slurm=('time=60',)), 'Slurm is not here (sbatch, srun, sacct, scancel not found)'),
        (dict(executor='slurm', slurm=('partition=gpu',)), '--slurm has no time'),
        (dict(executor='slurm'), '--slurm has no time'),
        (dict(slurm=('time=60',)), '--slurm is not for --executor processes'),
        (dict(executor='submitit-local', gpus=1), '--gpus 1 is not for --executor submitit-local'),
    ],
)
def test_executors_that_cannot_work(place, torchrun, monkeypatch, more, sentence):
    monkeypatch.setenv('PATH', str(place))
    with pytest.raises(UserError) as caught:
        run_sweep([ONE], [LISA], [0], settings(place, **more))
    assert sentence in str(caught.value)
    assert calls(place) == []


# ---------------------------------------------------------------------------------------------------- tasks and figures


def test_tasks_are_chosen_by_key():
    assert [task.key for task in choose(None)] == [
        'mini-imagenet',
        'mini-coco',
        'mini-ade20k',
        'mini-kinetics',
        'mini-ssv2',
    ]
    assert [task.name for task in choose(['mini-ssv2', 'mini-coco', 'mini-ssv2'])] == ['mini SSv2', 'mini COCO']
    assert choose(['mini-ssv2-one-frame', 'mini-ssv2-frame-by-frame']) == MINI_CONTROLS
    assert choose(['ade20k-upernet-160k'])[0] in REAL_TASKS
    with pytest.raises(UserError, match=r"'mini-coc' is unknown; did you mean 'mini-coco'"):
        choose(['mini-coc'])


@pytest.mark.parametrize('task', MINI_TASKS + MINI_CONTROLS, ids=lambda task: task.key)
def test_tasks_are_of_this_repository(task):
    """Each names a config whose data root is that of its mini set, and metrics in the unit that its test gives."""
    cfg = load_config(REPO / task.config_of('lisa-p'), {'model.backbone.attention.type': 'SelfAttention'})
    assert cfg.data_root.rstrip('/') == f'data/{task.data}'
    assert mini_set(task.mini).name == re.sub(' (one frame|frame by frame)$', '', task.name)
    in_percent = cfg.default_scope in ('mmseg', 'mmpretrain')
    assert {metric.unit for metric in task.metrics} == {0.01 if in_percent else 1.0}
    assert cfg.model.backbone.type.endswith('LiSA')
    assert cfg.model.backbone.attention == {'type': 'SelfAttention'}


@pytest.mark.parametrize('task', REAL_TASKS, ids=lambda task: task.key)
def test_real_tasks_have_the_data_of_their_configs(task):
    spec = importlib.util.spec_from_file_location('prepare_data', REPO / 'tools' / 'prepare_data.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    cfg = load_config(REPO / task.config_of('lisa-t'))
    assert cfg.data_root.rstrip('/') == f'data/{task.data}'
    assert {**tool.IMAGE_SETS, **tool.VIDEO_SETS}[task.prepared_as][1] == REPO / 'data' / task.data


def test_data_are_made_once_and_taken_as_they_are(tmp_path):
    task = choose(['mini-coco'])[0]
    kind = mini_set('coco')
    made = kind.make(tmp_path / 'mini_coco', kind.params(train=2, val=1))
    assert make_data(task, tmp_path)['fingerprint'] == made['fingerprint']
    (tmp_path / 'mini_coco' / 'mini.json').write_text('{}')
    with pytest.raises(UserError, match='not a mini set'):
        make_data(task, tmp_path)


def test_configs_belong_to_tasks():
    """Every config of the repository is of one task, but for those named here; and a task's config is found again."""
    configs = [path.relative_to(REPO).as_posix() for path in REPO.glob('configs/[!_]*/*.py')]
    without = sorted(config for config in configs if task_of(config) is None)
    assert without == []
    for task in MINI_TASKS + MINI_CONTROLS + REAL_TASKS:
        assert task_of(task.config_of('lisa-t')) == (task, 'lisa-t')
        assert any(task_of(config)[0] == task for config in configs), task.name
    assert task_of('configs/det/mask-rcnn_lisa-t_fpn_1x_coco.py')[1] == 'lisa-t'
    assert task_of('configs/det/cascade-mask-rcnn_lisa-t_fpn_1x_coco.py') is None
    assert task_of('mine.py') is None


def test_time_left():
    runs = [Run(task, LISA, seed) for task in (ONE, TWO) for seed in (0, 1)]
    took = {'mini One': [10.0, 30.0], 'mini Two': [40.0]}
    assert time_left(dict.fromkeys(runs, 0.0), {}, {}, 1) is None
    assert time_left(dict.fromkeys(runs, 0.0), {}, took, 1) == 2 * 20 + 2 * 40
    assert time_left(dict.fromkeys(runs, 0.0), {}, took, 2) == 60
    late = {runs[0]: 5.0, runs[2]: 100.0}  # the second takes longer than was to be expected
    assert time_left(late, {}, took, 1) == 15
    assert time_left(late, {runs[0]: 3.0, runs[2]: 50.0}, took, 1) == 65
    assert time_left({runs[2]: 0.0}, {}, took, 4) == 40  # one run is not split
    assert time_left({runs[2]: 0.0}, {}, {'mini One': [10.0]}, 1) == 10
    assert time_left({}, {}, took, 2) == 0


def test_progress_is_read_from_the_log(tmp_path):
    log = tmp_path / 'log.txt'
    assert _progress(log, 0) == ('starting', 0)
    log.write_text('loading\n')
    assert _progress(log, 0) == ('at work', 0)
    line = '11/21 08:00:00 - mmengine - INFO - {}  lr: 1e-03  eta: {}  time: 0.9  loss: 1.2\n'
    log.write_text(line.format('Epoch(train)  [1][10/50]', '0:09:00') + line.format('Iter(train) [ 20/400]', '0:04:10'))
    assert _progress(log, 0) == ('Iter(train) [ 20/400], eta 0:04:10', 250)
    log.write_text(line.format('Epoch(train) [1][ 10/7330]', '2 days, 1:00:01'))
    assert _progress(log, 0) == ('Epoch(train) [1][ 10/7330], eta 2 days, 1:00:01', 49 * 3600 + 1)
    begin = log.stat().st_size  # what follows is of a run that goes on
    assert _progress(log, begin) == ('at work', 0)
    with log.open('a') as file:
        file.write('loading\n' + line.format('Epoch(train) [2][ 10/7330]', '0:00:07'))
    assert _progress(log, begin) == ('Epoch(train) [2][ 10/7330], eta 0:00:07', 7)


def test_a_start_that_is_still_to_be_trained_counts(tmp_path):
    """Two runs start from one of another task: it is at work, and theirs is all still to come."""
    first, *runs = (Run(task, LISA, 0) for task in (ONE, TWO, replace(TWO, name='mini Three')))
    took = {'mini One': [100.0], 'mini Two': [40.0]}
    sweep = SimpleNamespace(
        first=lambda run: None if run == first else first,
        work_dir=lambda run: tmp_path / run.task.key,
        log=lambda run: tmp_path / run.task.key / 'log.txt',
        started={runs[0]: time.perf_counter() - 30},
        begins={},
        settings=SimpleNamespace(jobs=1),
    )
    assert _state(dict.fromkeys(runs), sweep, took) == f'about 3 minutes left; {first}: starting'
    (tmp_path / ONE.key).mkdir()
    (tmp_path / ONE.key / 'log.txt').write_text('Epoch(train) [1][10/50]  lr: 1e-03  eta: 0:10:00  time: 1\n')
    assert _state(dict.fromkeys(runs), sweep, took).startswith('about 12 minutes left')
    (tmp_path / ONE.key / 'metrics.json').write_text('{"train": {}}')
    assert _state(dict.fromkeys(runs), sweep, took) == f'about 80 seconds left; {runs[0]}: starting'


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command_line(tmp_path):
    """One task on a tiny set, for a step or two, as a user sweeps it: with an operator of a package of his own."""
    own = 'from lisa_backbone.attention import SelfAttention\n\n\nclass Softmax(SelfAttention):\n    pass\n'
    (tmp_path / 'own_package.py').write_text(own)
    kind = mini_set('imagenet')
    kind.make(tmp_path / 'data' / 'mini_imagenet', kind.params(train=20, val=10))
    command = [sys.executable, REPO / 'tools' / 'leaderboard.py', 'run', '--tasks', 'mini-imagenet']
    command += ['--attention', 'own_package.Softmax', '--seeds', '3', '--data', 'data', '--work-dir', 'runs']
    command += ['--results', 'tiny.jsonl', '--threads', '1', '--cfg-options', 'train_cfg.max_epochs=1']
    command += ['train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get('PYTHONPATH')])])
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths}
    done = subprocess.run(list(map(str, command)), env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = read_records(tmp_path / 'tiny.jsonl')
    assert (run['task'], run['model'], run['seed']) == ('mini ImageNet', 'lisa-p, own_package.Softmax', 3)
    assert run['metrics']['top-1'] in [k / 10 for k in range(11)]  # a share of ten images
    assert 0.9e6 < run['parameters']['backbone'] < run['parameters']['model'] < 1.3e6
    assert run['cost']['iterations'] == 2
    assert run['protocol'] == {'input': '64x64', 'scales': 1, 'flip': False}
    assert run['config']['file'] == 'configs/pretrain/lisa-p_mini-imagenet.py'
    assert run['config']['overrides'] == [
        'model.backbone.attention.type=own_package.Softmax',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.checkpoint.interval=1',
    ]
    made = json.loads((tmp_path / 'data' / 'mini_imagenet' / 'mini.json').read_text())
    fingerprint = made['fingerprint']
    assert run['data'] == {'name': 'mini ImageNet', 'fingerprint': fingerprint, 'training': fingerprint}
    tested = tmp_path / run['weights']['tested']['file']
    assert run['weights'] == {'initial': [], 'tested': file_digest(tested) | {'file': run['weights']['tested']['file']}}
    assert read_predictions(tmp_path / run['predictions']['file']).ids
    assert f'| lisa-p, own_package.Softmax | 1.08 | 21.9 | {100 * run["metrics"]["top-1"]:.1f} (1) |' in done.stdout


def test_the_command_line_of_real_tasks(tmp_path):
    """Without data one sentence is all there is."""
    words = ['run', '--tasks', 'coco-mask-r-cnn-1x', '--models', 'swin-t']
    words += ['--data', tmp_path / 'data', '--work-dir', tmp_path / 'runs']
    done = run_tool('leaderboard.py', *words, cwd=tmp_path)
    assert done.returncode == 2
    assert (
        f'error: COCO Mask R-CNN 1x has no data: there is no folder {tmp_path}/data/coco; put the set ' in done.stderr
    )
    assert [path.name for path in (tmp_path / 'runs').iterdir()] == ['.lock']
