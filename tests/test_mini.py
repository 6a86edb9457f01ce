"""What all mini sets share."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lisa_backbone.data.mini import COMMANDS, MiniSet, balanced_label, content_digest, fingerprint, remake_command
from lisa_backbone.data.mini_ade20k import MINI_ADE20K
from lisa_backbone.data.mini_coco import MINI_COCO
from lisa_backbone.data.mini_imagenet import MINI_IMAGENET, MiniImagenetParams
from lisa_backbone.data.mini_kinetics import MINI_KINETICS
from lisa_backbone.data.mini_sets import mini_set, standing_record
from lisa_backbone.data.prepare import CACHE, prepare_kinetics
from lisa_backbone.data.scenes import draw_scene, paint_ground, render, scene_rng
from lisa_backbone.data.video import decode_planes, encode_clip
from lisa_backbone.errors import UserError

REPO = Path(__file__).resolve().parent.parent
SETS = [mini_set(command) for command in COMMANDS]
TINY = {'train': 11, 'val': 3}


def snapshot(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sets')
    for mini in SETS:
        assert mini.make(folder / f'mini_{mini.command}', mini.params(**TINY))['made']
    return {mini.command: folder / f'mini_{mini.command}' for mini in SETS}


def test_every_set_has_its_command():
    assert tuple(mini.command for mini in SETS) == COMMANDS
    with pytest.raises(KeyError):
        mini_set('cifar')


@pytest.mark.parametrize('mini', SETS, ids=COMMANDS)
def test_same_parameters_same_bytes(mini, roots, tmp_path):
    root = roots[mini.command]
    again = mini.make(tmp_path / 'again', mini.params(**TINY))
    assert snapshot(tmp_path / 'again') == snapshot(root)
    assert again['fingerprint'] == mini.fingerprint(root) == json.loads((root / 'mini.json').read_text())['fingerprint']
    assert mini.make(root, mini.params(**TINY))['made'] is False
    with pytest.raises(UserError, match='other parameters'):
        mini.make(root, mini.params(seed=1, **TINY))


@pytest.mark.parametrize('mini', SETS, ids=COMMANDS)
def test_more_images_change_none_of_the_first(mini, roots, tmp_path):
    mini.make(tmp_path / 'fewer', mini.params(train=2, val=3))
    whole, fewer = snapshot(roots[mini.command]), snapshot(tmp_path / 'fewer')
    lists = {'.json', '.txt', '.csv'}
    images = [name for name in fewer if Path(name).suffix not in lists]
    assert len(images) == (10 if mini is MINI_ADE20K else 5)
    if mini.command == 'ssv2':  # its ids go on from train to val
        images = images[:2]
    assert all(fewer[name] == whole[name] for name in images)


@pytest.mark.parametrize('mini', SETS, ids=COMMANDS)
def test_record(mini, roots):
    record = json.loads((roots[mini.command] / 'mini.json').read_text())
    assert record['set'] == mini.name
    assert record['parameters'] == mini.params(**TINY).record()
    libraries = {'numpy', 'scipy', 'opencv', 'scikit-learn'} | ({'av'} if mini.unit == 'clip' else set())
    assert set(record['versions']) == libraries
    assert all(value[0].isdigit() for value in record['versions'].values())
    files = snapshot(roots[mini.command])
    assert sum(record['files'].values()) == len(files) - 1  # all but the record
    assert record['sha256'] == content_digest(roots[mini.command])
    assert standing_record(roots[mini.command]) == record


def test_checking_the_videos_of_a_mini_set_leaves_it_as_it_was(roots, tmp_path):
    root = tmp_path / 'kinetics'
    shutil.copytree(roots['kinetics'], root)
    prepare_kinetics(root, show=False)
    assert (root / CACHE).is_file()
    assert standing_record(root) == json.loads((root / 'mini.json').read_text())


@pytest.mark.parametrize('mini', SETS, ids=COMMANDS)
def test_senseless_parameters_are_refused(mini, tmp_path):
    for name, value in (('train', 0), ('val', -3), ('seed', -1), ('size', 30)):
        with pytest.raises(UserError, match=f'--{name}'):
            mini.make(tmp_path / 'out', mini.params(**{name: value}))
    if mini.unit == 'clip':
        with pytest.raises(UserError, match='--size must be even'):
            mini.make(tmp_path / 'out', mini.params(size=65))
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_another_kind_is_never_replaced(roots):
    before = snapshot(roots['imagenet'])
    with pytest.raises(UserError, match='holds a mini ImageNet'):
        MINI_KINETICS.make(roots['imagenet'], overwrite=True)
    assert snapshot(roots['imagenet']) == before


def test_a_set_that_lost_a_file_is_not_taken_for_whole(tmp_path):
    params = MiniImagenetParams(train=3, val=2)
    MINI_IMAGENET.make(tmp_path / 'set', params)
    for lost in ('meta/val.txt', 'LOC_synset_mapping.txt'):
        (tmp_path / 'set' / lost).unlink()
        with pytest.raises(UserError, match='incomplete'):
            MINI_IMAGENET.make(tmp_path / 'set', params)
        assert MINI_IMAGENET.make(tmp_path / 'set', params, overwrite=True)['made']
        assert (tmp_path / 'set' / lost).is_file()
    (tmp_path / 'set' / 'notes.txt').write_text('mine')  # what came later does no harm
    assert MINI_IMAGENET.make(tmp_path / 'set', params)['made'] is False


def test_the_fingerprint_covers_pixels_clips_and_annotations(roots, tmp_path):
    params = MINI_ADE20K.params(train=2, val=1)
    root = tmp_path / 'ade20k'
    whole = MINI_ADE20K.make(root, params)['fingerprint']
    label = root / 'annotations' / 'validation' / 'ADE_val_00000001.png'
    cv2.imwrite(str(label), cv2.imread(str(label), cv2.IMREAD_UNCHANGED), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert fingerprint(root) == whole  # other bytes, the same labels
    labels = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = 15 - labels[0, 0]
    cv2.imwrite(str(label), labels)
    assert fingerprint(root) != whole

    params = MINI_KINETICS.params(train=2, val=1)
    root = tmp_path / 'kinetics'
    whole = MINI_KINETICS.make(root, params)['fingerprint']
    one, two = sorted((root / 'videos_train').rglob('*.mp4'))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    assert fingerprint(root) != whole
    one.write_bytes(kept)
    assert fingerprint(root) == whole
    with (root / 'annotations' / 'train.csv').open('a') as file:
        file.write('one,xxxxxxxxxxx,0,2,train\n')
    assert fingerprint(root) != whole


def test_labels_are_balanced_and_in_no_order():
    labels = [balanced_label(0, 'train', number) for number in range(200)]
    for block in range(20):
        assert sorted(labels[10 * block : 10 * block + 10]) == list(range(10))
    orders = {tuple(labels[10 * block : 10 * block + 10]) for block in range(20)}
    assert len(orders) == 20
    assert labels != [balanced_label(0, 'val', number) for number in range(200)]
    assert labels != [balanced_label(1, 'train', number) for number in range(200)]


def test_remake_command(roots, tmp_path):
    tool = 'python tools/make_mini_data.py'
    for command, root in roots.items():
        assert remake_command(root) == f'{tool} {command} --out {root} --overwrite'
        assert remake_command(tmp_path / f'mini_{command}') == f'{tool} {command} --out {tmp_path / f"mini_{command}"}'
    assert remake_command(tmp_path / 'coco') is None
    assert remake_command(tmp_path / 'mini_cifar') is None
    (tmp_path / 'mini_ssv2').mkdir()
    (tmp_path / 'mini_ssv2' / 'mini.json').write_text('{"set": ')
    assert remake_command(tmp_path / 'mini_ssv2') == f'{tool} ssv2 --out {tmp_path / "mini_ssv2"} --overwrite'


@pytest.mark.parametrize('suffix', ['.mp4', '.webm'])
def test_clips(suffix, tmp_path):
    import av

    scene = draw_scene(scene_rng(0, 'train', 3), (64, 96), 'train', MINI_KINETICS.params().style)
    ground = paint_ground(scene)
    frames = [render(scene, 0.0, number, ground=ground).image for number in range(5)]
    for name in ('one', 'two'):
        encode_clip(tmp_path / f'{name}{suffix}', frames, 12)
    assert (tmp_path / f'one{suffix}').read_bytes() == (tmp_path / f'two{suffix}').read_bytes()
    assert decode_planes(tmp_path / f'one{suffix}').shape == (5, 96, 96)
    with av.open(str(tmp_path / f'one{suffix}')) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name in ({'h264'} if suffix == '.mp4' else {'vp9', 'libvpx-vp9'})
        assert stream.average_rate == 12
        seen = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(stream)])
    grey = np.array([0.299, 0.587, 0.114])
    assert np.abs((seen - np.stack(frames).astype(float)) @ grey).mean() < 4


def test_all_makes_every_set_at_its_defaults(monkeypatch, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('make_mini_data', REPO / 'tools' / 'make_mini_data.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    asked = []

    def make(mini, out, params, *, overwrite):
        asked.append((mini.command, out, params, overwrite))
        return {'made': True, 'fingerprint': '0' * 64}

    monkeypatch.setattr(MiniSet, 'make', make)
    monkeypatch.setattr(sys, 'argv', ['make_mini_data.py', 'all', '--out', str(tmp_path), '--seed', '3'])
    tool.main()
    assert asked == [(mini.command, tmp_path / f'mini_{mini.command}', mini.params(seed=3), False) for mini in SETS]
    assert capsys.readouterr().out.count('made: ') == 5
    asked.clear()
    monkeypatch.setattr(sys, 'argv', ['make_mini_data.py', 'coco', '--coco-categories', '--train', '7', '--overwrite'])
    tool.main()
    assert asked == [('coco', REPO / 'data' / 'mini_coco', MINI_COCO.params(train=7, categories='coco'), True)]


def test_tool(tmp_path):
    command = [sys.executable, str(REPO / 'tools' / 'make_mini_data.py'), 'imagenet', '--out', str(tmp_path / 'few')]
    made = subprocess.run(
        [*command, '--train', '4', '--val', '2', '--seed', '3'], capture_output=True, text=True, timeout=120, check=True
    )
    assert made.stdout.startswith(f'{tmp_path / "few"} made: 4 + 2 images, fingerprint ')
    assert json.loads((tmp_path / 'few' / 'mini.json').read_text())['parameters']['seed'] == 3
