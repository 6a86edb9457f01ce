"""Lists of Kinetics-400 and Something-Something V2, and the counts of the image sets."""

import csv
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from processes import run_tool

from lisa_backbone.data import prepare
from lisa_backbone.data.prepare import prepare_kinetics, prepare_ssv2
from lisa_backbone.data.prepare_images import check_ade20k, check_coco, check_imagenet
from lisa_backbone.data.video import encode_clip
from lisa_backbone.errors import UserError

REPO = Path(__file__).parents[1]
HEADER = 'label,youtube_id,time_start,time_end\n'
TRAIN = [('zumba', 'aaa', 1), ('air drumming', 'bbb', 2), ('zumba', '-c_', 417), ('yoga', 'ddd', 4)]


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """The bytes of a small MP4 and a small WebM file."""
    folder = tmp_path_factory.mktemp('clip')
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    for suffix in ('mp4', 'webm'):
        encode_clip(folder / f'clip.{suffix}', frames, 10)
    return {suffix: (folder / f'clip.{suffix}').read_bytes() for suffix in ('mp4', 'webm')}


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['label', 'youtube_id', 'time_start', 'time_end', 'split'])
        writer.writerows([name, video, start, start + 10, 'train'] for name, video, start in rows)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def kinetics(tmp_path, clip):
    """Classes in folders, one file missing and one empty."""
    write_csv(tmp_path / 'annotations' / 'train.csv', TRAIN)
    put(tmp_path / 'videos_train' / 'zumba' / 'aaa_000001_000011.mp4', clip['mp4'])
    put(tmp_path / 'videos_train' / 'air_drumming' / 'bbb_000002_000012.mp4', clip['mp4'])
    put(tmp_path / 'videos_train' / 'zumba' / '-c__000417_000427.mp4', b'')
    return tmp_path


def listed(root, name):
    return (root / name).read_text().splitlines()


def test_kinetics_lists(kinetics):
    (report,) = prepare_kinetics(kinetics, show=False)
    assert (report.named, report.usable, report.missing, report.broken, report.classes) == (4, 2, 1, 1, 3)
    assert listed(kinetics, 'kinetics400_train_list_videos.txt') == [
        'zumba/aaa_000001_000011.mp4 2',
        'air_drumming/bbb_000002_000012.mp4 0',
    ]
    assert listed(kinetics, 'kinetics400_train_missing_videos.txt') == ['ddd_000004_000014']
    assert listed(kinetics, 'kinetics400_train_broken_videos.txt') == ['zumba/-c__000417_000427.mp4\tis empty']
    line = str(report)
    assert line.startswith('train: 2 of 4 videos of 3 classes are usable, 1 missing')
    assert 'number these 3 classes alone and are not those of the 400: set model.cls_head.num_classes=3' in line
    assert '240,436' not in line
    assert '\n' not in line


@pytest.mark.parametrize('check', ['none', 'decode'])
def test_a_link_to_nothing_is_a_missing_video(kinetics, check):
    (kinetics / 'videos_train' / 'yoga').mkdir()
    (kinetics / 'videos_train' / 'yoga' / 'ddd_000004_000014.mp4').symlink_to('no_such_file.mp4')
    (report,) = prepare_kinetics(kinetics, check=check, show=False)
    assert report.missing == 1
    assert listed(kinetics, 'kinetics400_train_missing_videos.txt') == ['ddd_000004_000014']


def test_lists_stay_while_the_videos_are_away(kinetics):
    prepare_kinetics(kinetics, show=False)
    name = 'kinetics400_train_list_videos.txt'
    before = listed(kinetics, name)
    (kinetics / 'videos_train').rename(kinetics / 'away')
    with pytest.raises(UserError):
        prepare_kinetics(kinetics, show=False)
    assert listed(kinetics, name) == before


def test_nobody_at_work_is_told(kinetics):
    with pytest.raises(UserError, match='--workers 0 look at no video'):
        prepare_kinetics(kinetics, workers=0, show=False)


def test_a_second_run_looks_only_at_what_is_new(kinetics, clip, monkeypatch):
    prepare_kinetics(kinetics, show=False)
    seen = []
    real = prepare.inspect_video
    monkeypatch.setattr(prepare, 'inspect_video', lambda path, check: seen.append(path.name) or real(path, check))
    with (kinetics / prepare.CACHE).open('a') as file:
        file.write('["half a li')  # a run was killed here
    put(kinetics / 'videos_train' / 'zumba' / '-c__000417_000427.mp4', clip['mp4'])
    put(kinetics / 'videos_train' / 'yoga' / 'ddd_000004_000014.webm', clip['webm'])
    (report,) = prepare_kinetics(kinetics, show=False)
    assert sorted(seen) == ['-c__000417_000427.mp4', 'ddd_000004_000014.webm']
    assert (report.usable, report.missing, report.broken) == (4, 0, 0)
    assert not (kinetics / 'kinetics400_train_broken_videos.txt').exists()
    seen.clear()
    prepare_kinetics(kinetics, show=False, check='headers')  # a stricter verdict is there
    assert seen == []
    assert 'yoga/ddd_000004_000014.webm 1' in listed(kinetics, 'kinetics400_train_list_videos.txt')


