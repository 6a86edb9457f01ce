"""The data of whole configs, checked before a run; and what a run says of a video that breaks under it."""

import subprocess

import pytest

from lisa_backbone import compat

compat.apply()
for framework in ('mmdet', 'mmseg', 'mmaction', 'mmpretrain'):
    pytest.importorskip(framework)

from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.nn.functional import cross_entropy, one_hot  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from lisa_backbone.data.transforms import OpenVideo  # noqa: E402
from lisa_backbone.data.video import encode_clip  # noqa: E402
from lisa_backbone.dataset_checks import check_data  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.run_errors import explained  # noqa: E402
from lisa_backbone.runner import RunOptions, prepare  # noqa: E402

REPO = Path(__file__).parents[1]
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')


def config(name, root, **options):
    path = next((REPO / 'configs').glob(f'*/{name}.py'))
    return prepare(RunOptions(str(path), cfg_options={'data_root': f'{root}/', **options}))


def refuse(cfg, *words, **options):
    with pytest.raises(UserError) as caught:
        check_data(cfg, LOADERS, **options)
    sentence = str(caught.value)
    assert '\n' not in sentence
    for word in words:
        assert str(word) in sentence


@pytest.mark.parametrize(('heads', 'named'), [((9, 10), 'bbox_head'), ((10, 9), 'mask_head'), ((10, 10), None)])
def test_detection_heads_of_fewer_classes(tmp_path, monkeypatch, heads, named):
    """RetinaNet would learn the next class as background."""
    monkeypatch.setattr('lisa_backbone.dataset_checks._run', lambda *args: [])
    for part in ('train', 'val'):
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        (tmp_path / 'annotations' / f'instances_{part}2017.json').touch()
    keys = (f'model.roi_head.{name}_head.num_classes' for name in ('bbox', 'mask'))
    cfg = config('mask-rcnn_lisa-p_fpn_mini-coco', tmp_path, **dict(zip(keys, heads, strict=True)))
    if named is None:
        assert check_data(cfg, LOADERS) == []
    else:
        refuse(cfg, f'10 classes and model.roi_head.{named}.num_classes=9', 'set num_classes=10')


def test_a_head_of_videos_of_another_width_is_a_sentence(tmp_path):
    cfg = config('lisa-p_u8_mini-ssv2-rgb', tmp_path, **{'model.cls_head.in_channels': 9})
    told = r'model\.cls_head takes 9 channels and is given 7; set in_channels=7 of it'
    with pytest.raises(UserError, match=told), explained(cfg):
        torch.nn.Linear(9, 2)(torch.zeros(3, 7))
    with pytest.raises(RuntimeError, match='mat1 and mat2'), explained(cfg):
        torch.nn.Linear(8, 2)(torch.zeros(3, 7))  # a fault elsewhere keeps its traceback


@pytest.fixture
def seg(tmp_path):
    for part, split in ((p, s) for p in ('images', 'annotations') for s in ('training', 'validation')):
        (tmp_path / part / split).mkdir(parents=True)
        for number in range(2):
            picture = np.full((16, 16, 3) if part == 'images' else (16, 16), 1 + number, np.uint8)
            suffix = 'jpg' if part == 'images' else 'png'
            Image.fromarray(picture).save(tmp_path / part / split / f'ADE_{number}.{suffix}')
    return tmp_path


def test_segmentation(seg):
    cfg = config('lisa-p_fpn_mini-ade20k-128x128', seg)
    assert check_data(cfg, LOADERS) == []
    broken = seg / 'annotations' / 'training' / 'ADE_1.png'
    Image.fromarray(np.full((16, 16), 16, np.uint8)).save(broken)
    refuse(cfg, 'train_dataloader.dataset', broken, 'the value 16', '15 classes')
    assert check_data(cfg, LOADERS, check_images='none') == []
    broken.unlink()
    refuse(cfg, 'has no label map', broken, check_images='none')


