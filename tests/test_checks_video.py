"""Bad videos and lists of them, each told in one sentence; opening and decoding by the transforms."""

import av
import numpy as np
import pytest

from lisa_backbone.data.checks_video import check_video_data
from lisa_backbone.data.transforms import FetchFrames, OpenVideo
from lisa_backbone.data.video import encode_clip
from lisa_backbone.data.video_files import inspect_video
from lisa_backbone.errors import UserError

FRAMES = 12


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """An MP4 and a WebM clip whose n-th frame has the grey level 20 n over noise that does not compress."""
    folder = tmp_path_factory.mktemp('clips')
    rng = np.random.default_rng(0)
    frames = np.stack([np.full((32, 48, 3), 20 * n, np.uint8) for n in range(FRAMES)])
    frames[:, :, 24:] = rng.integers(0, 255, (FRAMES, 32, 24, 3))
    for suffix in ('mp4', 'webm'):
        encode_clip(folder / f'clip.{suffix}', frames, 10)
    with av.open(str(folder / 'groups.mp4'), 'w') as container:  # a key frame every fourth, and frames out of order
        stream = container.add_stream('libx264', rate=10, options={'g': '4', 'bf': '2', 'crf': '16', 'threads': '1'})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], 'yuv420p'
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
        container.mux(stream.encode())
    return folder


@pytest.fixture
def videos(tmp_path, clips):
    """Three videos of either kind and their list."""
    (tmp_path / 'videos').mkdir()
    for number in range(3):
        for suffix in ('mp4', 'webm'):
            content = (clips / f'clip.{suffix}').read_bytes()
            (tmp_path / 'videos' / f'{number}.{suffix}').write_bytes(content)
    (tmp_path / 'list.txt').write_text('0.mp4 0\n1.mp4 1\n2.webm 2\n')
    return tmp_path


def check(root, **options):
    return check_video_data(root / 'list.txt', root / 'videos', **{'classes': 3, **options})


def refuse(root, *words, **options):
    with pytest.raises(UserError) as caught:
        check(root, **options)
    sentence = str(caught.value)
    assert '\n' not in sentence
    for word in words:
        assert str(word) in sentence


# ------------------------------------------------------------------------------------------------------------ the files


@pytest.mark.parametrize('suffix', ['mp4', 'webm'])
def test_a_whole_file_is_counted(clips, suffix):
    assert inspect_video(clips / f'clip.{suffix}') == ('', FRAMES)
    assert inspect_video(clips / f'clip.{suffix}', 'headers') == ('', FRAMES)


