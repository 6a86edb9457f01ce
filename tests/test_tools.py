"""The command lines of training and testing, run as a user runs them."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import run_tool

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmdet')
pytest.importorskip('mmcv')

from mmengine.config import Config  # noqa: E402
from mmengine.optim import LinearLR, OptimWrapper  # noqa: E402
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS  # noqa: E402

from lisa_backbone import runner as runner_module  # noqa: E402
from lisa_backbone.arguments import add_run_arguments, run_options  # noqa: E402
from lisa_backbone.checkpoints import check_resumable  # noqa: E402
from lisa_backbone.config import load_config, parse_options  # noqa: E402
from lisa_backbone.data.mini_ade20k import MiniAde20kParams, make_mini_ade20k  # noqa: E402
from lisa_backbone.data.mini_coco import MiniCocoParams, make_mini_coco  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.metrics_hook import MetricsHook  # noqa: E402
from lisa_backbone.preflight import _check_values, build_model, check_channels, explain_build_error  # noqa: E402
from lisa_backbone.provenance import commit_words, file_digest  # noqa: E402
from lisa_backbone.rows import read_rows  # noqa: E402
from lisa_backbone.runner import (  # noqa: E402
    RunOptions,
    _check_launcher,
    _flags,
    _without_sync_norms,
    prepare,
    record,
    run_test,
    run_training,
    source_of,
)
from lisa_backbone.step_profile import PARTS  # noqa: E402
from lisa_backbone.work_dir import checkpoint_to_test, file_in, latest_checkpoint  # noqa: E402

REPO = Path(__file__).parents[1]
CONFIG = REPO / 'configs' / 'det' / 'mask-rcnn_lisa-p_fpn_mini-coco.py'
PLANTED = 'planted'
TRAIN_IMAGES, VAL_IMAGES, BATCH = 8, 3, 4

# A user's own config: ours, small and quick, through mmengine's inheritance.
USER_CONFIG = """
_base_ = {base!r}
train_dataloader = dict(batch_size={batch}, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
env_cfg = dict(mp_cfg=dict(opencv_num_threads=1))
"""


class Payload:
    """Unpickling it would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def command(tool, *args):
    return [sys.executable, str(REPO / 'tools' / tool), *map(str, args)]


def progress(work_dir):
    """Iteration count of the latest checkpoint."""
    path = (work_dir / 'last_checkpoint').read_text().strip()
    return compat.load_checkpoint(path)['meta']['iter']


@pytest.fixture(scope='session')
def bench(tmp_path_factory):
    """A mini set, a config that uses it, and a folder to work in."""
    folder = tmp_path_factory.mktemp('bench')
    make_mini_coco(folder / 'data', MiniCocoParams(train=TRAIN_IMAGES, val=VAL_IMAGES))
    config = folder / 'mine.py'
    config.write_text(USER_CONFIG.format(base=str(CONFIG), batch=BATCH))
    return folder


@pytest.fixture(scope='session')
def trained(bench):
    """A work directory after one epoch, with what was printed."""
    args = ('--work-dir', 'work', '--show-dir', 'drawn-after-training', '--cfg-options', 'data_root=data')
    done = run_tool('train.py', 'mine.py', *args, cwd=bench)
    assert done.returncode == 0, done.stderr
    return bench / 'work', done.stdout + done.stderr


# --------------------------------------------------------------------------------------------------------- the good way


def test_training_says_what_it_did(trained):
    work_dir, printed = trained
    assert 'TRAINING FROM RANDOM INITIALISATION' in printed
    assert 'eta:' in printed
    assert re.search(r'trained 2 iterations in \d+ s; last validation: .*; checkpoint .*\.pth', printed)
    assert re.search(r'meant for a total batch of 8 and this run has 4 \(0\.5 times\); add --auto-scale-lr', printed)
    entry = json.loads((work_dir / 'metrics.json').read_text())['train']
    assert entry['iterations'] == 2
    assert entry['seed'] == 0
    assert Path(entry['checkpoint']).is_file()
    assert entry['versions']['torch'] == torch.__version__


def test_training_draws_with_its_best_checkpoint(trained, bench):
    content = json.loads((trained[0] / 'metrics.json').read_text())
    assert content['test']['checkpoint'] == content['train']['checkpoint']
    originals = sorted((bench / 'data' / 'val2017').iterdir())
    assert [p.stem for p in sorted((bench / 'drawn-after-training').glob('*.jpg'))] == [p.stem for p in originals]


def test_testing_draws_predictions_beside_truth(trained, bench):
    import cv2
    import numpy as np

    args = ('--work-dir', 'work', '--show-dir', 'pictures', '--cfg-options', 'data_root=data')
    done = run_tool('test.py', 'mine.py', *args, 'model.test_cfg.rcnn.score_thr=0.0', cwd=bench)
    assert done.returncode == 0, done.stderr
    content = json.loads((trained[0] / 'metrics.json').read_text())
    assert {'train', 'test'} <= set(content)
    assert 'coco/bbox_mAP' in content['test']['metrics']
    assert re.search(r'tested .*\.pth in \d+ s: coco/bbox_mAP', done.stdout + done.stderr)
    assert 'fills' in done.stdout
    assert '(100.0% of' in done.stdout
    pictures = sorted((bench / 'pictures').glob('*.jpg'))
    originals = sorted((bench / 'data' / 'val2017').iterdir())
    assert [p.stem for p in pictures] == [p.stem for p in originals]
    for picture, original in zip(pictures, originals, strict=True):
        drawn, raw = cv2.imread(str(picture)), cv2.imread(str(original))
        height, width = raw.shape[0] * 3, raw.shape[1] * 3
        assert drawn.shape == (height, 2 * width, 3)  # truth and prediction side by side, enlarged to be readable
        plain = cv2.resize(raw, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        changed = np.abs(drawn[:, :width].astype(np.int16) - plain).max(axis=2) > 40
        assert changed.mean() > 0.02  # boxes, masks and labels of the truth


@pytest.mark.parametrize(('mode', 'tta'), [('whole', True), ('slide', False), ('slide', True)])
def test_testing_over_scales_and_windows_gives_the_known_score_of_a_constant_model(bench, mode, tta):
    pytest.importorskip('mmseg')
    import numpy as np
    from PIL import Image

    root, named, work_dir = bench / 'ade', 3, f'constant-{mode}'
    make_mini_ade20k(root, MiniAde20kParams(train=1, val=3))
    config = REPO / 'configs' / 'seg' / 'lisa-p_fpn_mini-ade20k-128x128.py'
    cfg = load_config(str(config))
    model = build_model(cfg.model, cfg.get('data_preprocessor'))
    torch.nn.init.zeros_(model.decode_head.conv_seg.weight)
    model.decode_head.conv_seg.bias.data = torch.eye(15)[named]
    torch.save({'state_dict': model.state_dict()}, bench / 'constant.pth')
    options = (f'data_root={root}/', 'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False')
    options += (f'model.test_cfg.mode={mode}', 'model.test_cfg.crop_size=(64,96)', 'model.test_cfg.stride=(43,64)')
    args = (config, 'constant.pth', '--work-dir', work_dir, *['--tta'] * tta, '--cfg-options', *options)
    done = run_tool('test.py', *args, cwd=bench)
    assert done.returncode == 0, done.stderr

    maps = [np.asarray(Image.open(path)) for path in sorted((root / 'annotations' / 'validation').iterdir())]
    labels = np.concatenate([labels.ravel() for labels in maps]).astype(int) - 1  # 0 is unlabelled
    share = (labels == named).sum() / (labels >= 0).sum()
    present = len(set(labels[labels >= 0]) | {named})
    content = json.loads((bench / work_dir / 'metrics.json').read_text())['test_tta' if tta else 'test']
    assert content['protocol'] == {'input': '128x128', 'mode': mode, 'scales': 3 if tta else 1, 'flip': False}
    assert content['metrics']['aAcc'] == pytest.approx(100 * share, abs=0.01)  # mmseg rounds to two places
    assert content['metrics']['mIoU'] == pytest.approx(100 * share / present, abs=0.01)
    assert (bench / work_dir / ('predictions_tta.npz' if tta else 'predictions.npz')).is_file()


def test_stopped_run_is_resumed(trained, bench):
    work_dir = bench / 'stopped'
    shutil.copytree(trained[0], work_dir)
    (work_dir / 'last_checkpoint').write_text(str(trained[0] / 'epoch_1.pth'))  # the folder was copied: by its name
    args = ('mine.py', '--work-dir', 'stopped', '--resume', '--cfg-options', 'data_root=data')
    printed = bench / 'stopped.txt'  # a pipe that nobody reads meanwhile would fill up
    with printed.open('w') as file:
        process = subprocess.Popen(
            command('train.py', *args, 'train_cfg.max_epochs=500'),
            cwd=bench,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stdout=file,
            stderr=file,
        )
        deadline = time.monotonic() + 400  # once the fourth is there, the third is whole and recorded
        while not (work_dir / 'epoch_4.pth').exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, printed.read_text()
    text = printed.read_text()
    assert 'Traceback' not in text
    assert 'stopped; what was saved so far is kept' in text
    assert 'resumed epoch: 1, iter: 2' in text
    assert 'keeps what its checkpoint says: T_max of CosineAnnealingLR (1) 2, not 1000; ' in text
    kept = latest_checkpoint(str(work_dir))  # last_checkpoint itself may have been cut short
    cfg = prepare(RunOptions(config=str(bench / 'mine.py')))
    assert check_resumable(build_model(cfg.model), kept).share == 1
    assert compat.load_checkpoint(kept)['meta']['iter'] >= 6  # two steps an epoch: the count went on
    first = compat.load_checkpoint(trained[0] / 'epoch_1.pth')['meta']['train_seconds']
    assert compat.load_checkpoint(kept)['meta']['train_seconds'] > first > 0
    entry = json.loads((trained[0] / 'metrics.json').read_text())['train']
    assert first < entry['train_seconds'] < entry['seconds'] + 1


def test_flags_are_recorded_as_overrides_that_a_config_takes():
    flags = _flags(RunOptions('a.py', amp=True, auto_scale_lr=True))
    cfg = load_config(CONFIG, parse_options([f'{key}={value}' for key, value in flags.items()]))
    assert (cfg.optim_wrapper.type, cfg.auto_scale_lr.enable) == ('AmpOptimWrapper', True)
    assert _flags(RunOptions('a.py')) == {}


def test_a_test_without_the_flags_of_the_training_is_of_the_same_config():
    def entry(**flags):
        options = RunOptions(str(CONFIG), cfg_options={'model.backbone.num_patterns': 2}, **flags)
        return record(source_of(options), checkpoint=None, metrics={}, seconds=1.0, seed=0)

    plain, flagged = entry(), entry(amp=True, auto_scale_lr=True)
    assert flagged['digest_without_flags'] == plain['config']['digest'] != flagged['config']['digest']
    assert 'digest_without_flags' not in plain


def test_seconds_before_a_resumption_count():
    runner = SimpleNamespace(_resume=True)
    meta = {}
    hook = MetricsHook()
    hook.after_load_checkpoint(runner, {'meta': {'train_seconds': 1000.0}})
    hook.before_save_checkpoint(runner, {'meta': meta})
    assert 1000 < meta['train_seconds'] < 1100
    hook.after_load_checkpoint(runner, {'meta': {}})  # of before they were kept
    assert hook.seconds is None
    hook.before_save_checkpoint(runner, {'meta': meta})
    assert meta['train_seconds'] is None
    hook = MetricsHook()
    hook.after_load_checkpoint(SimpleNamespace(_resume=False), {'meta': {'train_seconds': 1000.0}})
    assert 0 < hook.seconds < 100  # weights to start from are no part of the training


def test_code_of_before_a_resumption_is_recorded():
    old, new, meta = {'commit': '0' * 40, 'dirty': False}, {'commit': '1' * 40, 'dirty': True}, {}
    MetricsHook(code=old).before_save_checkpoint(None, {'meta': meta})
    assert meta['code'] == [old]
    for code, expected in ((old, old), (new, {**new, 'earlier': [old]})):
        hook = MetricsHook(code=code)
        hook.after_load_checkpoint(SimpleNamespace(_resume=True), {'meta': meta})
        assert hook.code == expected
    hook.before_save_checkpoint(None, {'meta': meta})
    assert meta['code'] == [old, new]
    assert commit_words(hook.code) == '0000000000 then 1111111111+changes'


def test_what_a_training_started_from_is_known_after_a_stop_and_its_record_after_its_end(trained, bench):
    start = bench / 'start.pth'
    shutil.copy(trained[0] / 'epoch_1.pth', start)
    expected = [{'file': 'start.pth', 'sha256': file_digest(start)['sha256']}]
    args = ('train.py', 'mine.py', '--work-dir', 'tuned', '--resume', '--cfg-options', 'data_root=data')
    work_dir = bench / 'tuned'

    def entry(*options):
        done = run_tool(*args, *options, cwd=bench)
        assert done.returncode == 0, done.stderr
        return json.loads((work_dir / 'metrics.json').read_text())['train'], done.stdout + done.stderr

    assert entry('load_from=start.pth')[0]['weights'] == expected
    start.unlink()
    (work_dir / 'record.json').write_text('{}')
    longer, printed = entry('train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=0.5')
    assert 'keeps what its checkpoint says: learning rate of parameter group 0 0.002, not 0.5; ' in printed
    assert (longer['iterations'], longer['weights']) == (4, expected)
    assert not (work_dir / 'record.json').exists()  # it was of one epoch
    (work_dir / 'record.json').write_text('{}')
    again, printed = entry('train_cfg.max_epochs=2')
    assert again == longer
    assert longer['metrics'], 'nothing that could be lost'
    assert 'nothing was left to train' in printed
    assert (work_dir / 'record.json').exists()


def test_the_best_checkpoint_of_an_original_outlives_its_copy(trained, bench):
    """mmengine removes the best one by the path that was noted; a copy that gets better has to remove its own."""
    best = next(trained[0].glob('best_*.pth'))
    copied = bench / 'copied'
    shutil.copytree(trained[0], copied)
    content = compat.load_checkpoint(copied / 'epoch_1.pth')
    assert content['message_hub']['runtime_info']['best_ckpt'] == str(best)
    for own in (True, False):
        runner = SimpleNamespace(_resume=True, work_dir=str(copied))
        MetricsHook().after_load_checkpoint(runner, content)
        noted = content['message_hub']['runtime_info']
        assert noted.get('best_ckpt') == (str(copied / best.name) if own else None)
        assert ('best_score' in noted) is own  # else nothing would be the best until that is beaten
        (copied / best.name).unlink(missing_ok=True)
    content['message_hub']['runtime_info']['best_score'] = -1.0  # whatever comes next is better
    content['message_hub']['runtime_info']['best_ckpt'] = str(best)
    torch.save(content, copied / 'epoch_1.pth')
    args = ('--work-dir', 'copied', '--resume', '--cfg-options', 'data_root=data', 'train_cfg.max_epochs=2')
    done = run_tool('train.py', 'mine.py', *args, cwd=bench)
    assert done.returncode == 0, done.stderr
    assert best.is_file()
    assert [one.name for one in copied.glob('best_*.pth')] == [best.name.replace('epoch_1', 'epoch_2')]


@pytest.mark.parametrize(('lr', 'said'), [(0.1, ''), (0.2, 'says: learning rate 0.1, not 0.2; for what')])
def test_what_a_resumed_training_does_not_follow_is_said(lr, said, caplog):
    """The rate of now is a moving one; that which it is moved from is to be the config's."""

    def runner(lr):
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr)
        wrapper, schedule = OptimWrapper(optimizer), LinearLR(optimizer, 0.5, begin=0, end=4)
        logger = logging.getLogger('resumed')
        return SimpleNamespace(
            optim_wrapper=wrapper, param_schedulers=[schedule], logger=logger, _resume=True, iter=2, max_iters=4, rank=1
        )

    before, after, hook = runner(0.1), runner(lr), MetricsHook()
    for _ in range(2):
        before.optim_wrapper.step()
        before.param_schedulers[0].step()
    hook.before_run(after)
    after.optim_wrapper.load_state_dict(before.optim_wrapper.state_dict())
    after.param_schedulers[0].load_state_dict(before.param_schedulers[0].state_dict())
    hook.before_train(after)
    assert [said in one.message for one in caplog.records] == ([True] if said else [])


def test_no_config_of_a_checkpoint_is_run(tmp_path):
    """Also in the ranks that check nothing: mmengine runs it after this hook."""
    checkpoint = {'meta': {'config': 'raise SystemExit', 'iter': 1}}
    MetricsHook().after_load_checkpoint(SimpleNamespace(_resume=True, work_dir=str(tmp_path)), checkpoint)
    assert checkpoint['meta'] == {'iter': 1}


def test_mpi_needs_a_host_and_takes_the_gpu_of_its_rank(monkeypatch):
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '9')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_RANK', '1')
    for name in ('MASTER_ADDR', 'LOCAL_RANK'):
        monkeypatch.setenv(name, 'to be put back')
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match='--launcher mpi: MASTER_ADDR is not set'):
        _check_launcher('mpi')
    monkeypatch.setenv('MASTER_ADDR', 'node0')
    _check_launcher('mpi')
    run_options(SimpleNamespace(config='mine.py', launcher='mpi', local_rank=0, cfg_options=None))
    assert os.environ['LOCAL_RANK'] == '1'