def test_a_verdict_of_a_part_is_not_one_of_the_whole(kinetics, clip):
    broken = bytearray(clip['webm'])  # whose third of four frames is zeros
    with av.open(io.BytesIO(clip['webm'])) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][2]
    at = broken.index(bytes(packet))
    broken[at : at + packet.size] = bytes(packet.size)
    put(kinetics / 'videos_train' / 'yoga' / 'ddd_000004_000014.webm', broken)
    (report,) = prepare_kinetics(kinetics, show=False)
    assert (report.usable, report.broken) == (3, 1)
    for check in ('full', 'decode'):  # what was found stays
        (report,) = prepare_kinetics(kinetics, check=check, show=False)
        assert (report.usable, report.broken) == (2, 2)
        assert listed(kinetics, 'kinetics400_train_broken_videos.txt')[1] == (
            'yoga/ddd_000004_000014.webm\thas 1 of 4 frames that cannot be decoded'
        )


@pytest.mark.parametrize(
    'name', ['kinetics400_train_list_videos.txt', 'kinetics400_train_broken_videos.txt', prepare.CACHE]
)
def test_a_root_that_cannot_be_written(kinetics, name):
    (kinetics / name / 'in the way').mkdir(parents=True)
    before = sorted(path.name for path in kinetics.iterdir() if path.name.startswith('.'))
    with pytest.raises(UserError, match=rf'the lists cannot be written to {kinetics} \(Is a directory: .*{name}\)'):
        prepare_kinetics(kinetics, show=False)
    assert sorted(path.name for path in kinetics.iterdir() if path.name.startswith('.')) == before


def test_a_root_of_links(kinetics, tmp_path_factory):
    own = tmp_path_factory.mktemp('own')
    for name in ('annotations', 'videos_train'):
        (own / name).symlink_to(kinetics / name)
    (report,) = prepare_kinetics(own, show=False)
    assert (report.usable, report.broken) == (2, 1)
    assert (own / 'kinetics400_train_list_videos.txt').is_file()
    assert not (kinetics / prepare.CACHE).exists()


def test_kinetics_in_flat_folders_as_cvdf_has_it(tmp_path, clip):
    write_csv(tmp_path / 'train.csv', TRAIN[:1])
    write_csv(tmp_path / 'val.csv', TRAIN[1:2])
    put(tmp_path / 'train' / 'aaa_000001_000011.mp4', clip['mp4'])
    put(tmp_path / 'val' / 'bbb_000002_000012.mkv', clip['mp4'])
    train, val = prepare_kinetics(tmp_path, check='headers', show=False)
    assert listed(tmp_path, 'kinetics400_train_list_videos.txt') == ['aaa_000001_000011.mp4 1']
    assert listed(tmp_path, 'kinetics400_val_list_videos.txt') == ['bbb_000002_000012.mkv 0']
    assert 'data_prefix.video=train' in str(train)
    assert 'data_prefix.video=val' in str(val)


def test_blanks_in_folders_change_the_separator(tmp_path, clip):
    write_csv(tmp_path / 'annotations' / 'validate.csv', TRAIN[1:2])
    put(tmp_path / 'videos_val' / 'air drumming' / 'bbb_000002_000012.mp4', clip['mp4'])
    (report,) = prepare_kinetics(tmp_path, check='none', show=False)
    assert listed(tmp_path, 'kinetics400_val_list_videos.txt') == ['air drumming/bbb_000002_000012.mp4;0']
    assert "dataset.delimiter=';'" in str(report)


