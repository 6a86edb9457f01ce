"""Mini COCO and its command line."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lisa_backbone.data.digits import DIGIT_NAMES, SPLITS
from lisa_backbone.data.mini_coco import MiniCocoParams, fingerprint, make_mini_coco
from lisa_backbone.data.scenes import SceneStyle, draw_scene, render, scene_rng
from lisa_backbone.errors import UserError

REPO = Path(__file__).resolve().parent.parent
PARAMS = MiniCocoParams(seed=5, train=8, val=5, size=128)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'mini_coco'
    assert make_mini_coco(out, PARAMS)['made']
    return out


def tool(*arguments, **options):
    command = [sys.executable, str(REPO / 'tools' / 'make_mini_data.py'), 'coco', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def snapshot(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()}


def annotation_file(root, split):
    return root / 'annotations' / f'instances_{split}2017.json'


def test_layout(root):
    names = {'annotations', 'train2017', 'val2017', 'mini.json'}
    assert {path.name for path in root.iterdir()} == names
    assert sorted(path.name for path in (root / 'val2017').iterdir()) == [f'{n:012d}.jpg' for n in range(1, 6)]
    assert len(list((root / 'train2017').iterdir())) == 8
    for split in SPLITS:
        data = json.loads(annotation_file(root, split).read_text())
        assert set(data) == {'info', 'licenses', 'images', 'annotations', 'categories'}
        assert [(c['id'], c['name']) for c in data['categories']] == list(enumerate(DIGIT_NAMES, 1))
        assert {c['supercategory'] for c in data['categories']} == {'digit'}
        assert len({annotation['id'] for annotation in data['annotations']}) == len(data['annotations'])
        for image in data['images']:
            pixels = cv2.imread(str(root / f'{split}2017' / image['file_name']))
            assert pixels.shape == (image['height'], image['width'], 3) == (128, 128, 3)


def test_the_default_is_what_the_docs_say():
    assert MiniCocoParams() == MiniCocoParams(seed=0, train=400, val=100, size=160, style=SceneStyle())


@pytest.mark.parametrize('split', SPLITS)
def test_annotations_are_those_of_the_scenes(root, split):
    coco = COCO(annotation_file(root, split))
    assert coco.getImgIds() == list(range(1, getattr(PARAMS, split) + 1))
    for image_id in coco.getImgIds():
        scene = draw_scene(scene_rng(PARAMS.seed, split, image_id), (128, 128), split)
        rendered = render(scene)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert [a['category_id'] - 1 for a in annotations] == [sprite.label for sprite in scene.sprites]
        union = np.zeros((128, 128), int)
        for number, annotation in enumerate(annotations, 1):
            mask = coco.annToMask(annotation)
            np.testing.assert_array_equal(mask, rendered.instances == number)
            union += mask
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation['bbox'] == box == coco_mask.toBbox(annotation['segmentation']).tolist()
            assert annotation['area'] == mask.sum() == coco_mask.area(annotation['segmentation'])
            assert annotation['iscrowd'] == 0
            assert isinstance(annotation['segmentation']['counts'], str)
        assert union.max() == 1  # visible masks do not overlap
        image = cv2.imread(str(root / f'{split}2017' / f'{image_id:012d}.jpg'))[..., ::-1]
        assert np.abs(image.astype(int) - rendered.image).mean() < 6  # RGB in the right order, the loss of a JPEG


def test_the_truth_scores_a_perfect_map(root):
    coco = COCO(annotation_file(root, 'val'))
    perfect = [{**annotation, 'score': 1.0} for annotation in coco.dataset['annotations']]
    for kind in ('bbox', 'segm'):
        evaluation = COCOeval(coco, coco.loadRes(perfect), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


def test_mmdet_reads_it(root):
    if find_spec('mmdet') is None or find_spec('mmcv') is None:
        pytest.skip('mmdet is not installed')
    from lisa_backbone import compat

    compat.apply()
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    dataset = CocoDataset(
        data_root=str(root),
        ann_file='annotations/instances_train2017.json',
        data_prefix={'img': 'train2017/'},
        metainfo={'classes': DIGIT_NAMES},
        pipeline=[LoadImageFromFile()],
    )
    assert len(dataset) == PARAMS.train
    load = LoadAnnotations(with_bbox=True, with_mask=True, poly2mask=True)
    coco = COCO(annotation_file(root, 'train'))
    for item in dataset:
        truth = coco.loadAnns(coco.getAnnIds(item['img_id']))
        item = load(item)
        assert item['img'].shape == (128, 128, 3)
        assert item['gt_bboxes_labels'].tolist() == [a['category_id'] - 1 for a in truth]
        np.testing.assert_array_equal(item['gt_masks'].masks, np.stack([coco.annToMask(a) for a in truth]))
        assert not item['gt_ignore_flags'].any()


def test_a_stand_in_for_coco_lists_its_categories(root, tmp_path):
    if find_spec('mmdet') is None:
        pytest.skip('mmdet is not installed')
    from mmdet.datasets import CocoDataset

    made = make_mini_coco(tmp_path / 'set', replace(PARAMS, categories='coco'))
    assert made['parameters'] == {**PARAMS.record(), 'categories': 'coco'}
    for split in SPLITS:
        usual, stand_in = (json.loads(annotation_file(place, split).read_text()) for place in (root, tmp_path / 'set'))
        names = {category['id']: category['name'] for category in stand_in['categories']}
        assert tuple(names.values()) == CocoDataset.METAINFO['classes']
        assert [min(names), max(names), names[13], names[44], names[67]] == [
            1, 90, 'stop sign', 'bottle', 'dining table',
        ]  # fmt: skip
        of_digit = dict(enumerate([1, 9, 18, 27, 37, 46, 54, 62, 74, 82], 1))  # every eighth of the 80
        assert [of_digit[a['category_id']] for a in usual['annotations']] == [
            a['category_id'] for a in stand_in['annotations']
        ]
        assert usual['images'] == stand_in['images']
    dataset = CocoDataset(
        ann_file=str(annotation_file(tmp_path / 'set', 'train')), data_prefix={'img': ''}, pipeline=[]
    )
    labels = {instance['bbox_label'] for number in range(PARAMS.train)
              for instance in dataset.get_data_info(number)['instances']}  # fmt: skip
    assert labels == {
        8 * (a['category_id'] - 1) for a in json.loads(annotation_file(root, 'train').read_text())['annotations']
    }
    with pytest.raises(UserError, match='categories must be one of'):
        make_mini_coco(tmp_path / 'other', replace(PARAMS, categories='lvis'))


def test_same_parameters_same_bytes(root, tmp_path):
    again = make_mini_coco(tmp_path / 'again', PARAMS)
    assert snapshot(tmp_path / 'again') == snapshot(root)
    assert again['fingerprint'] == json.loads((root / 'mini.json').read_text())['fingerprint'] == fingerprint(root)


def test_an_image_depends_on_seed_and_number_alone(root, tmp_path):
    make_mini_coco(tmp_path / 'fewer', MiniCocoParams(seed=5, train=3, val=5, size=128))
    for number in range(1, 4):
        name = f'train2017/{number:012d}.jpg'
        assert (tmp_path / 'fewer' / name).read_bytes() == (root / name).read_bytes()
    make_mini_coco(tmp_path / 'other', MiniCocoParams(seed=6, train=3, val=5, size=128))
    name = 'train2017/000000000001.jpg'
    assert (tmp_path / 'other' / name).read_bytes() != (root / name).read_bytes()
    assert (root / name).read_bytes() != (root / name.replace('train', 'val')).read_bytes()


def test_the_fingerprint_covers_pixels_and_annotations(root, tmp_path):
    copy = tmp_path / 'copy'
    make_mini_coco(copy, PARAMS)
    whole = fingerprint(copy)
    image = copy / 'val2017' / '000000000002.jpg'
    pixels = cv2.imread(str(image))
    cv2.imwrite(str(image), 255 - pixels)
    assert fingerprint(copy) != whole
    image.write_bytes((root / 'val2017' / image.name).read_bytes())
    assert fingerprint(copy) == whole
    path = annotation_file(copy, 'val')
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    assert fingerprint(copy) != whole


def test_record(root):
    record = json.loads((root / 'mini.json').read_text())
    assert record['parameters'] == PARAMS.record()
    assert record['parameters']['style']['min_visible'] == SceneStyle().min_visible
    assert set(record['versions']) == {'numpy', 'scipy', 'opencv', 'scikit-learn'}
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(annotation_file(root, split).read_bytes())
        for path in sorted((root / f'{split}2017').glob('*.jpg')):
            digest.update(path.name.encode() + cv2.imread(str(path)).tobytes())
    assert record['fingerprint'] == digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# the command line
# ---------------------------------------------------------------------------------------------------------------------
SMALL = ('--train', 4, '--val', 2, '--size', 96)


def test_tool_makes_repeats_refuses_and_replaces(tmp_path):
    out = tmp_path / 'sets' / 'mini_coco'
    made = tool('--out', out, *SMALL)
    assert made.returncode == 0, made.stderr
    assert '4 + 2 images' in made.stdout
    assert '6/6' in made.stderr  # the progress bar, to its end
    first = snapshot(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob('*')}

    again = tool('--out', out, *SMALL)
    assert again.returncode == 0
    assert 'is there already' in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == times

    other = tool('--out', out, *SMALL, '--seed', 1)
    assert other.returncode == 2
    assert other.stderr.startswith('error: ')
    assert '--overwrite' in other.stderr
    assert other.stderr.count('\n') == 1
    assert snapshot(out) == first

    replaced = tool('--out', out, *SMALL, '--seed', 1, '--overwrite')
    assert replaced.returncode == 0, replaced.stderr
    assert snapshot(out) != first
    assert json.loads((out / 'mini.json').read_text())['parameters']['seed'] == 1
    assert [path.name for path in out.parent.iterdir()] == ['mini_coco']


def test_a_set_that_lost_an_image_is_not_taken_for_whole(tmp_path):
    out, params = tmp_path / 'mini_coco', MiniCocoParams(train=4, val=2, size=96)
    make_mini_coco(out, params)
    (out / 'train2017' / '000000000003.jpg').unlink()
    with pytest.raises(UserError, match='incomplete'):
        make_mini_coco(out, params)
    assert make_mini_coco(out, params, overwrite=True)['made']
    assert (out / 'train2017' / '000000000003.jpg').is_file()


def test_what_is_no_mini_set_is_never_replaced(tmp_path):
    out = tmp_path / 'coco'
    (out / 'train2017').mkdir(parents=True)
    (out / 'train2017' / 'mine.jpg').write_bytes(b'mine')
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'mini.json').write_text('[1, 2]')
    for target in (out, tmp_path / 'file', tmp_path / 'notes'):
        with pytest.raises(UserError, match=f'{target} exists and is not a mini set'):
            make_mini_coco(target, PARAMS, overwrite=True)
    assert snapshot(tmp_path) == {'coco/train2017/mine.jpg': b'mine', 'file': b'mine', 'notes/mini.json': b'[1, 2]'}


def test_senseless_parameters_are_refused(tmp_path):
    for name, value in (('train', 0), ('val', -3), ('seed', -1), ('size', 40)):
        with pytest.raises(UserError, match=f'--{name}'):
            make_mini_coco(tmp_path / 'out', MiniCocoParams(**{name: value}))
    refused = tool('--out', tmp_path / 'out', '--train', 0)
    assert refused.returncode == 2
    assert refused.stderr.startswith('error: --train')
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=f'cannot write to {tmp_path / "file"}.*--out'):
        make_mini_coco(tmp_path / 'file' / 'mini_coco', PARAMS)


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize('standing', [False, True])
def test_an_interrupted_run_leaves_what_was_there(tmp_path, how, standing):
    out = tmp_path / 'mini_coco'
    if standing:
        make_mini_coco(out, PARAMS)
    before = snapshot(out)
    process = subprocess.Popen(
        [sys.executable, str(REPO / 'tools' / 'make_mini_data.py'), 'coco', '--out', str(out), '--train', '100000',
         '--overwrite'],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    try:
        for _ in range(1200):
            if len(list(tmp_path.glob('.*/train2017/*.jpg'))) > 3:
                break
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(process.pid, how)
        status = process.wait(timeout=60)
    finally:
        process.kill()
    assert status == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert out.exists() == standing
    assert snapshot(out) == before
    if how == signal.SIGINT:
        assert [path.name for path in tmp_path.iterdir()] == (['mini_coco'] if standing else [])
    # and the next run clears what a killed one could not
    make_mini_coco(out, PARAMS, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ['mini_coco']
    assert fingerprint(out) == json.loads((out / 'mini.json').read_text())['fingerprint']


def test_a_kill_between_the_renames_loses_nothing(tmp_path, root):
    out = tmp_path / 'mini_coco'
    make_mini_coco(out, PARAMS)
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    out.rename(tmp_path / f'.mini_coco.{socket.gethostname()}-{gone.pid}.replaced')
    with pytest.raises(UserError, match='other parameters'):
        make_mini_coco(out, MiniCocoParams(seed=9, train=2, val=2, size=96))
    assert snapshot(out) == snapshot(root)