def test_norms_over_all_processes_are_those_of_each_without_gpus(capsys):
    cfg = load_config(REPO / 'configs' / 'seg' / 'lisa-t_fpn_8xb2-80k_ade20k-512x512.py')
    assert 'SyncBN' in cfg.pretty_text
    _without_sync_norms(cfg)
    assert "type='SyncBN'" not in Config(cfg.model).pretty_text
    assert capsys.readouterr().out == 'SyncBN needs GPUs: here each process has batch norms of its own\n'
    _without_sync_norms(cfg)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('width', [192, 96])
def test_a_head_of_images_of_another_width_is_told(width):
    cfg = load_config(REPO / 'configs' / 'pretrain' / 'lisa-p_mini-imagenet.py', {'model.head.in_channels': width})
    model = build_model(cfg.model, cfg.data_preprocessor)
    if width == 192:
        check_channels(model)
        return
    with pytest.raises(
        UserError, match=r'model\.head takes 96 channels and is given 192; set model\.head\.in_channels=192'
    ):
        check_channels(model)


def test_a_record_is_of_the_files_that_the_run_started_with(bench, monkeypatch):
    monkeypatch.chdir(bench)
    shutil.copy('mine.py', 'passing.py')
    options = RunOptions('passing.py', work_dir='passing', cfg_options={'data_root': 'data'})
    expected = source_of(options)
    build = runner_module.build_runner

    def change_and_build(cfg):
        Path('passing.py').unlink()
        monkeypatch.setattr(runner_module, 'code_state', lambda: {'commit': 'another', 'dirty': False})
        return build(cfg)

    monkeypatch.setattr(runner_module, 'build_runner', change_and_build)
    result = run_training(options)
    assert {key: result[key] for key in expected} == expected
    assert json.loads((bench / 'passing' / 'metrics.json').read_text())['train']['config'] == expected['config']


