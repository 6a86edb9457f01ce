"""Mini ADE20K: textured regions and digits, labelled as in the challenge."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.ensemble import RandomForestClassifier

from lisa_backbone.data.digits import DIGIT_NAMES, SPLITS, digit_split
from lisa_backbone.data.mini_ade20k import (
    CLASSES,
    MiniAde20kParams,
    draw_regions,
    make_mini_ade20k,
    render_labelled,
)
from lisa_backbone.data.scenes import mark_cover, paint_texture, render, scene_rng
from lisa_backbone.data.textures import TEXTURES

PARAMS = MiniAde20kParams()
MADE = MiniAde20kParams(seed=2, train=30, val=10)
FOLDERS = {'train': 'training', 'val': 'validation'}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'mini_ade20k'
    make_mini_ade20k(out, MADE)
    return out


def scenes(number, split='train', params=PARAMS):
    return [draw_regions(scene_rng(params.seed, split, index), split, params) for index in range(1, number + 1)]


def test_the_default_is_what_the_docs_say():
    assert (PARAMS.train, PARAMS.val, PARAMS.size, PARAMS.regions) == (1000, 100, 128, (2, 4))
    assert ('gradient', 'noise', 'stripes', 'checks', 'cells', *DIGIT_NAMES) == CLASSES


def test_layout(root):
    assert {path.name for path in root.iterdir()} == {'images', 'annotations', 'objectInfo150.txt', 'mini.json'}
    for split, folder in FOLDERS.items():
        names = [f'ADE_{split}_{number:08d}' for number in range(1, MADE.count(split) + 1)]
        assert sorted(path.name for path in (root / 'images' / folder).iterdir()) == [f'{name}.jpg' for name in names]
        found = sorted((root / 'annotations' / folder).iterdir())
        assert [path.name for path in found] == [f'{name}.png' for name in names]
        for path in found:
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert (labels.dtype, labels.shape) == (np.uint8, (128, 128))
            assert labels.max() <= 15


def test_class_list(root):
    head, *lines = (line.split('\t') for line in (root / 'objectInfo150.txt').read_text().splitlines())
    assert head == ['Idx', 'Ratio', 'Train', 'Val', 'Name']
    assert [line[4] for line in lines] == list(CLASSES)
    maps = {split: [cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                    for path in sorted((root / 'annotations' / folder).iterdir())]
            for split, folder in FOLDERS.items()}  # fmt: skip
    everything = np.concatenate([np.stack(maps[split]) for split in SPLITS])
    for label, line in enumerate(lines, 1):
        assert int(line[0]) == label
        assert float(line[1]) == pytest.approx((everything == label).mean(), abs=1e-4)
        assert [int(line[2]), int(line[3])] == [sum((one == label).any() for one in maps[split]) for split in SPLITS]
        assert int(line[2]) > 0  # every class is there to be learnt
    assert 0.002 < (everything == 0).mean() < 0.1


@pytest.mark.parametrize('split', SPLITS)
def test_files_are_those_of_the_scenes(root, split):
    for number, drawn in enumerate(scenes(5, split, MADE), 1):
        scene = drawn.scene
        name = f'ADE_{split}_{number:08d}'
        image = cv2.imread(str(root / 'images' / FOLDERS[split] / f'{name}.jpg'))[..., ::-1]
        labels = cv2.imread(str(root / 'annotations' / FOLDERS[split] / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        assert np.abs(image.astype(int) - render_labelled(drawn)[0]).mean() < 6
        instances = render(scene).instances
        covers = [np.zeros(scene.shape), *(mark_cover(mark, scene.shape) for mark in scene.distractors)]
        marks = np.max(covers, axis=0) > 0.5
        rows, columns = np.indices(scene.shape)
        nearest = cKDTree(drawn.points).query(np.column_stack([columns.ravel(), rows.ravel()]))[1]
        for region, ground in enumerate(drawn.grounds):
            here = (nearest.reshape(scene.shape) == region) & (instances == 0) & ~marks
            assert (labels[here] == 1 + TEXTURES.index(ground.kind)).all()
        for number_of, sprite in enumerate(scene.sprites, 1):
            assert (labels[instances == number_of] == 6 + sprite.label).all()
        assert ((labels == 0) == (marks & (instances == 0))).all()


def test_the_image_shows_its_regions():
    for drawn in scenes(10):
        bare = replace(drawn, scene=replace(drawn.scene, sprites=(), distractors=(), noise=0.0, blur=0.0))
        image, labels = render_labelled(bare)
        for ground in drawn.grounds:
            here = labels == 1 + TEXTURES.index(ground.kind)
            assert here.mean() >= 0.12
            assert np.abs(image[here] - 255 * paint_texture(ground, (128, 128))[here]).max() <= 0.51
        assert len(np.unique(labels)) == len(drawn.grounds) == len({ground.kind for ground in drawn.grounds})


def test_colours_do_not_tell_the_texture():
    grounds = [ground for drawn in scenes(250) for ground in drawn.grounds]
    colours = np.array([ground.low + ground.high for ground in grounds])
    kinds = np.array([TEXTURES.index(ground.kind) for ground in grounds])
    half = len(grounds) // 2
    forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0).fit(colours[:half], kinds[:half])
    assert forest.score(colours[half:], kinds[half:]) < 0.27  # a fifth by chance, its standard deviation 0.02
    assert np.bincount(kinds, minlength=5).min() > 0.15 * len(kinds)


def test_scenes_keep_to_the_parameters():
    drawn = scenes(150)
    assert {len(one.grounds) for one in drawn} == {2, 3, 4}
    assert {len(one.scene.sprites) for one in drawn} == {4, 5, 6, 7}
    assert {len(one.scene.distractors) for one in drawn} == {0, 1, 2}
    sizes = [sprite.pose.size for one in drawn for sprite in one.scene.sprites]
    assert 32 <= min(sizes) < max(sizes) <= 56
    val = {int(sample) for samples in digit_split('val') for sample in samples}
    assert not val & {sprite.sample for one in drawn for sprite in one.scene.sprites}


def test_mmseg_reads_it(root):
    pytest.importorskip('mmseg')
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets import ADE20KDataset
    from mmseg.datasets.transforms import LoadAnnotations

    for split, folder in FOLDERS.items():
        prefix = {'img_path': f'images/{folder}', 'seg_map_path': f'annotations/{folder}'}
        dataset = ADE20KDataset(data_root=str(root), data_prefix=prefix, pipeline=[LoadImageFromFile()])
        assert len(dataset) == MADE.count(split)
        item = LoadAnnotations()(dataset[1])
        labels = cv2.imread(str(root / prefix['seg_map_path'] / f'ADE_{split}_00000002.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(item['gt_seg_map'], np.where(labels == 0, 255, labels - 1))
        assert item['img'].shape == (128, 128, 3)
