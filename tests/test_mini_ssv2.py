"""Mini SSv2: its layout, and that no frame tells the class."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lisa_backbone.data.digits import DIGIT_NAMES, SPLITS, digit_split
from lisa_backbone.data.mini_ssv2 import ACTIONS, VALUES, MiniSsv2Params, draw_action, make_mini_ssv2
from lisa_backbone.data.scenes import Ground, paint_ground, render, scene_rng
from lisa_backbone.data.video import decode_planes

PARAMS = MiniSsv2Params()
MADE = MiniSsv2Params(seed=2, train=60, val=10)
FIRST, MIDDLE, LAST = 0.0, 0.5, 1.0


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'mini_ssv2'
    make_mini_ssv2(out, MADE)
    return out


def clips(number, split='train', seed=0):
    return [draw_action(scene_rng(seed, split, index), split, index % 10, PARAMS) for index in range(number)]


@pytest.fixture(scope='module')
def many():
    """Clips to learn from and clips to be judged by, with their classes."""
    return [(drawn := clips(number, split), np.array([clip.label for clip in drawn]))
            for split, number in (('train', 1000), ('val', 600))]  # fmt: skip


def entries(root, name):
    return json.loads((root / 'annotations' / f'something-something-v2-{name}.json').read_text())


# ---------------------------------------------------------------------------------------------------------------------
# layout
# ---------------------------------------------------------------------------------------------------------------------
def test_the_default_is_what_the_docs_say():
    assert (PARAMS.train, PARAMS.val, PARAMS.size, PARAMS.frames, PARAMS.rate) == (800, 200, 64, 16, 12)


def test_layout(root):
    assert {path.name for path in root.iterdir()} == {
        'annotations', 'videos', 'mini.json', 'sthv2_train_list_videos.txt', 'sthv2_val_list_videos.txt',
    }  # fmt: skip
    labels = entries(root, 'labels')
    assert list(labels.values()) == [str(label) for label in range(10)]
    assert labels['Moving something from right to left'] == '0'
    names = []
    for split, name in (('train', 'train'), ('val', 'validation')):
        rows = entries(root, name)
        lines = (root / f'sthv2_{split}_list_videos.txt').read_text().splitlines()
        assert len(rows) == len(lines) == MADE.count(split)
        listed = dict(line.split() for line in lines)
        for row in rows:
            assert set(row) == {'id', 'label', 'template', 'placeholders'}
            (digit,) = row['placeholders']
            assert digit in DIGIT_NAMES[1:]
            assert row['label'].lower() == row['template'].replace('[something]', digit).lower()
            assert listed[f'{row["id"]}.webm'] == labels[row['template'].replace('[', '').replace(']', '')]
        assert np.bincount([int(label) for label in listed.values()]).tolist() == [MADE.count(split) // 10] * 10
        names += listed
    assert sorted(names) == sorted(path.name for path in (root / 'videos').iterdir())


def test_clips_are_the_rendered_scenes(root):
    import av

    for row in entries(root, 'train')[:12]:
        label = [action.template for action in ACTIONS].index(row['template'])
        clip = draw_action(scene_rng(MADE.seed, 'train', int(row['id'])), 'train', label, MADE)
        assert row['placeholders'] == [DIGIT_NAMES[clip.scene.sprites[clip.actor].label]]
        with av.open(str(root / 'videos' / f'{row["id"]}.webm')) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (64, 64, 12)
            packets = [packet for packet in container.demux(stream) if packet.size]
            assert len(packets) == 16
            assert all(packet.is_keyframe for packet in packets)  # or a frame would keep traces of those before
            seen = [frame.to_ndarray(format='rgb24') for packet in packets for frame in packet.decode()]
        drawn = [render(clip.at(number / 15), 0.0, number).image for number in range(16)]
        grey = np.array([0.299, 0.587, 0.114])
        for one, other in zip(seen, drawn, strict=True):
            assert np.abs((one - other.astype(float)) @ grey).mean() < 4


def test_mmaction_reads_it(root):
    pytest.importorskip('mmaction')
    from mmaction.datasets import VideoDataset

    from lisa_backbone.data.transforms import FetchFrames, OpenVideo

    dataset = VideoDataset('sthv2_val_list_videos.txt', [], {'video': 'videos'}, data_root=str(root))
    assert len(dataset) == MADE.val
    templates = [action.template for action in ACTIONS]
    for number, row in enumerate(entries(root, 'validation')[:3]):
        item = OpenVideo()(dataset.get_data_info(number))
        assert item['total_frames'] == 16
        item = FetchFrames()({**item, 'frame_inds': np.array([0, 7, 15]), 'clip_len': 3, 'num_clips': 1})
        assert np.shape(item['imgs']) == (3, 64, 64, 3)
        assert item['label'] == templates.index(row['template'])


# ---------------------------------------------------------------------------------------------------------------------
# what tells the class, and what does not
# ---------------------------------------------------------------------------------------------------------------------
def test_two_frames_tell_the_class():
    turn = {'x': 0.6, 'y': 0.6, 'size': 0.9, 'angle': 0.5, 'opacity': 0.9}
    for clip in clips(300):
        step = clip.values_at(0.55) - clip.values_at(0.45)
        step = (step + 0.5) % 1 - 0.5  # the short way round
        (digit,), (value,) = np.nonzero(np.abs(step) > 1e-9)
        sign = int(np.sign(step[digit, value]))
        found = [action for action in ACTIONS if (action.value, action.sign) == (VALUES[value], sign)]
        assert found == [ACTIONS[clip.label]]
        assert digit == clip.actor
        assert 0.6 * turn[VALUES[value]] < abs(step[digit, value]) * 10 <= turn[VALUES[value]] + 1e-9


def test_every_class_run_backwards_is_another():
    for number, action in enumerate(ACTIONS):
        mirror = next(n for n, a in enumerate(ACTIONS) if (a.value, a.sign) == (action.value, -action.sign))
        clip = draw_action(scene_rng(0, 'train', number), 'train', number, PARAMS)
        values = [list(digit) for digit in clip.values]
        values[clip.actor] = clip.values_at(1.0)[clip.actor].tolist()
        back = replace(clip, label=mirror, values=tuple(map(tuple, values)))
        for time in (0.0, 0.3, 1.0):
            np.testing.assert_allclose(back.values_at(time), clip.values_at(1 - time), atol=1e-9)
    # and what is drawn before the class has its say is the same for all
    same = [draw_action(scene_rng(0, 'train', 5), 'train', label, PARAMS) for label in range(10)]
    assert all(clip.values == same[0].values and clip.scene == same[0].scene for clip in same)


@pytest.mark.parametrize('time', [FIRST, MIDDLE, LAST])
def test_values_are_uniform_at_every_time(many, time):
    for label, action in enumerate(ACTIONS):
        acting = np.array([clip.values_at(time)[clip.actor] for clip in many[0][0] if clip.label == label])
        for column, value in enumerate(VALUES):
            if value == 'opacity' and action.value != 'opacity':
                assert (acting[:, column] == 1).all()
            else:
                assert stats.kstest(acting[:, column], 'uniform').pvalue > 1e-4, (action.name, value)
    for clip in many[0][0]:
        assert np.count_nonzero(clip.values_at(time)[:, VALUES.index('opacity')] < 1) == 1


def geometry(clip, time):
    """What a perfect eye sees in a frame: the digits' values, sorted by each value in turn."""
    values = clip.values_at(time)
    shown = np.full((3, len(VALUES)), -1.0)
    shown[: len(values)] = values
    places = [[sprite.pose.x, sprite.pose.y, sprite.pose.size] for sprite in clip.at(time).sprites]
    moments = [*np.mean(places, 0), *np.std(places, 0), len(places), len(values)]
    return np.concatenate([shown[np.argsort(shown[:, 4])].ravel(), np.sort(shown, 0).ravel(), moments])