def test_weights_of_a_url_are_tested_and_recorded(trained, bench, monkeypatch, tmp_path):
    monkeypatch.chdir(bench)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    for name in ('no_proxy', 'NO_PROXY'):
        monkeypatch.setenv(name, '127.0.0.1')
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(trained[0]))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/epoch_1.pth'
        result = run_test(RunOptions('mine.py', work_dir='by-url', cfg_options={'data_root': 'data'}), url)
        server.shutdown()
    assert result['weights'] == {'file': url, 'sha256': file_digest(trained[0] / 'epoch_1.pth')['sha256']}
    assert json.loads((bench / 'by-url' / 'metrics.json').read_text())['test']['weights'] == result['weights']


@pytest.mark.parametrize(('times', 'ratio'), [(1, 0.5), (2, 1.0), (4, 2.0)])
def test_scaled_rate_counts_accumulated_batches(bench, monkeypatch, tmp_path, times, ratio):
    monkeypatch.chdir(bench)
    given = {'data_root': 'data', 'optim_wrapper.accumulative_counts': times}
    options = RunOptions('mine.py', work_dir=str(tmp_path), cfg_options=given, auto_scale_lr=True)
    cfg = prepare(options)
    built = runner_module.build_runner(cfg)
    assert built.cfg.auto_scale_lr.base_batch_size == 8  # of the recipe, as it is written into the work directory
    wrapper = built.build_optim_wrapper(built.optim_wrapper)
    rates = [group['lr'] for group in wrapper.optimizer.param_groups]
    built.scale_lr(wrapper, built.auto_scale_lr)
    assert [group['lr'] for group in wrapper.optimizer.param_groups] == pytest.approx([lr * ratio for lr in rates])


