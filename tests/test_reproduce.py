"""What makes a row again: commands, expectations, and a rehearsal with stand-ins for the tools."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmcv')

from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.reproduce import (  # noqa: E402
    Expected,
    compare,
    expected,
    find,
    needed_hours,
    reproduce,
    sequence,
)

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
        (work / 'last_checkpoint').write_text(str(work / 'epoch_1.pth'))
        (work / 'metrics.json').write_text(json.dumps(dict(train=dict())))
    else:
        (work / 'record.json').write_text(json.dumps(dict(metrics=dict(mIoU=0.61))))
"""


def record(value, seed=0, seconds=100.0, model='lisa-p, LiSAttention'):
    return {
        'task': 'mini ADE20K',
        'model': model,
        'seed': seed,
        'metrics': {'mIoU': value},
        'cost': {'train_seconds': seconds},
        'machine': {'device': 'x86_64, 2 cores', 'threads': 1},
    }


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ('tools', 'configs/seg', 'configs/pretrain'):
        (tmp_path / name).mkdir(parents=True)
    for name in ('train', 'test', 'make_mini_data'):
        (tmp_path / 'tools' / f'{name}.py').write_text(TOOL)
    for name in ('seg/lisa-p_fpn_mini-ade20k-128x128', 'pretrain/lisa-p_mini-imagenet'):
        (tmp_path / 'configs' / f'{name}.py').write_text('')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_a_mini_row(checkout):
    task, model = find('mini-ade20k', 'lisa-p, SelfAttention:local_conv=True')
    lines = [step.line() for step in sequence(task, model, 2, Path())]
    work = 'work_dirs/reproduce/{}/lisa-p_SelfAttention_local_conv=True/seed-2'
    options = 'model.backbone.attention.type=SelfAttention model.backbone.attention.local_conv=True'
    first, second = work.format('mini-imagenet'), work.format('mini-ade20k')
    seg = 'configs/seg/lisa-p_fpn_mini-ade20k-128x128.py'
    assert lines == [
        'python tools/make_mini_data.py imagenet --out data/mini_imagenet',
        'python tools/make_mini_data.py ade20k --out data/mini_ade20k',
        f'python tools/train.py configs/pretrain/lisa-p_mini-imagenet.py --work-dir {first} --seed 2 --resume '
        f'--cfg-options data_root=data/mini_imagenet {options}',
        f'python tools/train.py {seg} --work-dir {second} --seed 2 --resume --cfg-options data_root=data/mini_ade20k '
        f'{options} model.backbone.init_cfg.checkpoint="$(cat {first}/last_checkpoint)"',
        f'python tools/test.py {seg} --work-dir {second} --seed 2 --cfg-options data_root=data/mini_ade20k {options}',
    ]


def test_overrides_of_a_task_are_in_its_commands_alone():
    lines = [
        step.line() for step in sequence(*find('mini-coco', 'resnet-p'), 0, REPO) if 'mini_data' not in step.line()
    ]
    short = 'train_cfg.max_epochs=6 train_cfg.val_interval=6'
    assert [short in line for line in lines] == [False, True, True]


def test_the_commands_run_as_a_shell_takes_them(checkout):
    """The printed lines, given to a shell, call the tools with the same words as --run does."""
    assert reproduce([], 'mini-ade20k', 'lisa-p, LiSAttention', 0, run=True) == 0
    ran = (checkout / 'calls.txt').read_text()
    lines = [step.line() for step in sequence(*find('mini-ade20k', 'lisa-p, LiSAttention'), 0, Path())]
    (checkout / 'calls.txt').unlink()
    script = '\n'.join(line.replace('python ', f'{sys.executable} ', 1) for line in lines)
    subprocess.run(['/bin/sh', '-ec', script], cwd=checkout, check=True)
    assert (checkout / 'calls.txt').read_text() == ran
    assert 'init_cfg.checkpoint=work_dirs/reproduce/mini-imagenet/lisa-p_LiSAttention/seed-0/epoch_1.pth\n' in ran
    (checkout / 'calls.txt').unlink()
    reproduce([], 'mini-ade20k', 'lisa-p, LiSAttention', 0, run=True)  # trainings that are finished are not run again
    assert [line.split()[0] for line in (checkout / 'calls.txt').read_text().splitlines()] == [
        'make_mini_data.py',
        'make_mini_data.py',
        'test.py',
    ]


