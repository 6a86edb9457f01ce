"""Mini Kinetics: appearance decides."""

import csv

import numpy as np
import pytest

from lisa_backbone.data.digits import DIGIT_NAMES, SPLITS, digit_split
from lisa_backbone.data.mini import balanced_label
from lisa_backbone.data.mini_kinetics import MiniKineticsParams, draw_moving, make_mini_kinetics
from lisa_backbone.data.scenes import render, scene_rng

PARAMS = MiniKineticsParams()
MADE = MiniKineticsParams(seed=2, train=20, val=10)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'mini_kinetics'
    make_mini_kinetics(out, MADE)
    return out


def rows(root, split):
    with (root / 'annotations' / f'{split}.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def test_the_default_is_what_the_docs_say():
    assert (PARAMS.train, PARAMS.val, PARAMS.size, PARAMS.frames, PARAMS.rate) == (1000, 200, 64, 16, 8)


@pytest.mark.parametrize(('split', 'official'), [('train', 'train'), ('val', 'validate')])
def test_layout(root, split, official):
    lines = (root / f'kinetics400_{split}_list_videos.txt').read_text().splitlines()
    listed = dict(line.split() for line in lines)
    found = sorted(path.relative_to(root / f'videos_{split}') for path in (root / f'videos_{split}').rglob('*.mp4'))
    assert sorted(listed) == [path.as_posix() for path in found]
    entries = rows(root, official)
    assert list(entries[0]) == ['label', 'youtube_id', 'time_start', 'time_end', 'split']
    assert len(entries) == len({row['youtube_id'] for row in entries}) == len(lines) == MADE.count(split)
    for row in entries:
        assert len(row['youtube_id']) == 11
        assert row['split'] == official
        start, end = int(row['time_start']), int(row['time_end'])
        assert end - start == 2  # seconds: 16 frames, 8 a second
        label = listed[f'{row["label"]}/{row["youtube_id"]}_{start:06d}_{end:06d}.mp4']
        assert sorted(DIGIT_NAMES)[int(label)] == row['label']
    counts = np.unique([row['label'] for row in entries], return_counts=True)
    assert sorted(counts[0]) == sorted(DIGIT_NAMES)
    assert set(counts[1]) == {MADE.count(split) // 10}


def test_clips_are_the_rendered_scenes(root):
    import av

    grey = np.array([0.299, 0.587, 0.114])
    for number, row in enumerate(rows(root, 'train')[:6], 1):
        label = balanced_label(MADE.seed, 'train', number - 1)
        assert row['label'] == DIGIT_NAMES[label]
        scene = draw_moving(scene_rng(MADE.seed, 'train', number), 'train', label, MADE)
        (path,) = (root / 'videos_train' / row['label']).glob(f'{row["youtube_id"]}_*.mp4')
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate, stream.frames) == ('h264', 8, 16)
            seen = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
        assert len(seen) == 16
        for frame, image in enumerate(seen):
            drawn = render(scene, frame / 15, frame).image
            assert np.abs((image - drawn.astype(float)) @ grey).mean() < 5


def test_a_digit_goes_its_way_and_stays_in_sight():
    headings = {label: [] for label in range(10)}
    for index in range(400):
        label = index % 10
        scene = draw_moving(scene_rng(0, 'train', index), 'train', label, PARAMS)
        (sprite,) = scene.sprites
        assert sprite.label == label
        start, end = sprite.pose, sprite.end
        way = np.hypot(end.x - start.x, end.y - start.y)
        assert 0.2 * 64 <= way <= 0.5 * 64
        assert 1 / 1.25 - 1e-9 <= end.size / start.size <= 1.25 + 1e-9
        assert max(abs(start.angle), abs(end.angle)) <= 30  # 6 and 9 stay distinct
        headings[label].append((end.x - start.x, end.y - start.y) / way)
        if index < 40:
            shares = [np.count_nonzero(render(scene, time).instances) for time in (0, 0.5, 1)]
            assert min(shares) > 0.3 * max(shares)
    for ways in headings.values():  # each class goes every way: none is told by it
        assert np.linalg.norm(np.mean(ways, 0)) < 0.45
        assert np.ptp(np.arctan2(*np.transpose(ways))) > 5


def test_train_and_val_share_no_digit():
    for split in SPLITS:
        bank = [set(samples.tolist()) for samples in digit_split(split)]
        for index in range(30):
            scene = draw_moving(scene_rng(0, split, index), split, index % 10, PARAMS)
            assert scene.sprites[0].sample in bank[index % 10]


def test_mmaction_reads_it(root):
    pytest.importorskip('mmaction')
    from mmaction.datasets import VideoDataset

    from lisa_backbone.data.transforms import OpenVideo

    dataset = VideoDataset('kinetics400_val_list_videos.txt', [], {'video': 'videos_val'}, data_root=str(root))
    assert len(dataset) == MADE.val
    for number in range(3):
        item = OpenVideo()(dataset.get_data_info(number))
        assert item['total_frames'] == 16
        assert sorted(DIGIT_NAMES)[item['label']] in item['filename']