def test_processes_without_gpus_wait_as_long_as_the_checks_take(bench, monkeypatch):
    class Stop(Exception):
        pass

    def init(backend, timeout):
        raise Stop(backend, timeout)

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'init_process_group', init)
    cfg = prepare(RunOptions(str(CONFIG), launcher='pytorch', check_images='all'))
    with pytest.raises(Stop) as told:
        runner_module.build_runner(cfg)
    assert told.value.args == ('gloo', timedelta(days=1))


def test_a_file_is_found_in_a_work_directory_that_was_moved(tmp_path):
    old, new = tmp_path / 'old', tmp_path / 'new'
    old.mkdir()
    (old / 'best.pth').write_text('')
    assert file_in(old, str(old / 'best.pth')) == str(old / 'best.pth')
    old.rename(new)
    assert file_in(new, str(old / 'best.pth')) == str(new / 'best.pth')
    assert file_in(new, str(old / 'gone.pth')) is None
    shutil.copytree(new, old)  # a copy has its own, which may be another since
    assert file_in(old, str(new / 'best.pth')) == str(old / 'best.pth')
    assert file_in(tmp_path, str(new / 'best.pth')) == str(new / 'best.pth')


def test_what_was_cut_off_falls_back_to_the_newest_whole_checkpoint(trained, tmp_path, capsys):
    work_dir = tmp_path / 'work'
    shutil.copytree(trained[0], work_dir)
    (work_dir / 'last_checkpoint').write_text('')
    whole = (work_dir / 'epoch_1.pth').read_bytes()
    (work_dir / 'epoch_2.pth').write_bytes(whole[: len(whole) // 2])  # interrupted while it was written
    assert latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_1.pth')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))  # it was written again, as the best
    assert latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_1.pth')
    assert 'epoch_2.pth is damaged' in capsys.readouterr().out
    (work_dir / 'epoch_1.pth').unlink()
    with pytest.raises(UserError, match=r'epoch_2\.pth is damaged'):
        latest_checkpoint(str(work_dir))
    (work_dir / 'epoch_2.pth').unlink()
    with pytest.raises(UserError, match=r'last_checkpoint names .* gone; give a file with --resume FILE'):
        latest_checkpoint(str(work_dir))


def test_a_best_checkpoint_that_was_cut_off_is_passed_over_in_testing(trained, tmp_path, capsys):
    work_dir = tmp_path / 'work'
    shutil.copytree(trained[0], work_dir)
    best = next(work_dir.glob('best_*.pth'))
    assert checkpoint_to_test(str(work_dir)) == str(best)
    whole = best.read_bytes()
    best.write_bytes(whole[: len(whole) // 2])  # interrupted while it was written
    assert checkpoint_to_test(str(work_dir)) == str(work_dir / 'epoch_1.pth')
    assert f'{best.name} is damaged' in capsys.readouterr().out
    (work_dir / 'epoch_1.pth').unlink()
    with pytest.raises(UserError, match=rf'{best.name} is damaged'):
        checkpoint_to_test(str(work_dir))
    best.unlink()
    (work_dir / 'last_checkpoint').unlink()
    with pytest.raises(UserError, match=r'there is no checkpoint in .*work; train first'):
        checkpoint_to_test(str(work_dir))


def test_nothing_to_resume_starts_anew_and_distributed_needs_every_parameter(bench):
    """Two processes on the CPU: DistributedDataParallel stops at a parameter that gets no gradient."""
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    args = ['mine.py', '--work-dir', 'ddp', '--launcher', 'pytorch', '--resume', '--auto-scale-lr']
    done = subprocess.run(
        [*torchrun, str(REPO / 'tools' / 'train.py'), *args, '--cfg-options', 'data_root=data'],
        cwd=bench,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-3000:]
    assert printed.count('nothing to resume in ddp: starting from the beginning') == 1
    assert progress(bench / 'ddp') == 1  # 8 images, twice 4
    assert 'meant for a total batch' not in printed


# ------------------------------------------------------------------------------------------------------------ bad input


def spoil_data(bench, name, change):
    folder = bench / name
    shutil.copytree(bench / 'data', folder)
    (folder / 'mini.json').unlink(missing_ok=True)  # an own set, not one that can be made anew
    ann_file = folder / 'annotations' / 'instances_train2017.json'
    content = json.loads(ann_file.read_text())
    change(content, folder / 'train2017')
    ann_file.write_text(json.dumps(content))
    return folder


def first_image(content, images):
    return images / content['images'][0]['file_name']


def truncate(content, images):
    path = first_image(content, images)
    path.write_bytes(path.read_bytes()[:-200])


def garble(content, images):
    for image in content['images']:
        (images / image['file_name']).write_bytes(b'no image at all')


# Through the command line, since that is where a user meets them.
CASES = {
    'config path': (['train.py', 'mien.py'], r'config mien\.py does not exist; did you mean .*mine\.py'),
    'unknown key': (
        ['train.py', 'mine.py', 'optim_wraper.optimizer.lr=1'],
        "nothing reads 'optim_wraper'; did you mean 'optim_wrapper'",
    ),
    'data root': (['train.py', 'mine.py', 'data_root=absent'], r'there is no data root absent'),
    'missing image': (['train.py', 'mine.py', 'data_root=missing'], r'instances_train2017\.json names \S+\.jpg'),
    'truncated image': (['train.py', 'mine.py', 'data_root=truncated'], r'truncated/train2017/\S+ is truncated'),
    'no annotations': (['train.py', 'mine.py', 'data_root=empty'], r"'annotations' in \S+ is empty"),
    'broken images while training': (
        ['train.py', 'mine.py', '--check-images', 'none', 'data_root=garbled'],
        r'garbled/train2017/\S+\.jpg .*go on with --resume',
    ),
    'arch': (
        ['train.py', 'mine.py', 'data_root=data', 'model.backbone.arch=picco'],
        r"arch 'picco' is unknown to LiSA \(did you mean 'pico'\?\)",
    ),
    'image channels': (
        ['train.py', 'mine.py', 'data_root=data', 'model.backbone.in_channels=4'],
        r'built for images \(N, 4, H, W\).*the data have 3 channels',
    ),
    'weights of another arch': (
        ['train.py', 'mine.py', 'data_root=data', 'model.backbone.init_cfg.checkpoint=wide.pth'],
        r'weight file wide\.pth fills \d+ of the \d+ keys of model\.backbone .*another shape.*--min-fit',
    ),
    'weights of another model tested': (
        ['test.py', 'mine.py', 'weights.pth', 'data_root=data', 'model.roi_head.bbox_head.num_classes=3'],
        r'[1-9] keys have another shape, such as \S+fc_cls\.weight, \(11, 256\) in the file and \(4, 256\) in',
    ),
    'cut checkpoint resumed': (
        ['train.py', 'mine.py', 'data_root=data', '--resume', 'cut.pth'],
        r'cut\.pth is damaged',
    ),
    'payload in pretrained weights': (
        ['train.py', 'mine.py', 'data_root=data', 'model.backbone.init_cfg.checkpoint=payload.pth'],
        r'payload\.pth was refused because loading it would run \w+\.mkdir',
    ),
    'payload resumed': (
        ['train.py', 'mine.py', 'data_root=data', '--resume', 'payload.pth'],
        r'payload\.pth was refused because loading it would run \w+\.mkdir',
    ),
    'payload tested': (
        ['test.py', 'mine.py', 'payload.pth', 'data_root=data'],
        r'payload\.pth was refused because loading it would run \w+\.mkdir',
    ),
}

# The same checks without a process for each: what the command line would be told.
INSIDE = {
    'key of the config': (
        {'config': 'typo.py'},
        {},
        "'default_hook', which nothing reads; did you mean 'default_hooks'",
    ),
    'parameter of a class': ({'config': 'parameter.py'}, {}, "LiSA takes no parameter 'drop_path'"),
    'type': ({}, {'model.neck.type': 'FPNN'}, "type='FPNN' is not among the models of mmdet, .*did you mean 'FPN'"),
    'classes': (
        {},
        {'train_dataloader.dataset.metainfo.classes': ['zero', 'ten']},
        r"train_dataloader\.dataset: the config's class 'ten' is not a category",
    ),
    'evaluator': (
        {},
        {'val_evaluator.ann_file': 'absent.json'},
        r'val_evaluator\.ann_file: absent\.json does not exist',
    ),
    'feature channels': (
        {},
        {'model.neck.in_channels': [32, 64, 128, 256]},
        r'set model\.neck\.in_channels=\[32,64,128,192\]',
    ),
    'number of feature maps': (
        {},
        {'model.backbone.out_indices': [1, 2, 3]},
        r'model\.neck takes feature maps of .* and model\.backbone gives \[64, 128, 192\]',
    ),
    'model': ({}, {'model': 3}, r'mine\.py has no model; give a whole config'),
    'epochs': ({}, {'train_cfg.max_epochs': 'abc'}, r"train_cfg\.max_epochs='abc' must be a whole number above 0"),
    'interval': ({}, {'train_cfg.val_interval': 0}, r'train_cfg\.val_interval=0 must be a whole number above 0'),
    'batch size': ({}, {'train_dataloader.batch_size': 0}, r'train_dataloader\.batch_size=0 must be a whole number'),
    'workers': ({}, {'val_dataloader.num_workers': -1}, r'val_dataloader\.num_workers=-1 must be a whole number'),
    'learning rate': ({}, {'optim_wrapper.optimizer.lr': -1}, r'optimizer\.lr=-1 must be a number, not below 0'),
    'log level': ({}, {'log_level': 'INFOO'}, "log_level='INFOO' is unknown; did you mean 'INFO'"),
    'number of classes': (
        {},
        {'model.roi_head.bbox_head.num_classes': 0},
        r'model\.roi_head\.bbox_head\.num_classes=0 must be a whole number above 0',
    ),
    'pictures in a file': ({'show_dir': 'mine.py'}, {}, r'--show-dir mine\.py cannot be made: .*mine\.py is a file'),
    'nothing to train': ({}, {'train_cfg': None}, 'has no train_cfg, so there is nothing to train'),
    'work dir': ({'work_dir': 'mine.py/work'}, {}, r'work dir mine\.py/work cannot be made: .*mine\.py is a file'),
    'amp without a GPU': ({'amp': True}, {}, 'mixed precision, which mmengine offers on a GPU only'),
    'pretrained file': (
        {},
        {'model.backbone.init_cfg.checkpoint': 'absent.pth'},
        r'checkpoint absent\.pth is not a file',
    ),
    'no prefix': (
        {},
        {'model.backbone.init_cfg.checkpoint': 'bare.pth'},
        r'set model\.backbone\.init_cfg\.prefix=None',
    ),
    'payload in load_from': ({}, {'load_from': 'payload.pth'}, r'payload\.pth was refused'),
    'weights alone resumed': ({'resume': 'weights.pth'}, {}, r'weights\.pth has no meta and cannot be resumed'),
}


@pytest.fixture(scope='session')
def spoilt(bench, trained):
    """Everything bad that the cases name."""
    (bench / 'typo.py').write_text("_base_ = './mine.py'\ndefault_hook = dict(logger=dict(interval=5))\n")
    (bench / 'parameter.py').write_text("_base_ = './mine.py'\nmodel = dict(backbone=dict(drop_path=0.1))\n")
    spoil_data(bench, 'missing', lambda content, images: first_image(content, images).unlink())
    spoil_data(bench, 'truncated', truncate)
    spoil_data(bench, 'empty', lambda content, images: content.update(annotations=[]))
    spoil_data(bench, 'garbled', garble)
    checkpoint = trained[0] / 'epoch_1.pth'
    content = compat.load_checkpoint(checkpoint)
    state = content['state_dict']
    torch.save({'state_dict': state}, bench / 'weights.pth')
    prefix = 'backbone.'
    torch.save({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}, bench / 'bare.pth')
    wide = {
        k: torch.cat([v, v]) if 'stages.3' in k and v.dim() else v for k, v in state.items() if k.startswith(prefix)
    }
    torch.save(wide, bench / 'wide.pth')
    (bench / 'cut.pth').write_bytes(checkpoint.read_bytes()[:-5000])
    torch.save({**content, 'extra': Payload(bench / PLANTED)}, bench / 'payload.pth')
    return bench


def work_dir_of(name):
    return 'work-' + name.replace(' ', '-')


@pytest.fixture(scope='session')
def outcomes(spoilt):
    """All bad calls, two at a time, each as a future."""

    def run(name):
        tool, config, *rest = CASES[name][0]
        options = [arg for arg in rest if '=' in arg]
        others = [arg for arg in rest if '=' not in arg]
        more = ['--cfg-options', *options] if options else []
        return run_tool(tool, config, *others, '--work-dir', work_dir_of(name), *more, cwd=spoilt)

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(functools.partial(run, name)) for name in CASES}


@pytest.mark.parametrize('name', CASES)
def test_bad_input_is_one_sentence(name, outcomes, spoilt):
    done = outcomes[name].result()
    assert done.returncode == 2, done.stdout + done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(sentences) == 1, done.stderr
    assert re.search(CASES[name][1], sentences[0]), sentences[0]
    assert 'Traceback' not in done.stderr
    assert not (spoilt / PLANTED).exists()
    if 'while training' not in name:
        assert not (spoilt / work_dir_of(name)).exists(), 'something was created'


@pytest.mark.parametrize('name', INSIDE)
def test_bad_input_is_refused_before_anything_is_created(name, spoilt, monkeypatch):
    monkeypatch.chdir(spoilt)
    fields, options, said = INSIDE[name]
    fields = {'config': 'mine.py', 'work_dir': work_dir_of(name), **fields}
    with pytest.raises(UserError, match=said):
        run_training(RunOptions(cfg_options={'data_root': 'data', **options}, **fields))
    assert not (spoilt / work_dir_of(name)).exists()
    assert not (spoilt / PLANTED).exists()


def test_every_head_of_a_cascade_is_looked_at():
    heads = [{'num_classes': 2}, {'num_classes': 0}]
    with pytest.raises(UserError, match=r'model\.roi_head\.bbox_head\.1\.num_classes=0 must be a whole number'):
        _check_values(Config({'model': {'roi_head': {'bbox_head': heads}}}))
    _check_values(Config({'model': {'roi_head': {'bbox_head': heads[:1]}, 'backbone': {'num_classes': 0}}}))


def test_classes_of_any_registry_are_proposed():
    for registry, name, known in ((OPTIMIZERS, 'AdamWW', 'AdamW'), (OPTIM_WRAPPERS, 'OptimWraper', 'OptimWrapper')):
        with pytest.raises(KeyError) as caught:
            registry.build({'type': name})
        said = explain_build_error(caught.value)
        assert re.search(f"type='{name}' is not among the {registry.name}s of mm[a-z]+", said)  # of the current scope
        assert said.endswith(f"did you mean '{known}'?")


def test_testing_without_a_checkpoint(spoilt, monkeypatch):
    monkeypatch.chdir(spoilt)
    with pytest.raises(UserError, match='there is no checkpoint in none; train first'):
        run_test(RunOptions(config='mine.py', work_dir='none', cfg_options={'data_root': 'data'}))


def test_names_that_are_empty_and_launchers_that_did_not_launch(spoilt, monkeypatch):
    monkeypatch.chdir(spoilt)
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    given = {'config': 'mine.py', 'work_dir': 'empty-names', 'cfg_options': {'data_root': 'data'}}
    with pytest.raises(UserError, match='--resume: the name of the checkpoint is empty'):
        run_training(RunOptions(**given, resume=''))
    with pytest.raises(UserError, match='the name of the checkpoint is empty'):
        run_test(RunOptions(**given), '')
    for launcher, how in (('pytorch', 'torchrun'), ('slurm', 'srun')):
        for run in (run_training, run_test):
            with pytest.raises(UserError, match=f'--launcher {launcher}: start this command with {how}'):
                run(RunOptions(**given, launcher=launcher))
    assert not (spoilt / 'empty-names').exists()


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (('--seed', '-1'), 'argument --seed: -1 is no seed'),
        (('--seed', str(2**32)), 'is no seed'),
        (('--min-fit', '5'), 'argument --min-fit: 5 is no share'),
        (('--min-fit', 'nan'), 'nan is no share'),
    ],
)
def test_numbers_outside_their_range(words, said, capsys):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(list(words))
    assert said in capsys.readouterr().err


def test_the_payload_is_live(spoilt):
    """Unpickled freely, the planted file does run: the refusals above refuse something."""
    code = (
        "import os; os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None); import torch; "
        "torch.load('payload.pth', weights_only=False)"
    )
    env = {k: v for k, v in os.environ.items() if k != 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'}
    subprocess.run([sys.executable, '-c', f'import mmengine; {code}'], cwd=spoilt, env=env, check=False)
    assert (spoilt / PLANTED).is_dir()
    (spoilt / PLANTED).rmdir()


# ------------------------------------------------------------------------------------------------------------ rehearsal


def test_rehearsal_of_a_wrapped_dataset_and_pretrained_weights(spoilt):
    (spoilt / 'wrapped.py').write_text(
        "_base_ = './mine.py'\n"
        'inner = {{_base_.train_dataloader.dataset}}\n'
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=3, dataset=inner))\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1000, val_interval=100)\n"
        'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=100))\n'
        "optim_wrapper = dict(type='AmpOptimWrapper')\n"
        'param_scheduler = []\n'
    )
    options = ['data_root=data', 'load_from=weights.pth', 'model.backbone.frozen_stages=1']
    words = ['wrapped.py', '--work-dir', 'tried', '--rehearse', '--cfg-options', *options]
    done = run_tool('train.py', *words, cwd=spoilt)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((spoilt / 'tried' / 'rehearsal' / 'rehearse.json').read_text())
    assert report['datasets'] == {'train': 3 * TRAIN_IMAGES, 'val': VAL_IMAGES}
    assert report['total_batch'] == BATCH
    assert report['steps'] == 1000
    assert len(report['losses']) == 4
    assert [w['target'] for w in report['weights']] == ['model.backbone', 'model']
    assert all(w['keys_filled'] == w['keys'] for w in report['weights'])
    parameters = report['parameters']
    assert 0 < parameters['backbone']['frozen'] < parameters['backbone']['total']
    assert parameters['all']['total'] - parameters['all']['frozen'] == sum(g['parameters'] for g in report['optimizer'])
    assert {g['weight_decay'] for g in report['optimizer']} == {0.0, 0.05}
    assert report['without_gradient'] == []
    assert report['checkpoint']['resumable'] is True
    assert any('mixed precision' in change for change in report['changed_for_the_rehearsal'])
    assert not list((spoilt / 'tried').rglob('*.pth'))
    assert 'rehearsal passed' in done.stdout