def test_official_counts_only_for_the_official_classes(tmp_path, clip, monkeypatch):
    write_csv(tmp_path / 'train.csv', [(f'class {n:03d}', f'id{n}', 1) for n in range(400)])
    put(tmp_path / 'videos_train' / 'id7_000001_000011.mp4', clip['mp4'])
    (report,) = prepare_kinetics(tmp_path, show=False)
    assert str(report).startswith('train: 1 of 400 videos of 400 classes')
    assert 'the first release of the official CSV file names 246,534' in str(report)
    assert '240,436' in str(report)
    assert 'num_classes' not in str(report)
    monkeypatch.setitem(prepare._KINETICS_OFFICIAL, 'train', 400)
    (report,) = prepare_kinetics(tmp_path, show=False)
    assert 'first release' not in str(report)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, 'neither train.csv nor validate.csv'),
        ('label,youtube_id\nzumba,aaa\n', 'line 2'),
        (f'{HEADER}zumba,aaa,1,11\n,bbb,2,12\n', r'line 3 of .*train\.csv has an empty label'),
        (f'{HEADER}zumba,aaa,1,11\n" ",bbb,2,12\n', 'line 3 .* empty label'),
        (f'{HEADER}zumba,,1,11\n', r'line 2 of .*train\.csv has an empty youtube_id'),
        (f'{HEADER}zumba,aaa,inf,11\n', 'line 2 .* has not the columns'),
        (f'{HEADER}zumba,aaa,nan,11\n', 'line 2 .* has not the columns'),
        (f'{HEADER}zumba,aaa,1\n', 'line 2 .* has not the columns'),
        ('youtube_id,time_start,time_end,label\naaa,1,11\n', 'line 2 .* has not the columns'),
        (
            f'{HEADER}zumba,aaa,1,11\nyoga,aaa,1,11\n',
            r"line 3 of .*train\.csv gives the video aaa_000001_000011 the label 'yoga', and it has 'zumba' before",
        ),
        ('label,youtube_id,time_start,time_end\n', 'names no video'),
        ('label,youtube_id,time_start,time_end\nzumba,aaa,1,11\n', 'none of the 1 videos'),
    ],
)
def test_unusable_kinetics(tmp_path, content, words):
    if content:
        (tmp_path / 'train.csv').write_text(content)
    with pytest.raises(UserError, match=words):
        prepare_kinetics(tmp_path, show=False)


def test_a_row_that_comes_twice_is_one_video(kinetics):
    write_csv(kinetics / 'annotations' / 'train.csv', [*TRAIN, TRAIN[0]])
    (report,) = prepare_kinetics(kinetics, show=False)
    assert (report.named, report.usable) == (4, 2)
    assert listed(kinetics, 'kinetics400_train_list_videos.txt').count('zumba/aaa_000001_000011.mp4 2') == 1


@pytest.fixture
def ssv2(tmp_path, clip):
    (tmp_path / 'annotations').mkdir()
    labels = {'Holding something': '1', 'Putting something on something': '0'}
    entries = [
        {'id': '78687', 'template': 'Holding [something]', 'label': 'holding potato', 'placeholders': ['potato']},
        {'id': '42326', 'template': 'Putting [something] on [something]', 'label': '', 'placeholders': []},
        {'id': '1', 'template': 'Holding [something]', 'label': '', 'placeholders': []},
    ]
    for name, content in (('labels', labels), ('train', entries), ('validation', entries[:1])):
        (tmp_path / 'annotations' / f'something-something-v2-{name}.json').write_text(json.dumps(content))
    put(tmp_path / 'videos' / '78687.webm', clip['webm'])
    put(tmp_path / 'videos' / '42326.webm', clip['webm'])
    return tmp_path


def test_ssv2_lists(ssv2):
    train, val = prepare_ssv2(ssv2, show=False)
    assert listed(ssv2, 'sthv2_train_list_videos.txt') == ['78687.webm 1', '42326.webm 0']
    assert listed(ssv2, 'sthv2_val_list_videos.txt') == ['78687.webm 1']
    assert listed(ssv2, 'sthv2_train_missing_videos.txt') == ['1']
    assert (train.usable, train.missing, val.usable, val.missing) == (2, 1, 1, 0)
    assert 'number these 2 classes alone and are not those of the 174: set model.cls_head.num_classes=2' in str(val)