def test_segmentation_head_of_other_classes(seg):
    cfg = config('lisa-p_fpn_mini-ade20k-128x128', seg, **{'model.decode_head.num_classes': 12})
    refuse(cfg, '15 classes', 'num_classes=12')


def test_ade20k_takes_zero_for_unlabelled_by_default(seg):
    cfg = config('lisa-t_fpn_8xb2-80k_ade20k-512x512', seg)
    broken = seg / 'annotations' / 'validation' / 'ADE_0.png'
    Image.fromarray(np.full((16, 16), 150, np.uint8)).save(broken)
    assert check_data(cfg, LOADERS) == []
    Image.fromarray(np.full((16, 16), 151, np.uint8)).save(broken)
    refuse(cfg, broken, 'the value 151', '0 (unlabelled) to 150')


@pytest.fixture
def kinetics(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)
    for split in ('train', 'val'):
        (tmp_path / f'videos_{split}').mkdir()
        encode_clip(tmp_path / f'videos_{split}' / 'a.mp4', frames, 10)
        (tmp_path / f'kinetics400_{split}_list_videos.txt').write_text('a.mp4 9\n')
    return tmp_path


def test_videos(kinetics):
    cfg = config('lisa-p_8x2x1_mini-kinetics-rgb', kinetics)
    assert check_data(cfg, LOADERS) == []
    listed = kinetics / 'kinetics400_val_list_videos.txt'
    listed.write_text('a.mp4 10\n')
    refuse(cfg, 'val_dataloader.dataset', f'line 1 of {listed}', 'label 10', '10 classes')
    listed.write_text('a.mp4 1\n')
    video = kinetics / 'videos_train' / 'a.mp4'
    content = video.read_bytes()
    video.write_bytes(content[:-100])
    refuse(cfg, 'train_dataloader.dataset', video, 'cannot be read')
    video.write_bytes(b'')
    refuse(cfg, video, 'is empty')
    video.unlink()
    refuse(cfg, video, 'not there')


def test_a_short_video_is_noted(kinetics):
    cfg = config('lisa-t_8xb8-amp-8x8x1-30e_kinetics400-rgb', kinetics)
    notes = check_data(cfg, LOADERS)
    assert all('has 16 frames and a clip spans 57' in note for note in notes)
    assert len(notes) == 2  # train and val; the test set is that of val


def test_pyav_init_is_refused_for_webm(kinetics):
    cfg = config('lisa-p_8x2x1_mini-kinetics-rgb', kinetics)
    (kinetics / 'videos_train' / 'a.webm').write_bytes(b'')
    (kinetics / 'kinetics400_train_list_videos.txt').write_text('a.webm 9\n')
    cfg.train_dataloader.dataset.pipeline[0]['type'] = 'PyAVInit'
    refuse(cfg, 'a.webm', 'OpenVideo in place of PyAVInit')


def test_classification(tmp_path):
    for split in ('train', 'val'):
        for number in range(len(DIGITS)):
            (tmp_path / split / f'n{number}').mkdir(parents=True)
            pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f'n{number}' / 'a.png')
    cfg = config('lisa-p_mini-imagenet', tmp_path)
    assert check_data(cfg, LOADERS) == []
    broken = tmp_path / 'train' / 'n6' / 'a.png'
    broken.write_bytes(broken.read_bytes()[:300])
    refuse(cfg, 'train_dataloader.dataset', broken, 'truncated')
    assert check_data(cfg, LOADERS, check_images='none') == []
    broken.unlink()
    broken.parent.rmdir()
    refuse(cfg, '9 class folders', '10 classes')


def test_a_mini_set_that_is_missing_names_its_command(tmp_path):
    root = tmp_path / 'mini_kinetics'
    cfg = config('lisa-p_8x2x1_mini-kinetics-rgb', root)
    refuse(cfg, f'folder {root}/ does not exist', f'python tools/make_mini_data.py kinetics --out {root}')