def test_rehearsal_finds_a_crash(spoilt):
    (spoilt / 'crash.py').write_text("_base_ = './mine.py'\nval_evaluator = dict(metric=['bbox', 'no_such_metric'])\n")
    done = run_tool('train.py', 'crash.py', '--rehearse', '--cfg-options', 'data_root=data', cwd=spoilt)
    assert done.returncode not in (0, 2)
    assert 'no_such_metric' in done.stderr
    assert 'rehearsal passed' not in done.stdout


def test_the_parts_of_a_step(bench):
    args = (
        'mine.py',
        '--warmup',
        '1',
        '--out',
        'steps.csv',
        '--cfg-options',
        'data_root=data',
        'train_cfg.max_epochs=2',
    )
    done = run_tool('profile_step.py', *args, '--iterations', '2', cwd=bench)
    assert done.returncode == 0, done.stderr
    (row,) = read_rows(bench / 'steps.csv')
    options = 'data_root=data train_cfg.max_epochs=2'
    assert (row['config'], row['options'], row['batch']) == ('mine.py', options, str(BATCH))
    assert sum(float(row[f'{part} ms']) for part in PARTS) == pytest.approx(float(row['ms']), abs=0.05)  # two decimals
    assert all(float(row[f'{part} ms']) > 0 for part in PARTS if part != 'rest')
    assert done.stdout.splitlines()[-1].startswith(f'| mine.py {options} | {BATCH} | ')
    done = run_tool('profile_step.py', *args, cwd=bench)
    assert done.returncode == 2
    assert f'error: steps.csv holds config mine.py, options {options} already; name another --out' in done.stderr
    done = run_tool('profile_step.py', *args, '--iterations', '9', '--out', 'others.csv', cwd=bench)
    assert done.returncode == 2
    assert 'error: mine.py trains for 4 iterations and 10 were asked for; lower --iterations' in done.stderr


def test_other_processes_wait_for_the_checks_of_the_first():
    def patience(**options):
        return prepare(RunOptions(config=str(CONFIG), **options)).env_cfg.dist_cfg.get('timeout')

    assert patience() is None
    assert patience(launcher='pytorch') == 3600
    assert patience(launcher='slurm', check_images='all') == 24 * 3600
    assert patience(launcher='pytorch', cfg_options={'env_cfg.dist_cfg.timeout': 60}) == 60