def accuracy(classifier, features, many):
    (train, train_labels), (val, val_labels) = many
    classifier.fit(np.stack([features(clip) for clip in train]), train_labels)
    return classifier.score(np.stack([features(clip) for clip in val]), val_labels)


# A tenth of 600 clips by chance has a standard deviation of 0.012.
NEAR_CHANCE = 0.14


@pytest.mark.parametrize('time', [FIRST, MIDDLE, LAST, None])
def test_the_geometry_of_one_frame_does_not_tell_the_class(many, time):
    rng = np.random.default_rng(0)
    forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
    reached = accuracy(forest, lambda clip: geometry(clip, rng.integers(16) / 15 if time is None else time), many)
    assert reached < NEAR_CHANCE


def test_the_geometry_of_two_frames_tells_the_class(many):
    # the same features and classifier, so that the test above is one that can fail
    def difference(clip):
        step = geometry(clip, 0.6) - geometry(clip, 0.5)
        return np.sign(np.round(step, 6)) * (np.abs(step) < 0.5)

    assert accuracy(RandomForestClassifier(60, random_state=0), difference, many) > 0.8


def picture(clip, time):
    """Downsampled pixels of a frame, and how much ink there is."""
    image = render(clip.at(time), 0.0, round(15 * time)).image
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    ink = np.abs(grey - np.median(grey)) > 40
    rows, columns = np.nonzero(ink) if ink.any() else (np.zeros(1), np.zeros(1))
    facts = [ink.mean(), rows.mean(), columns.mean(), rows.std(), columns.std(), grey.mean(), grey.std()]
    return np.concatenate([cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA).ravel(), facts])