class _Videos(list):
    """A dataset that opens its videos as a pipeline does."""

    def __getitem__(self, index):
        return OpenVideo()({'filename': super().__getitem__(index)})['total_frames']


@pytest.mark.parametrize('workers', [0, 1])
def test_a_video_that_breaks_under_a_run_is_named(tmp_path, workers):
    path = tmp_path / 'broken.mp4'
    path.write_bytes(b'x' * 100)
    with pytest.raises(UserError) as caught, explained({}):
        list(DataLoader(_Videos([str(path)]), num_workers=workers))
    assert str(caught.value).startswith(f'the video {path} cannot be read')
    assert '\n' not in str(caught.value)


def test_a_video_that_another_transform_cannot_read_is_looked_for(kinetics):
    cfg = config('lisa-p_8x2x1_mini-kinetics-rgb', kinetics)
    video = kinetics / 'videos_train' / 'a.mp4'
    video.write_bytes(video.read_bytes()[:-100])
    with pytest.raises(UserError) as caught, explained(cfg):
        raise RuntimeError("Caught InvalidDataError ...: Invalid data found when processing input: '<none>'")
    assert str(video) in str(caught.value)
    assert str(caught.value).endswith('then go on with --resume')


@pytest.mark.parametrize(
    'said',
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        'shared memory. Please try to raise your shared memory limit.',
        'unable to open shared memory object </torch_1_2> in read-write mode: Too many open files (24)',
    ],
)
def test_a_worker_without_shared_memory_is_told(said):
    with pytest.raises(UserError, match=r'a data worker ran out of shared memory; enlarge /dev/shm'), explained({}):
        raise RuntimeError(said)


def test_errors_that_are_not_of_the_data_keep_their_cause():
    """A kernel that is too large for a GPU's shared memory, and a compiler that is not there."""
    said = 'out of resource: shared memory, Required: 270336, Hardware limit: 232448'
    with pytest.raises(RuntimeError, match='Required: 270336'), explained({}):
        raise RuntimeError(said)
    with pytest.raises(FileNotFoundError), explained({}):
        subprocess.run(['no-such-compiler'])
    with pytest.raises(UserError, match=r'file data/a\.jpg does not exist'), explained({}):
        Path('data/a.jpg').read_bytes()


OUT_OF_RANGE = {
    'CPU': IndexError('Target 200 is out of bounds.'),
    'GPU': RuntimeError('CUDA error: device-side assert triggered'),
    'one-hot': RuntimeError('Class values must be smaller than num_classes.'),
}


@pytest.mark.parametrize('device', OUT_OF_RANGE)
def test_a_label_out_of_range_is_looked_for(seg, device):
    cfg = config('lisa-p_fpn_mini-ade20k-128x128', seg)
    broken = seg / 'annotations' / 'training' / 'ADE_1.png'
    Image.fromarray(np.full((16, 16), 200, np.uint8)).save(broken)
    with pytest.raises(UserError) as caught, explained(cfg):
        raise OUT_OF_RANGE[device]
    assert f'{broken} holds the value 200' in str(caught.value)
    assert str(caught.value).endswith('then go on with --resume')


def test_a_label_out_of_range_that_is_not_found(seg):
    cfg = config('lisa-p_fpn_mini-ade20k-128x128', seg)
    with pytest.raises(UserError, match='the label 200 is no class of the head; correct num_classes'), explained(cfg):
        raise OUT_OF_RANGE['CPU']
    with pytest.raises(RuntimeError, match='device-side assert'), explained(cfg):  # its cause is another one
        raise OUT_OF_RANGE['GPU']


def test_the_loss_refuses_a_label_out_of_range_as_it_is_recognised():
    with pytest.raises(IndexError, match='Target 200 is out of bounds'):
        cross_entropy(torch.zeros(1, 3), torch.tensor([200]))
    with pytest.raises(RuntimeError, match='Class values must be smaller than num_classes'):
        one_hot(torch.tensor([4]), 3)
