"""Mini ImageNet: one digit an image, in ImageNet's folders."""

import cv2
import numpy as np
import pytest

from lisa_backbone.data.digits import DIGIT_NAMES, SPLITS, digit_split
from lisa_backbone.data.mini_imagenet import SYNSETS, MiniImagenetParams, draw_image, make_mini_imagenet
from lisa_backbone.data.scenes import render, scene_rng

PARAMS = MiniImagenetParams()
MADE = MiniImagenetParams(seed=2, train=40, val=20)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'mini_imagenet'
    make_mini_imagenet(out, MADE)
    return out


def listed(root, split):
    lines = (root / 'meta' / f'{split}.txt').read_text().splitlines()
    return [(path, int(label)) for path, label in (line.split() for line in lines)]


def test_the_default_is_what_the_docs_say():
    assert (PARAMS.train, PARAMS.val, PARAMS.size) == (6000, 500, 64)


def test_layout(root):
    assert (root / 'LOC_synset_mapping.txt').read_text().splitlines() == [
        f'n{label:08d} {name}' for label, name in enumerate(DIGIT_NAMES)
    ]
    assert listed(root, 'train')[11][0].endswith('_12.JPEG')
    for split in SPLITS:
        entries = listed(root, split)
        found = [path.relative_to(root / split).as_posix() for path in (root / split).rglob('*.JPEG')]
        assert sorted(found) == sorted(path for path, _ in entries)
        assert all(path.split('/')[0] == SYNSETS[label] for path, label in entries)
        assert np.bincount([label for _, label in entries]).tolist() == [MADE.count(split) // 10] * 10


@pytest.mark.parametrize('split', SPLITS)
def test_images_are_the_rendered_scenes(root, split):
    bank = [set(samples.tolist()) for samples in digit_split(split)]
    for number, (path, label) in enumerate(listed(root, split), 1):
        scene = draw_image(scene_rng(MADE.seed, split, number), split, label, MADE)
        (sprite,) = scene.sprites
        assert sprite.sample in bank[label]
        image = cv2.imread(str(root / split / path))[..., ::-1]
        assert image.shape == (64, 64, 3)
        assert np.abs(image.astype(int) - render(scene).image).mean() < 8


def test_digits_stay_visible_behind_marks():
    shares = []
    for index in range(200):
        scene = draw_image(scene_rng(0, 'train', index), 'train', index % 10, PARAMS)
        seen = np.count_nonzero(render(scene).instances)
        bare = np.count_nonzero(render(scene.__class__(scene.shape, scene.ground, scene.sprites)).instances)
        shares.append(seen / bare)
    assert min(shares) > 0.4
    assert 0.1 < np.mean(np.array(shares) < 1) < 0.9  # some are covered in part


@pytest.mark.parametrize('classes', [10, 1000])
def test_mmpretrain_reads_it(root, classes):
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import ImageNet

    metainfo = {'classes': DIGIT_NAMES} if classes == 10 else None  # as a config for real ImageNet has it
    for split in SPLITS:
        dataset = ImageNet(data_root=str(root), split=split, metainfo=metainfo)
        assert len(dataset.CLASSES) == classes
        assert len(dataset) == MADE.count(split)
        items = [(dataset.get_data_info(n)['img_path'], dataset.get_gt_labels()[n]) for n in range(len(dataset))]
        assert items == [(str(root / split / path), label) for path, label in listed(root, split)]


def test_mmpretrain_reads_its_folders(root):
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import ImageNet

    dataset = ImageNet(data_root=str(root), data_prefix='val', metainfo={'classes': DIGIT_NAMES})
    assert dataset.get_gt_labels().tolist() == [label for label in range(10) for _ in range(2)]