def test_ssv2_by_its_short_names(ssv2):
    for name in ('labels', 'train', 'validation'):
        path = ssv2 / 'annotations' / f'something-something-v2-{name}.json'
        path.rename(ssv2 / f'{name}.json')
    assert [report.usable for report in prepare_ssv2(ssv2, check='none', show=False)] == [2, 1]


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('labels', {'Holding something': '1'}, 'without gaps'),
        ('labels', {'Holding something': '0'}, "'Putting something on something' of video 42326"),
        ('labels', ['Holding something'], 'does not map'),
        ('train', [{'id': '5'}], 'entry 1'),
        ('train', [{'id': '', 'template': 'Holding [something]'}], 'entry 1 of .* has an empty id'),
        ('train', [{'id': None, 'template': 'Holding [something]'}], 'entry 1 of .* has an empty id'),
        (
            'train',
            [
                {'id': '5', 'template': 'Holding [something]'},
                {'id': '5', 'template': 'Putting [something] on [something]'},
            ],
            "entry 2 of .* gives the video 5 the label 'Putting .*', and it has 'Holding something' before",
        ),
        ('train', [], 'names no video'),
    ],
)
def test_unusable_ssv2(ssv2, name, content, words):
    (ssv2 / 'annotations' / f'something-something-v2-{name}.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        prepare_ssv2(ssv2, show=False)


def test_ade20k_counts(tmp_path):
    root = tmp_path / 'ADEChallengeData2016'
    for part in ('images', 'annotations'):
        (root / part / 'validation').mkdir(parents=True)
    Image.new('RGB', (8, 6)).save(root / 'images' / 'validation' / 'ADE_val_00000001.jpg')
    pixels = np.array([[0, 1, 150] * 2] * 6, np.uint8)
    Image.fromarray(pixels).resize((8, 6), Image.NEAREST).save(root / 'annotations/validation/ADE_val_00000001.png')
    training, validation = check_ade20k(tmp_path)
    assert 'images/training is missing' in str(training)
    assert not training.faulty
    assert str(validation) == 'validation: 1 of 2,000 images, each with its label map; 1 decoded'
    Image.fromarray(pixels + 1).resize((8, 6), Image.NEAREST).save(root / 'annotations/validation/ADE_val_00000001.png')
    with pytest.raises(UserError, match='the value 151'):
        check_ade20k(tmp_path)


def test_a_split_of_coco_that_cannot_be_used_is_a_line(tmp_path):
    image = {'id': 1, 'file_name': 'a.jpg', 'height': 8, 'width': 8}
    box = {'bbox': [1, 1, 4, 4], 'area': 16, 'iscrowd': 0, 'segmentation': [[1, 1, 5, 1, 5, 5, 1, 5]]}
    content = {
        'images': [image],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, **box}],
        'categories': [{'id': 1, 'name': 'person'}],
    }
    (tmp_path / 'annotations').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'{split}2017').mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path / f'{split}2017' / 'a.jpg')
        (tmp_path / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(content))
    (tmp_path / 'train2017' / 'a.jpg').unlink()  # a part of the images under the whole list
    train, val = check_coco(tmp_path)
    assert str(train).startswith('train: cannot be used: ')
    assert '1 of 1 images are missing' in train.found
    assert (train.faulty, val.faulty) == (True, False)
    assert str(val) == 'val: 1 of 5,000 images, 1 of 36,781 objects, 1 of 80 categories; 1 images decoded'
    done = run_tool('prepare_data.py', 'coco', '--root', tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (1, [str(train), str(val)])
    (tmp_path / 'val2017' / 'a.jpg').unlink()
    with pytest.raises(UserError, match=r'^train: .*1 of 1 images are missing'):
        check_coco(tmp_path)
    for path in (tmp_path / 'annotations').iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r'holds no annotations/instances_train2017\.json, nor another split'):
        check_coco(tmp_path)


def test_a_split_of_broken_videos_alone_is_faulty(kinetics):
    write_csv(kinetics / 'annotations' / 'val.csv', [('zumba', 'eee', 5)])
    put(kinetics / 'videos_val' / 'eee_000005_000015.mp4', b'')
    train, val = prepare_kinetics(kinetics, show=False)
    assert (train.faulty, val.faulty) == (False, True)  # one broken video among others is usual
    (kinetics / 'videos_val' / 'eee_000005_000015.mp4').unlink()
    assert not prepare_kinetics(kinetics, show=False)[1].faulty  # it is missing


def test_imagenet_counts(tmp_path):
    for split in ('train', 'val'):
        (tmp_path / split / 'n01440764').mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / split / 'n01440764' / 'a.JPEG', 'JPEG')
    assert str(check_imagenet(tmp_path)[0]) == 'train: 1 of 1,281,167 images, 1 of 1,000 classes; 1 images decoded'
    (tmp_path / 'val' / 'n01440764' / 'a.JPEG').rename(tmp_path / 'val' / 'a.JPEG')
    (tmp_path / 'val' / 'n01440764').rmdir()
    train, val = check_imagenet(tmp_path)
    assert str(train) == 'train: 1 of 1,281,167 images, 1 of 1,000 classes; 1 images decoded'
    assert str(val).startswith(f'val: cannot be used: the images of {tmp_path}/val are in no class folders')
    (tmp_path / 'train').rename(tmp_path / 'elsewhere')
    with pytest.raises(UserError, match=r'no class folders and there is no .*val\.txt'):
        check_imagenet(tmp_path)
    (tmp_path / 'elsewhere').rename(tmp_path / 'train')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'val.txt').write_text('a.JPEG 65\n')
    assert str(check_imagenet(tmp_path)[1]).startswith('val: 1 of 50,000 images')


def test_command_line(kinetics):
    done = run_tool('prepare_data.py', 'kinetics400', '--root', kinetics)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('train: 2 of 4 videos of 3 classes are usable')
    (kinetics / 'annotations' / 'train.csv').unlink()
    done = run_tool('prepare_data.py', 'kinetics400', '--root', kinetics)
    assert done.returncode == 2
    assert done.stderr.startswith('error: there is neither train.csv')
    assert done.stderr.count('\n') == 1