@pytest.mark.parametrize('suffix', ['mp4', 'webm'])
def test_broken_files_are_told(clips, tmp_path, suffix):
    content = (clips / f'clip.{suffix}').read_bytes()
    path = tmp_path / f'broken.{suffix}'
    assert inspect_video(path) == ('is not there', 0)
    path.write_bytes(b'')
    assert inspect_video(path) == ('is empty', 0)
    path.write_bytes(b'no video' * 50)
    assert inspect_video(path)[0].startswith('cannot be read')
    path.write_bytes(content[: len(content) // 2])
    fault, frames = inspect_video(path, 'headers')
    assert fault.startswith('cannot be read' if suffix == 'mp4' else 'is truncated')  # MP4 has its index at the end
    assert frames == 0


def test_decoding_finds_what_headers_do_not(clips, tmp_path):
    content = bytearray((clips / 'clip.mp4').read_bytes())
    start, length = content.index(b'mdat') + 4, len(content) // 2
    content[start : start + length] = bytes(length)
    path = tmp_path / 'zeros.mp4'
    path.write_bytes(content)
    assert inspect_video(path, 'headers')[0] == ''
    assert inspect_video(path, 'decode')[0] != ''


def test_a_sound_file_holds_no_video(tmp_path):
    path = tmp_path / 'sound.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert inspect_video(path) == ('holds no video', 0)


# ------------------------------------------------------------------------------------------------------------- the list


def test_a_good_set_is_counted(videos):
    report = check(videos)
    assert (report.videos, report.decoded, report.notes) == (3, 3, ())
    assert check(videos, decode='none').decoded == 0


@pytest.mark.parametrize(
    ('lines', 'words'),
    [
        ('\n', ('list.txt', 'is empty')),
        ('0.mp4 0\n1.mp4\n', ('line 2', 'has no label', "'1.mp4'")),
        ('0.mp4;0\n', ('line 1', 'has no label', "set dataset.delimiter=';'")),
        ('0.mp4 zero\n', ('line 1', "label 'zero'", 'no whole number')),
        ('0.mp4 3\n', ('line 1', 'label 3', '3 classes, 0 to 2')),
        ('0.mp4 -1\n', ('line 1', 'label -1')),
        ('air drumming/0.mp4 0\n', ('line 1', '3 fields', 'delimiter')),
        ('0.mp4 0\n9.mp4 0\n8.mp4 0\n', ('9.mp4', 'not there', '2 of 3')),
    ],
)
def test_bad_lines(videos, lines, words):
    (videos / 'list.txt').write_text(lines)
    refuse(videos, *words)


def test_a_list_for_prediction_needs_no_labels(videos):
    (videos / 'list.txt').write_text('0.mp4\n1.mp4\n')
    assert check(videos, need_labels=False).videos == 2


def test_another_delimiter(videos):
    (videos / 'videos' / 'air drumming').mkdir()
    (videos / 'videos' / '0.mp4').rename(videos / 'videos' / 'air drumming' / '0.mp4')
    (videos / 'list.txt').write_text('air drumming/0.mp4;0\n')
    assert check(videos, delimiter=';').videos == 1


@pytest.mark.parametrize(('kept', 'word'), [(0, 'is empty'), (300, 'cannot be read')])
def test_bad_files_in_a_list(videos, kept, word):
    path = videos / 'videos' / '1.mp4'
    path.write_bytes(path.read_bytes()[:kept])
    refuse(videos, path, word, 'tools/prepare_data.py')


def test_a_short_video_is_noted(videos):
    (note,) = check(videos, span=FRAMES + 1).notes
    assert f'{FRAMES} frames and a clip spans {FRAMES + 1}' in note
    assert '(3 in all)' in note
    assert check(videos, span=FRAMES).notes == ()


def test_a_count_from_the_header_is_refused_for_webm(videos):
    refuse(videos, '2.webm', 'no number of frames', 'OpenVideo', reads_header=True)
    (videos / 'list.txt').write_text('0.mp4 0\n')
    assert check(videos, reads_header=True).videos == 1


# ------------------------------------------------------------------------------------------------------- the transforms


def levels(images):
    return [round(float(image[:, :16].mean()) / 20) for image in images]


@pytest.mark.parametrize('suffix', ['mp4', 'webm'])
def test_the_frames_are_those_asked_for(clips, suffix):
    sample = OpenVideo()({'filename': str(clips / f'clip.{suffix}')})
    assert sample['total_frames'] == FRAMES
    assert sample['avg_fps'] == 10
    indices = np.array([[7, 2, 2], [11, 0, 5]])
    sample = FetchFrames()({**sample, 'frame_inds': indices})
    assert levels(sample['imgs']) == [7, 2, 2, 11, 0, 5]
    assert sample['img_shape'] == sample['original_shape'] == (32, 48)
    assert sample['imgs'][0].dtype == np.uint8


@pytest.mark.parametrize('suffix', ['mp4', 'webm'])
def test_numbers_beyond_the_end_are_the_last_frame(clips, suffix):
    sample = OpenVideo()({'filename': str(clips / f'clip.{suffix}')})
    sample = FetchFrames()({**sample, 'frame_inds': np.array([10, FRAMES + 4, FRAMES + 1])})
    assert levels(sample['imgs']) == [10, 11, 11]


@pytest.mark.parametrize('name', ['clip.mp4', 'groups.mp4', 'clip.webm'])
def test_a_kept_video_gives_the_same_frames(clips, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((clips / name).read_bytes())
    keeping, indices = OpenVideo(keep=1), np.array([7, 2, 2, 11, 0, FRAMES + 3])
    plain = FetchFrames()({**OpenVideo()({'filename': str(path)}), 'frame_inds': indices})
    for visit in range(2):
        if visit:
            path.unlink()  # the frames come from memory
        opened = keeping({'filename': str(path)})
        assert (opened['total_frames'], opened['avg_fps']) == (FRAMES, 10)
        kept = FetchFrames()({**opened, 'frame_inds': indices})
        assert all((one == other).all() for one, other in zip(kept['imgs'], plain['imgs'], strict=True))
        assert kept['img_shape'] == plain['img_shape']
        with pytest.raises(ValueError, match='read-only'):
            kept['imgs'][0][:] = 0


def test_no_more_videos_are_kept_than_there_is_room_for(clips, tmp_path):
    paths = [tmp_path / f'{number}.webm' for number in range(3)]
    for path in paths:
        path.write_bytes((clips / 'clip.webm').read_bytes())
    keeping = OpenVideo(keep=2.5 * FRAMES * 32 * 48 * 3 / 2**20)
    for path in paths:
        sample = FetchFrames()({**keeping({'filename': str(path)}), 'frame_inds': np.array([3, 9])})
        assert levels(sample['imgs']) == [3, 9]
        path.unlink()
    assert [isinstance(keeping({'filename': str(path)})['video_reader'], np.ndarray) for path in paths[:2]] == [
        True
    ] * 2
    with pytest.raises(UserError, match=r'no video .*2\.webm'):
        keeping({'filename': str(paths[2])})


def test_a_damaged_video_is_not_kept(clips, tmp_path):
    path, keeping = damage(clips / 'clip.mp4', tmp_path / 'clip.mp4', 5), OpenVideo(keep=1)
    for _ in range(2):  # told each time
        with pytest.warns(UserWarning, match=r'1 frames of the video .*clip\.mp4 cannot be decoded'):
            sample = FetchFrames()({**keeping({'filename': str(path)}), 'frame_inds': np.array([4, 5, 7])})
        assert levels(sample['imgs']) == [4, 4, 7]


def damage(source, path, *numbers):
    """Copy a clip with zeros for some of its packets, counted in the order of their times."""
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = sorted((packet for packet in container.demux(video=0) if packet.size), key=lambda packet: packet.pts)
    for number in numbers:
        at = content.index(bytes(packets[number]))
        content[at : at + packets[number].size] = bytes(packets[number].size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('name', ['groups.mp4', 'clip.webm'])
def test_a_fault_in_the_middle_is_found_by_decoding_all(clips, videos, name):
    path = damage(clips / name, videos / 'videos' / name, 6)
    assert inspect_video(path, 'decode') == ('', FRAMES)
    assert inspect_video(path, 'full') == (f'has 1 of {FRAMES} frames that cannot be decoded', 0)
    assert inspect_video(clips / name, 'full') == ('', FRAMES)
    (videos / 'list.txt').write_text(f'0.mp4 0\n{name} 0\n')
    assert check(videos).decoded == 2
    refuse(videos, path, 'has 1 of 12 frames', 'tools/prepare_data.py SET --check full', decode='all')


@pytest.mark.parametrize(
    ('name', 'lost', 'shown'),
    [
        ('clip.mp4', [5], {7: 7, 5: 4, 4: 4, 11: 11}),
        ('groups.mp4', [5], {4: 4, 5: 4, 6: 6, 8: 8, 11: 11}),
        ('groups.mp4', [0], {4: 4, 8: 8, 11: 11}),  # the frames that follow a lost key frame may be lost as well
        ('groups.mp4', [4], {3: 3, 4: 3, 8: 8, 11: 11}),
        ('clip.webm', [5], {7: 7, 5: 4, 4: 4, 11: 11}),
        ('clip.webm', [0, 1, 10, 11], {0: 2, 1: 2, 2: 2, 9: 9, 10: 9, 11: 9, 13: 9}),
    ],
)
def test_a_frame_that_cannot_be_decoded_is_the_one_before_it(clips, tmp_path, name, lost, shown):
    path = damage(clips / name, tmp_path / name, *lost)
    sample = {**OpenVideo()({'filename': str(path)}), 'frame_inds': np.array([*shown, *shown])}
    with pytest.warns(UserWarning, match=rf'{len(lost)} frames of the video .*{name} cannot be decoded') as caught:
        images = FetchFrames()(sample)['imgs']
    assert len(caught) == 1
    assert levels(images) == [*shown.values()] * 2


def test_no_frame_that_can_be_decoded(clips, tmp_path):
    path = damage(clips / 'clip.webm', tmp_path / 'a.webm', *range(FRAMES))
    sample = {**OpenVideo()({'filename': str(path)}), 'frame_inds': np.array([3])}
    with pytest.raises(UserError, match=r'no frame of the video .*a\.webm can be decoded \('):
        FetchFrames()(sample)
    assert inspect_video(path, 'full') == ('has no frame that can be decoded', 0)


def test_a_broken_video_is_named(tmp_path, clips):
    path = tmp_path / 'broken.mp4'
    with pytest.raises(UserError, match=r'no video .*broken\.mp4'):
        OpenVideo()({'filename': str(path)})
    path.write_bytes((clips / 'clip.mp4').read_bytes()[:200])
    with pytest.raises(UserError, match=r'broken\.mp4 cannot be read'):
        OpenVideo()({'filename': str(path)})
