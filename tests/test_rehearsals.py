"""Rehearsals of many configs: which ones, on which data, what is kept and what is told."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmdet')
pytest.importorskip('mmcv')

from mmengine.config import Config  # noqa: E402

from lisa_backbone import rehearsals  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.rehearsals import (  # noqa: E402
    STAND_INS,
    Rehearsal,
    find_configs,
    make_stand_in,
    read_results,
    rehearse_all,
    sample,
    stand_in_of,
    table,
)
from lisa_backbone.rehearse import _iterations, shrink  # noqa: E402

REPO = Path(__file__).parents[1]
CONFIGS = REPO / 'configs'

# Stands for tools/train.py: notes down how it was called and fails for a config whose text says so.
TRAIN = """
import json, pathlib, sys
config, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
with open({calls!r}, 'a') as file:
    print(*sys.argv[1:], file=file)
if 'broken' in config.read_text():
    sys.exit('error: the data are broken; mend them')
(work / 'rehearsal').mkdir(parents=True, exist_ok=True)
(work / 'rehearsal' / 'epoch_1.pth').touch()
report = dict(parameters=dict(all=dict(total=1500000)), peak_memory_gib=0.25)
(work / 'rehearsal' / 'rehearse.json').write_text(json.dumps(report))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two configs, and what train.py would have been called with."""
    (tmp_path / 'configs' / 'det').mkdir(parents=True)
    (tmp_path / 'configs' / 'det' / 'good.py').write_text("data_root = 'data/mini_coco/'\n")
    (tmp_path / 'configs' / 'other.py').write_text("data_root = 'elsewhere'\n")
    (tmp_path / 'train.py').write_text(TRAIN.format(calls=str(tmp_path / 'calls.txt')))
    monkeypatch.setattr(rehearsals, 'make_stand_in', lambda folder, data: made.append((folder, data)))
    made = []
    return tmp_path, made


def rehearse_in(folder, **more):
    configs = find_configs([], folder / 'configs')
    return rehearse_all(configs, folder / 'configs', folder / 'train.py', folder / 'out', **more)


def calls(folder):
    path = folder / 'calls.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


# ------------------------------------------------------------------------------------------------------ which configs


def test_all_configs_are_found_and_no_parts_of_them():
    found = find_configs([], CONFIGS)
    assert found == sorted(path for path in CONFIGS.rglob('*.py') if CONFIGS / '_base_' not in path.parents)
    assert CONFIGS / 'det' / 'mask-rcnn_lisa-p_fpn_mini-coco.py' in found
    one = CONFIGS / 'det' / 'mask-rcnn_lisa-t_fpn_1x_coco.py'
    assert find_configs([one, CONFIGS / 'det'], CONFIGS) == find_configs([CONFIGS / 'det'], CONFIGS)
    assert find_configs([str(one)], CONFIGS) == [one]


def test_configs_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r'config no\.py does not exist'):
        find_configs(['no.py'], CONFIGS)
    with pytest.raises(UserError, match='there is no config in'):
        find_configs([tmp_path], CONFIGS)


@pytest.mark.parametrize(('total', 'count'), [(52, 3), (13, 5), (7, 7), (7, 10), (1, 1), (10, 1)])
def test_samples_in_turn_cover_all_once(total, count):
    configs = [Path(f'{i:03d}.py') for i in range(total)]
    days = -(-total // count)
    for first in (0, 738000):
        parts = [sample(configs, count, first + day) for day in range(days)]
        assert sorted(path for part in parts for path in part) == configs
        assert all(1 <= len(part) <= count for part in parts)
        assert sample(configs, count, first + days) == parts[0]


def test_a_sample_is_spread():
    assert [int(p.stem) for p in sample([Path(f'{i}.py') for i in range(12)], 3, 6)] == [2, 6, 10]
    with pytest.raises(UserError, match='--sample 0 is not positive'):
        sample([Path('a.py')], 0, 0)


# ---------------------------------------------------------------------------------------------------------- which data


@pytest.mark.parametrize(
    ('data_root', 'folder'),
    [
        ('data/coco/', 'coco'),
        ('data/mini_coco/', 'mini_coco'),
        ('data/ade/ADEChallengeData2016', 'ade/ADEChallengeData2016'),
        ('data/imagenet/', 'imagenet'),
        ('/mnt/coco/', None),
        ('', None),
    ],
)
def test_stand_in_follows_from_the_data_root(data_root, folder):
    assert stand_in_of(data_root) == folder


def test_every_data_set_of_the_configs_has_a_stand_in():
    """By the text of the files, since to read all configs takes a minute; COCO's root is in mmdet's own base."""
    texts = [path.read_text() for path in CONFIGS.rglob('*.py')]
    roots = [root for text in texts for root in re.findall(r"^data_root = '(.*)'$", text, re.MULTILINE)]
    assert len(roots) >= 9
    assert {stand_in_of(root) for root in roots} == set(STAND_INS) - {'coco'}
    assert rehearsals._read(CONFIGS / 'det' / 'retinanet_lisa-t_fpn_1x_coco.py')[1] == 'data/coco/'


def test_stand_in_for_coco_has_its_categories_and_is_made_once(tmp_path):
    root = make_stand_in('coco', tmp_path)
    assert root == tmp_path / 'coco'
    data = json.loads((root / 'annotations' / 'instances_train2017.json').read_text())
    assert len(data['categories']) == 80
    assert len(data['images']) == 8
    made = (root / 'mini.json').stat().st_mtime_ns
    make_stand_in('coco', tmp_path)
    assert (root / 'mini.json').stat().st_mtime_ns == made
    record = json.loads((root / 'mini.json').read_text())
    record['parameters']['generator'] = 0  # of an older version of the generator
    (root / 'mini.json').write_text(json.dumps(record))
    make_stand_in('coco', tmp_path)
    assert json.loads((root / 'mini.json').read_text())['parameters']['generator'] > 0
    (root / 'mini.json').unlink()  # anything else
    with pytest.raises(UserError, match='not a mini set'):
        make_stand_in('coco', tmp_path)


# ----------------------------------------------------------------------------------------------- what is kept and told


def test_each_config_is_called_with_its_stand_in(place):
    folder, made = place
    good, other = rehearse_in(folder, scale=0.5)
    assert made == [('mini_coco', folder / 'out' / 'data')]
    first, second = sorted(calls(folder))
    work = folder / 'out' / 'runs' / 'det' / 'good'
    assert first.endswith(
        f'det/good.py --rehearse --rehearse-scale 0.5 --work-dir {work} --cfg-options '
        f'data_root={folder / "out" / "data" / "mini_coco"}'
    )
    assert second.endswith(f'other.py --rehearse --rehearse-scale 0.5 --work-dir {folder / "out" / "runs" / "other"}')
    assert (good.config, good.passed, good.parameters, good.peak_memory_gib) == ('det/good.py', True, 1500000, 0.25)
    assert not list(work.rglob('*.pth'))
    assert read_results(folder / 'out' / 'results.jsonl') == [good, other]


def test_real_data_stay_where_the_config_has_them(place):
    folder, made = place
    assert {result.data for result in rehearse_in(folder, real=True)} == {'real'}
    assert made == []
    assert not any('data_root' in call for call in calls(folder))


def test_what_passed_is_passed_over_until_something_differs(place, capsys):
    folder, _ = place
    first = rehearse_in(folder)
    assert len(calls(folder)) == 2
    assert rehearse_in(folder) == first
    assert calls(folder) == []
    assert '2 of 2 configs passed before' in capsys.readouterr().out
    (folder / 'configs' / 'other.py').write_text("data_root = 'elsewhere'\nseed = 1\n")
    rehearse_in(folder)
    assert [call.split()[0].rpartition('/')[2] for call in calls(folder)] == ['other.py']
    rehearse_in(folder, scale=0.5)
    assert len(calls(folder)) == 2
    rehearse_in(folder, again=True)
    assert len(calls(folder)) == 2
    with (folder / 'train.py').open('a') as file:
        file.write('# another script\n')
    rehearse_in(folder)
    assert len(calls(folder)) == 2


def test_what_passed_is_rehearsed_again_after_any_change_of_the_code(place, monkeypatch):
    folder, _ = place
    shutil.copytree(rehearsals.PACKAGE, folder / 'package')
    monkeypatch.setattr(rehearsals, 'PACKAGE', folder / 'package')
    for change in (
        lambda package: (package / 'attention' / 'lisa.py').write_text('# a change\n'),
        lambda package: (package / 'attention' / 'lisa.py').rename(package / 'attention' / 'lisa2.py'),
        lambda package: (package / 'new.py').touch(),
    ):
        rehearse_in(folder)
        calls(folder)
        rehearse_in(folder)
        assert calls(folder) == []
        change(folder / 'package')
        (folder / 'package' / '__pycache__').mkdir(exist_ok=True)
        assert len(rehearse_in(folder)) == len(calls(folder)) == 2
        (folder / 'package' / '__pycache__' / 'new.pyc').touch()  # what an import leaves is no change
        rehearse_in(folder)
        assert calls(folder) == []


def test_failure_is_told_kept_and_tried_again(place):
    folder, _ = place
    (folder / 'configs' / 'other.py').write_text("data_root = 'broken'\n")
    good, other = rehearse_in(folder, jobs=2)
    assert (good.passed, other.passed, other.parameters) == (True, False, None)
    assert other.sentence == 'the data are broken; mend them'
    assert len(calls(folder)) == 2
    printed = table([good, other])
    assert '| det/good.py | passed |' in printed
    assert '| 1.50 M | 0.25 GiB |' in printed
    assert '| other.py | FAILED |' in printed
    assert printed.endswith('other.py: the data are broken; mend them\n1 of 2 configs passed')
    rehearse_in(folder)
    assert len(calls(folder)) == 1


def test_options_that_cannot_be_used(place):
    folder, _ = place
    with pytest.raises(UserError, match='scale 2 is not possible'):
        rehearse_in(folder, scale=2)
    with pytest.raises(UserError, match='--jobs 0 is not positive'):
        rehearse_in(folder, jobs=0)
    assert calls(folder) == []


def test_results_that_were_cut_short_are_passed_over(tmp_path):
    result = Rehearsal('a.py', True, 1.0, 5, 0.1, '', 'd', 'c', 0.25, 'stand-in', 'now')
    path = tmp_path / 'results.jsonl'
    rehearsals._append(path, result)
    with path.open('a') as file:
        file.write('{"config": "b.p')
    rehearsals._append(path, replace(result, config='c.py'))
    assert [r.config for r in read_results(path)] == ['a.py', 'c.py']


@pytest.mark.parametrize(('unit', 'by_epoch'), [('max_epochs', True), ('max_iters', False)])
def test_schedules_keep_their_ends_when_the_training_is_cut_short(unit, by_epoch):
    """Otherwise one that begins after the first epoch and ends with the last would end before it begins."""
    cfg = Config(
        dict(
            model=dict(),
            train_dataloader=dict(batch_size=2),
            train_cfg={unit: 300},
            optim_wrapper=dict(type='OptimWrapper'),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=by_epoch, end=20),
                dict(type='CosineAnnealingLR', by_epoch=by_epoch, begin=20),
                dict(type='LinearLR', by_epoch=not by_epoch),  # its end is not known before the data are
            ],
        )
    )
    shrink(cfg)
    assert cfg.train_cfg[unit] == (1 if by_epoch else 4)
    assert [schedule.get('end') for schedule in cfg.param_scheduler] == [20, 300, None]


def test_sizes_shrink_to_no_less_than_64():
    pipeline = [
        dict(type='Resize', scale=(2048, 512)),
        dict(type='Resize', scale=(-1, 256)),
        dict(type='RandomCrop', crop_size=(224, 48)),
        dict(type='Mosaic', scale=0.5),
    ]
    dataset = dict(pipeline=pipeline)
    cfg = Config(
        dict(
            model=dict(data_preprocessor=dict(size=(512, 512))),
            train_dataloader=dict(batch_size=2, dataset=dataset),
            train_cfg=dict(max_epochs=1),
            optim_wrapper=dict(type='OptimWrapper'),
        )
    )
    shrink(cfg, 0.25)
    sizes = [step.get('scale', step.get('crop_size')) for step in cfg.train_dataloader.dataset.pipeline]
    assert sizes == [(512, 128), (-1, 64), (64, 48), 0.5]
    assert cfg.model.data_preprocessor.size == (128, 128)


def test_the_command_line(tmp_path):
    """A config of the repository, and one that cannot be read, as a user rehearses them."""
    broken = tmp_path / 'broken.py'
    broken.write_text("_base_ = 'nowhere.py'\n")
    good = CONFIGS / 'pretrain' / 'lisa-p_mini-imagenet.py'
    command = [sys.executable, REPO / 'tools' / 'rehearse.py', good, broken, '--out', tmp_path / 'out', '--jobs', 2]
    command += ['--sample', 2, '--offset', 5]
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(list(map(str, command)), env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert 'sample 5, 2 of 2 configs:' in done.stdout
    assert 'broken.py names a base that does not exist' in done.stdout
    assert done.stdout.endswith('1 of 2 configs passed\n')
    broken_result, good_result = sorted(read_results(tmp_path / 'out' / 'results.jsonl'), key=lambda r: r.passed)
    assert good_result.config == 'pretrain/lisa-p_mini-imagenet.py'
    assert 0.9e6 < good_result.parameters < 1.2e6
    assert good_result.peak_memory_gib > 0.1
    assert broken_result.config == str(broken)


@pytest.mark.parametrize(('counts', 'steps'), [(1, 160), (8, 20)])
def test_steps_of_a_schedule_in_iterations_leave_out_accumulated_batches(counts, steps):
    cfg = Config({'train_cfg': {'max_iters': 160}, 'optim_wrapper': {'accumulative_counts': counts}})
    assert _iterations(cfg) == steps
