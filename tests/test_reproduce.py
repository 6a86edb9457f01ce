"""What makes a row again: commands, expectations, and a rehearsal with stand-ins for the tools."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_tool

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmcv')

from lisa_backbone.config import load_config, null_empty_pretrained, parse_options  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.recipes import batch_options, count_iterations  # noqa: E402
from lisa_backbone.leaderboard.reproduce import (  # noqa: E402
    OTHER_RECIPES,
    PUBLISHED,
    Expected,
    compare,
    expected,
    find,
    needed_hours,
    plan,
    reproduce,
    sequence,
)
from lisa_backbone.provenance import config_of  # noqa: E402
from lisa_backbone.records import read_records  # noqa: E402
from lisa_backbone.runner import total_batch  # noqa: E402
from lisa_backbone.tasks import REAL_TASKS  # noqa: E402

REPO = Path(__file__).parents[1]

# Stands for every tool: notes down its call and writes what the next one reads.
TOOL = """
import json, pathlib, sys
with open('calls.txt', 'a') as file:
    print(pathlib.Path(sys.argv[0]).name, *sys.argv[1:], file=file)
if '--work-dir' in sys.argv:
    work = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
    work.mkdir(parents=True, exist_ok=True)
    if 'train' in sys.argv[0]:
        (work / 'best_1.pth').touch()
        (work / 'last_checkpoint').write_text(str(work / 'epoch_2.pth'))
        (work / 'metrics.json').write_text(json.dumps(dict(train=dict(checkpoint=str(work / 'best_1.pth')))))
    elif not pathlib.Path('no-record').exists():
        (work / 'record.json').write_text(json.dumps(dict(metrics=dict(mIoU=0.61))))