@pytest.mark.parametrize(('seeds', 'status', 'word'), [((0.60, 0.61, 0.62), 0, 'met'), ((0.7, 0.7), 1, 'MISSED')])
def test_the_figure_is_compared(checkout, capsys, seeds, status, word):
    records = [record(value, seed) for seed, value in enumerate(seeds)]
    assert reproduce(records, 'mini-ade20k', 'lisa-p, LiSAttention', 0, run=True) == status
    printed = capsys.readouterr().out
    assert f'{word}: mIoU 61.0, expected ' in printed
    assert 'training took 100 seconds on x86_64, 2 cores, 1 threads' in printed


def test_a_command_that_fails_is_told(checkout):
    (checkout / 'tools' / 'train.py').write_text("import sys; sys.exit('error: the disk is full')")
    with pytest.raises(UserError, match=r'`python tools/train\.py configs/pretrain/.*` failed: the disk is full'):
        reproduce([], 'mini-ade20k', 'lisa-p, LiSAttention', 0, run=True)


def test_what_is_expected():
    task, model = find('mini-ade20k', 'lisa-p, LiSAttention')
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


def test_hours_from_a_measured_iteration():
    task, model = find('ade20k-upernet-160k', 'lisa-t')
    assert needed_hours([], task, model, REPO, 0.45, 8) == (
        '160000 iterations of 0.45 s take 20.0 hours, 160.0 GPU hours on 8 GPUs'
    )
    task, model = find('coco-mask-r-cnn-1x', 'swin-t')  # 12 epochs of 117266 images in batches of 16
    assert needed_hours([], task, model, REPO, 1.0, 8).startswith(f'{12 * 7330} iterations of 1 s take 24.4 hours')
    assert 'was not measured' in needed_hours([], task, model, REPO)


def test_a_real_row_is_trained_on_all_gpus():
    task, model = find('coco-mask-r-cnn-1x', 'lisa-t')
    lines = [step.line() for step in sequence(task, model, 0, REPO, gpus=8)]
    torchrun = 'python -m torch.distributed.run --standalone --nproc_per_node 8 tools/'
    assert [line[: len(torchrun) + 8] for line in lines[2:]] == [
        f'{torchrun}train.py',
        f'{torchrun}train.py',
        f'{torchrun}test.py ',
    ]
    assert 'configs/pretrain/lisa-t_16xb64_in1k.py' in lines[2]
    assert all('--launcher pytorch' in line for line in lines[2:])
    assert lines[3].endswith(
        'init_cfg.checkpoint="$(cat work_dirs/reproduce/imagenet-1k/lisa-t/seed-0/last_checkpoint)"'
    )
    lines = [step.line() for step in sequence(*find('coco-mask-r-cnn-1x', 'swin-t'), 0, REPO)]
    assert not any('pretrain' in line for line in lines)  # its weights come from its authors


def test_unknown_rows_are_told():
    with pytest.raises(UserError, match="task 'mini-ade' is unknown; did you mean 'mini-ade20k'"):
        find('mini-ade', 'lisa-p')
    with pytest.raises(UserError, match="attention type 'Softmax' is unknown"):
        find('mini-ade20k', 'lisa-p, Softmax')
    with pytest.raises(UserError, match=r'lisa-q has no config for mini ADE20K: there is no configs/seg/lisa-q_fpn'):
        sequence(*find('mini-ade20k', 'lisa-q'), 0, REPO)


def test_the_command_line():
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    words = [sys.executable, str(REPO / 'tools' / 'leaderboard.py'), 'reproduce', 'mini-coco', 'lisa-p, LiSAttention']
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith('# mini COCO, lisa-p, LiSAttention, seed 0: ')
    assert [line.split()[1] for line in lines if not line.startswith('#')] == [
        'tools/make_mini_data.py',
        'tools/make_mini_data.py',
        'tools/train.py',
        'tools/train.py',
        'tools/test.py',
    ]


def test_the_command_line_of_the_report(tmp_path):
    words = [sys.executable, str(REPO / 'tools' / 'leaderboard.py'), 'report', '--out', str(tmp_path / 'out')]
    words += ['--results', str(REPO / 'results' / 'published.jsonl')]
    done = subprocess.run(words, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split()] == [
        'leaderboard.html',
        'leaderboard.md',
        'leaderboard.csv',
    ]
    assert 'ResNet-50' in (tmp_path / 'out' / 'leaderboard.md').read_text()
    words[words.index('--results') + 1] = str(tmp_path / 'none.jsonl')
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, '')
    assert 'none.jsonl does not exist' in done.stderr