@pytest.mark.parametrize('time', [FIRST, LAST])
def test_the_pixels_of_one_frame_do_not_tell_the_class(many, time):
    part = [(drawn[:600], labels[:600]) for drawn, labels in many]
    seen = [(np.stack([picture(clip, time) for clip in drawn]), labels) for drawn, labels in part]
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
    for classifier in (linear, forest):
        assert classifier.fit(*seen[0]).score(*seen[1]) < NEAR_CHANCE


def test_files_do_not_tell_the_class(root):
    rows = entries(root, 'train')
    templates = [action.template for action in ACTIONS]
    labels = np.array([templates.index(row['template']) for row in rows])
    paths = [root / 'videos' / f'{row["id"]}.webm' for row in rows]
    sizes = np.array([path.stat().st_size for path in paths])
    assert stats.f_oneway(*(sizes[labels == label] for label in range(10))).pvalue > 1e-3
    assert {len(decode_planes(path)) for path in paths[:40]} == {16}
    ids = np.array([int(row['id']) for row in rows])
    assert stats.f_oneway(*(ids[labels == label] for label in range(10))).pvalue > 1e-3
    assert len({tuple(labels[ids % 10 == last]) for last in range(10)}) == 10  # not by the last figure either


# ---------------------------------------------------------------------------------------------------------------------
# what is seen
# ---------------------------------------------------------------------------------------------------------------------
def test_what_leaves_the_frame_enters_on_the_other_side():
    plain = Ground('gradient', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0)
    for clip in clips(10):
        bare = replace(clip.scene, ground=plain, distractors=(), noise=0.0, blur=0.0)
        bare = replace(bare, sprites=tuple(replace(sprite, shade=0.0) for sprite in bare.sprites))
        moved = [((x + 0.5) % 1, (y + 0.25) % 1, *others) for x, y, *others in clip.values]
        one, two = (
            render(replace(clip, scene=bare, values=tuple(values)).at(0.0)).image for values in (clip.values, moved)
        )
        np.testing.assert_allclose(np.roll(one, (16, 32), (0, 1)).astype(int), two, atol=2)


def test_the_acting_digit_is_seen_to_act():
    still = []
    for clip in clips(60):
        ground = paint_ground(clip.scene)
        one, two = (render(clip.at(time), 0.0, 0, ground=ground).image.astype(int) for time in (0.4, 0.6))
        still.append(np.count_nonzero(np.abs(one - two).max(-1) > 15))
    assert np.quantile(still, 0.1) > 40  # pixels; the noise is the same in both


def test_train_and_val_share_no_digit():
    for split in SPLITS:
        own = set(np.concatenate(digit_split(split)[1:]).tolist())
        assert {sprite.sample for clip in clips(60, split) for sprite in clip.scene.sprites} <= own