"""


CONFIG = """
model = dict(type='Net', backbone=dict(type='LiSA', attention='LiSAttention', init_cfg=dict(checkpoint=None)))
train_dataloader = dict(batch_size=8)
optim_wrapper = dict()
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(max_iters=100)
data_root = 'data'
"""
SEG, PRE = 'configs/seg/lisa-p_fpn_mini-ade20k-128x128.py', 'configs/pretrain/lisa-p_mini-imagenet.py'
ROW = ('mini-ade20k', 'lisa-p, LiSAttention')
OPERATOR = 'model.backbone.attention.type=LiSAttention'
SHORT = ['train_cfg.max_iters=600', 'train_cfg.val_interval=600']  # that task in a sweep


def record(value, seed=0, seconds=100.0, model='lisa-p, LiSAttention', **more):
    return {
        'status': 'mini',
        'task': 'mini ADE20K',
        'model': model,
        'seed': seed,
        'metrics': {'mIoU': value},
        'cost': {'train_seconds': seconds},
        'machine': {'device': 'x86_64, 2 cores', 'threads': 1, 'processes': 1},
        'config': {'file': SEG, 'digest': '', 'overrides': [OPERATOR]},
        'code': {'commit': 'ab' * 20},
        'weights': {'initial': [{'file': 'best.pth', 'sha256': 'cd' * 32}]},
        'versions': {},
        **more,
    }


def pretraining(**more):
    more = {'task': 'mini ImageNet', 'metrics': {'top-1': 0.5}, 'weights': {'initial': []}, **more}
    return record(0.5, **more, config={'file': PRE, 'digest': '', 'overrides': [OPERATOR]})


def digested(*records):
    """Records with the digests of the configs in the current folder."""
    for one in records:
        one['config'] |= config_of(one['config']['file'], parse_options(one['config']['overrides']))
    return list(records)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ('tools', 'configs/seg', 'configs/pretrain'):
        (tmp_path / name).mkdir(parents=True)
    for name in ('train', 'test', 'make_mini_data'):
        (tmp_path / 'tools' / f'{name}.py').write_text(TOOL)
    for name in (SEG, PRE):
        (tmp_path / name).write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(task, model, seed=0, root=REPO, gpus=None, records=()):
    """The printed commands of a row, and its trainings."""
    trainings = plan(*find(task, model, root), seed, root, gpus, records)
    return [step.line() for step in sequence(trainings)], trainings


def test_the_commands_of_a_mini_row(checkout):
    lines, (first, own) = lines_of('mini-ade20k', 'lisa-p, SelfAttention:local_conv=true', 2, Path())
    options = 'model.backbone.attention.type=SelfAttention model.backbone.attention.local_conv=True'
    row = 'lisa-p_SelfAttention_local_conv=True'
    assert first.work_dir == f'work_dirs/reproduce/mini-imagenet/{row}/{first.digest[:8]}-2'
    assert lines == [
        'python tools/make_mini_data.py imagenet --out data/mini_imagenet',
        'python tools/make_mini_data.py ade20k --out data/mini_ade20k',
        f'python tools/train.py {PRE} --work-dir {first.work_dir} --seed 2 --resume '
        f'--cfg-options data_root=data/mini_imagenet {options}',
        f'python tools/train.py {SEG} --work-dir {own.work_dir} --seed 2 --resume --cfg-options '
        f'data_root=data/mini_ade20k {options} {" ".join(SHORT)} '
        f'model.backbone.init_cfg.checkpoint="$(ls -t {first.work_dir}/best_*.pth | head -n 1)"',
        f'python tools/test.py {SEG} --work-dir {own.work_dir} --seed 2 --cfg-options data_root=data/mini_ade20k '
        f'{options} {" ".join(SHORT)}',
    ]


def test_overrides_of_a_task_are_in_its_commands_alone():
    lines = [line for line in lines_of('mini-coco', 'resnet-p')[0] if 'mini_data' not in line]
    short = 'train_cfg.max_epochs=4 train_cfg.val_interval=4'
    assert [short in line for line in lines] == [False, True, True]


def test_the_commands_run_as_a_shell_takes_them(checkout):
    """The printed lines, given to a shell, call the tools with the same words as --run does."""
    assert reproduce([], *ROW, 0, run=True) == 0
    ran = (checkout / 'calls.txt').read_text()
    lines, (first, _) = lines_of(*ROW, 0, Path())
    (checkout / 'calls.txt').unlink()
    script = '\n'.join(line.replace('python ', f'{sys.executable} ', 1) for line in lines)
    subprocess.run(['/bin/sh', '-ec', script], cwd=checkout, check=True)
    assert (checkout / 'calls.txt').read_text() == ran
    assert f'init_cfg.checkpoint={first.work_dir}/best_1.pth\n' in ran  # as in a sweep, and not the latest
    (checkout / 'calls.txt').unlink()
    reproduce([], *ROW, 0, run=True)  # trainings that are finished are not run again
    assert called(checkout) == ['make_mini_data.py', 'make_mini_data.py', 'test.py']


def called(checkout):
    lines = (checkout / 'calls.txt').read_text().splitlines()
    (checkout / 'calls.txt').unlink()
    return [line.split()[0] for line in lines]


@pytest.mark.parametrize('changed', [SEG, PRE])
def test_a_changed_config_is_trained_anew(checkout, changed):
    reproduce([], *ROW, 0, run=True)
    called(checkout)
    (checkout / changed).write_text(CONFIG.replace('max_iters=100', 'max_iters=200'))
    reproduce([], *ROW, 0, run=True)
    # the weights to start from are part of the setting
    assert called(checkout).count('train.py') == (2 if changed == PRE else 1)


def test_an_old_record_is_not_taken_for_the_new_one(checkout):
    reproduce([], *ROW, 0, run=True)
    (checkout / 'no-record').touch()
    with pytest.raises(UserError, match=r'`python tools/test\.py .*` wrote no record\.json; .*reproduce\.txt says why'):
        reproduce([], *ROW, 0, run=True)


def test_commands_follow_the_record(checkout):
    own = [OPERATOR, 'train_cfg.max_iters=40', 'train_dataloader.batch_size=4']
    records = digested(
        record(0.61, config={'file': SEG, 'overrides': own}),
        pretraining(cost={'train_seconds': 80.0}),
    )
    lines, trainings = lines_of(*ROW, 3, Path(), None, records)
    assert [list(one.options) for one in trainings] == [[OPERATOR], own]
    assert all(' '.join(own) in line for line in lines[3:])
    assert needed_hours(trainings, Path()) == (
        'training took 3 minutes, that of the weights to start from 80 seconds of it, on x86_64, 2 cores, 1 threads'
    )
    with pytest.raises(
        UserError, match='recorded with overrides of its own, and there is no record of the training on '
    ):
        lines_of(*ROW, 3, Path(), None, records[:1])
    usual = [OPERATOR, *SHORT]
    plain = digested(record(0.61, config={'file': SEG, 'overrides': usual}))
    assert [list(one.options) for one in lines_of(*ROW, 3, Path(), None, plain)[1]] == [[OPERATOR], usual]
    scratch = digested(record(0.61, weights={'initial': []}))
    assert len(lines_of(*ROW, 3, Path(), None, scratch)[1]) == 1


def test_another_batch_is_refused(checkout):
    with pytest.raises(UserError, match=r'--gpus 4 would train mini ADE20K with 4 times its batch'):
        reproduce([], *ROW, 0, gpus=4)
    records = digested(record(0.61), pretraining())
    with pytest.raises(
        UserError, match=r'recorded with 1 processes, and another number is another batch; give --gpus 1'
    ):
        reproduce(records, *ROW, 0, gpus=4)
    for one in records:
        one['machine']['processes'] = 2
    lines, _ = lines_of(*ROW, 0, Path(), None, records)
    assert all('--nproc_per_node 2' in line for line in lines[2:])


def test_a_config_that_changed_since_is_told(checkout, capsys, monkeypatch):
    records = digested(record(0.61), pretraining())
    (checkout / SEG).write_text(CONFIG.replace('max_iters=100', 'max_iters=200'))
    with pytest.raises(UserError, match=r'recorded with another configs/seg/.* check out commit abababababab, or'):
        reproduce(records, *ROW, 0)
    monkeypatch.setattr('lisa_backbone.leaderboard.reproduce.is_this_stack', lambda versions: False)
    assert reproduce(records, *ROW, 0) == 0
    assert 'other versions of the frameworks are installed' in capsys.readouterr().err


@pytest.mark.parametrize(('seeds', 'status', 'word'), [((0.60, 0.61, 0.62), 0, 'met'), ((0.7, 0.7), 1, 'MISSED')])
def test_the_figure_is_compared(checkout, capsys, seeds, status, word):
    records = digested(*(record(value, seed) for seed, value in enumerate(seeds)), pretraining())
    assert reproduce(records, *ROW, 0, run=True) == status
    printed = capsys.readouterr().out
    assert f'{word}: mIoU 61.0, expected ' in printed
    assert 'training took 3 minutes, that of the weights to start from 100 seconds of it, on x86_64' in printed


def test_a_command_that_fails_is_told(checkout):
    (checkout / 'tools' / 'train.py').write_text("import sys; sys.exit('error: the disk is full')")
    with pytest.raises(UserError, match=r'`python tools/train\.py configs/pretrain/.*` failed: the disk is full'):
        reproduce([], *ROW, 0, run=True)


def test_what_is_expected():
    task, model = find('mini-ade20k', 'lisa-p, LiSAttention', REPO)
    others = [record(0.1, model='lisa-p, SelfAttention')]
    assert expected(others, task, model) == []
    assert expected([*others, record(0.6)], task, model) == [
        Expected('mIoU', 0.6, 0.05, 'five points, since there is one seed alone')
    ]
    (one,) = expected([record(0.6), record(0.62, 1), record(0.64, 2)], task, model)
    assert (one.value, one.tolerance) == (pytest.approx(0.62), pytest.approx(3 * 0.02))
    (close,) = expected([record(0.6), record(0.602, 1)], task, model)
    assert close.tolerance == 0.01
    assert compare({'metrics': {'mIoU': 0.612}}, [close])[0].startswith('MISSED: mIoU 61.2, expected 60.1 ± 1.0')
    assert compare({'metrics': {'mIoU': 0.609}}, [close])[0].startswith('met: mIoU 60.9')


PUBLISHED_RECORDS = read_records(REPO / 'results' / 'published.jsonl')


@pytest.mark.parametrize(
    ('task', 'model', 'figures'),
    [
        ('coco-mask-r-cnn-1x', 'swin-t', [('box AP', 0.427, 0.01), ('mask AP', 0.393, 0.01)]),  # in mmdet
        ('coco-mask-r-cnn-1x', 'convnext-t', [('box AP', 0.442, 0.01), ('mask AP', 0.401, 0.01)]),
        ('coco-mask-r-cnn-1x', 'pvtv2-b2', [('box AP', 0.453, None), ('mask AP', 0.412, None)]),
        ('ade20k-upernet-160k', 'swin-t', [('mIoU', 0.4451, 0.01)]),
        ('ade20k-upernet-160k', 'r50', [('mIoU', 0.4205, None)]),
        ('kinetics-400-16x4', 'swin-tiny', [('top-1', 0.788, None)]),
        ('something-something-v2', 'uniformer-small', [('top-1', 0.677, None)]),
        ('something-something-v2', 'tsm-r50', [('top-1', 0.612, None)]),
        ('coco-mask-r-cnn-1x', 'timm', []),
        ('coco-mask-r-cnn-1x', 'lisa-t', []),
    ],
)
def test_published_figures_are_expected(task, model, figures):
    found = expected(PUBLISHED_RECORDS, *find(task, model, REPO))
    assert [(one.metric, one.value, one.tolerance) for one in found] == figures
    for one in found:
        assert 'README' in one.why or 'arXiv' in one.why or 'metafile' in one.why
        assert ('a point, for one run' in one.why) == (one.tolerance is not None)
        (line,) = compare({'metrics': {one.metric: one.value - 0.02}}, [one])
        assert line.startswith('MISSED') == (one.tolerance is not None)


def test_published_rows_are_of_this_repository():
    names = {one['model'] for one in PUBLISHED_RECORDS}
    assert {name for models in PUBLISHED.values() for name in models} <= names
    tasks = {task.name: task for task in REAL_TASKS}
    assert all(model in PUBLISHED and task in tasks for task, model in OTHER_RECIPES)


REAL_PEERS = [
    (task.key, model)
    for task in REAL_TASKS
    for model in (*PUBLISHED, 'timm')
    if (REPO / task.config_of(model)).is_file()
]


@pytest.mark.parametrize(('task', 'model'), REAL_PEERS)
def test_peers_start_from_the_weights_of_their_authors(task, model):
    lines, (one,) = lines_of(task, model, gpus=8)
    (train,) = [line for line in lines if 'tools/train.py' in line]
    given = parse_options(train.split('--cfg-options ')[1].split(' '))
    cfg = load_config(REPO / one.config, given)
    null_empty_pretrained(copy.deepcopy(cfg))
    backbone = cfg.model.backbone
    weights = backbone.get('pretrained') or backbone.init_cfg.checkpoint
    assert (
        weights is True if model == 'timm' else str(weights).startswith(('https://', 'torchvision://', 'open-', 'unif'))
    )
    if task.startswith(('kinetics', 'something')):
        assert backbone.pretrained2d is True
    assert total_batch(cfg, 8) == cfg.auto_scale_lr.base_batch_size
    # the test has the overrides of the training, so that a record is made of both
    (test,) = [line for line in lines if 'tools/test.py' in line]
    tested = parse_options(test.split('--cfg-options ')[1].split(' ')) if '--cfg-options' in test else {}
    assert config_of(str(REPO / one.config), tested) == config_of(str(REPO / one.config), given)


def test_there_are_peers():
    assert len(REAL_PEERS) == 16


def trainings_of(task, model, gpus):
    return plan(*find(task, model, REPO), 0, REPO, gpus)


def test_hours_from_a_measured_iteration():
    # 12 epochs of 117266 images, 2 in each process
    found = needed_hours(trainings_of('coco-mask-r-cnn-1x', 'swin-t', 8), REPO, [1.0])
    assert found == (f'{12 * 7330} iterations of 1 s on COCO Mask R-CNN 1x take 24.4 hours, 195.5 GPU hours on 8 GPUs')
    found = needed_hours(trainings_of('coco-mask-r-cnn-1x', 'swin-t', 1), REPO, [1.0])
    assert found.startswith(f'{12 * 58633} iterations of 1 s')
    assert '195.4 GPU hours on 1 GPUs' in found
    both = trainings_of('ade20k-upernet-160k', 'lisa-t', 8)
    assert needed_hours(both, REPO, [0.36, 0.45]) == (
        f'{300 * 2503} iterations of 0.36 s on ImageNet-1K and 160000 iterations of 0.45 s on ADE20K UPerNet 160k '
        'together take 95.1 hours, 760.7 GPU hours on 8 GPUs'
    )
    with pytest.raises(
        UserError, match='has 1 numbers and the row 2 trainings; give the seconds of an iteration of that '
    ):
        needed_hours(both, REPO, [0.4])
    assert 'was not measured' in needed_hours(both, REPO)


def test_a_batch_of_other_size():
    """In epochs the learning rate is scaled; in iterations gradients are accumulated, and all counts are multiplied."""
    config = load_config(REPO / 'configs/det/mask-rcnn_lisa-t_fpn_1x_coco.py')
    assert batch_options(config, 8) == []
    assert batch_options(config, 3) == ['auto_scale_lr.enable=True']
    path = REPO / 'configs/seg/lisa-t_upernet_8xb2-160k_ade20k-512x512.py'
    assert batch_options(load_config(path), 8) == []
    cfg = load_config(path, parse_options(batch_options(load_config(path), 2)))
    assert total_batch(cfg, 2) == 16
    assert count_iterations(cfg, 2) * 2 * 2 == 160_000 * 16  # images
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (640_000, 64_000)
    assert [(one.begin, one.end) for one in cfg.param_scheduler] == [(0, 6000), (6000, 640_000)]
    assert cfg.default_hooks.checkpoint.interval == 64_000
    for processes in (3, 16):
        with pytest.raises(UserError, match=rf'{processes} processes of 2 make {2 * processes}, .* give --gpus 8'):
            batch_options(load_config(path), processes)


def test_a_real_row_is_trained_on_all_gpus():
    lines, (first, _) = lines_of('coco-mask-r-cnn-1x', 'lisa-t', gpus=8)
    torchrun = 'python -m torch.distributed.run --standalone --nproc_per_node 8 tools/'
    assert [line[: len(torchrun) + 8] for line in lines[2:]] == [
        f'{torchrun}train.py',
        f'{torchrun}train.py',
        f'{torchrun}test.py ',
    ]
    assert 'configs/pretrain/lisa-t_16xb64_in1k.py' in lines[2]
    assert 'auto_scale_lr.enable=True' in lines[2]  # 8 x 64 and not 1024
    assert all('--launcher pytorch' in line for line in lines[2:])
    assert lines[3].endswith(f'init_cfg.checkpoint="$(ls -t {first.work_dir}/best_*.pth | head -n 1)"')
    assert first.work_dir.startswith('work_dirs/reproduce/imagenet-1k/lisa-t_LiSAttention/')


def test_unknown_rows_are_told():
    with pytest.raises(UserError, match="task 'mini-ade' is unknown; did you mean 'mini-ade20k'"):
        find('mini-ade', 'lisa-p', REPO)
    with pytest.raises(UserError, match="attention type 'Softmax' is unknown"):
        find('mini-ade20k', 'lisa-p, Softmax', REPO)
    with pytest.raises(UserError, match=r'lisa-q has no config for mini ADE20K: there is no configs/seg/lisa-q_fpn'):
        find('mini-ade20k', 'lisa-q', REPO)
    with pytest.raises(UserError, match=r'swin-p takes no operator'):
        find('mini-ade20k', 'swin-p, SelfAttention', REPO)


def test_the_command_line(tmp_path):
    (record,) = [
        one
        for one in read_records(REPO / 'results' / 'mini.jsonl')
        if (one['task'], one['model'], one['seed']) == ('mini COCO', 'lisa-p, LiSAttention', 0)
    ]
    (tmp_path / 'mine.jsonl').write_text(json.dumps({**record, 'metrics': {'box AP': 0.125, 'mask AP': 0.0625}}))
    words = ['reproduce', 'mini-coco', 'lisa-p, LiSAttention', '--results', tmp_path / 'mine.jsonl']
    done = run_tool('leaderboard.py', *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith('# mini COCO, lisa-p, LiSAttention, seed 0: ')
    assert '# expected: box AP 12.5 ± 5.0 (five points, since there is one seed alone)' in lines
    assert [line.split()[1] for line in lines if not line.startswith('#')] == [
        'tools/make_mini_data.py',
        'tools/make_mini_data.py',
        'tools/train.py',
        'tools/train.py',
        'tools/test.py',
    ]


def test_the_command_line_of_the_report(tmp_path):
    words = ['report', '--out', tmp_path / 'out', '--results']
    done = run_tool('leaderboard.py', *words, REPO / 'results' / 'published.jsonl')
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split()] == [
        'leaderboard.html',
        'leaderboard.md',
        'leaderboard.csv',
    ]
    assert 'ResNet-50' in (tmp_path / 'out' / 'leaderboard.md').read_text()
    done = run_tool('leaderboard.py', *words, tmp_path / 'none.jsonl')
    assert (done.returncode, done.stdout) == (2, '')
    assert 'none.jsonl does not exist' in done.stderr
