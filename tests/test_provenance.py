"""Provenance: what a record says of code, config, data, weights and test protocol."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmcv')

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.runner.checkpoint import get_torchvision_models  # noqa: E402

from lisa_backbone import provenance  # noqa: E402
from lisa_backbone.config import load_config  # noqa: E402
from lisa_backbone.data.mini_coco import MINI_COCO  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.provenance import (  # noqa: E402
    code_state,
    config_of,
    data_of,
    file_digest,
    initial_weights,
    nominal_input,
    protocol_of,
    show_path,
)

REPO = Path(__file__).parents[1]


def config(name):
    return load_config(REPO / 'configs' / f'{name}.py')


# name: (input of the backbone, protocol), by hand from the recipes
KNOWN = {
    'det/mask-rcnn_lisa-t_fpn_1x_coco': ((1, 3, 800, 1280), {'input': '800x1280'}),
    'det/mask-rcnn_lisa-p_fpn_mini-coco': ((1, 3, 160, 160), {'input': '160x160'}),
    'seg/lisa-t_upernet_8xb2-160k_ade20k-512x512': ((1, 3, 512, 2048), {'input': '512x2048', 'mode': 'whole'}),
    'pretrain/lisa-t_16xb64_in1k': ((1, 3, 224, 224), {'input': '224x224'}),
    'action/lisa-t_8xb8-amp-16x4x1-30e_kinetics400-rgb': (
        (1, 3, 16, 224, 224),
        {'input': '224x224', 'frames': 16, 'frame interval': 4, 'views': 4, 'crops': 3},
    ),
    'action/lisa-t_8xb8-amp-u16-30e_sthv2-rgb': (
        (1, 3, 16, 224, 224),
        {'input': '224x224', 'frames': 16, 'views': 1, 'crops': 3},
    ),
    'action/tsm-r50_8xb8-amp-u16-30e_sthv2-rgb': (
        (16, 3, 224, 224),
        {'input': '224x224', 'frames': 16, 'views': 1, 'crops': 3},
    ),
    'action/lisa-p_1x1x1_mini-ssv2-rgb': (
        (1, 3, 64, 64),
        {'input': '64x64', 'frames': 1, 'frame interval': 1, 'views': 1, 'crops': 1},
    ),
}


@pytest.mark.parametrize('name', KNOWN)
def test_input_and_protocol(name):
    cfg = config(name)
    shape, protocol = KNOWN[name]
    assert nominal_input(cfg) == shape
    assert protocol_of(cfg) == {**protocol, 'scales': 1, 'flip': False}


def test_averaging_over_flips_and_scales_is_told():
    cfg = config('seg/lisa-t_upernet_8xb2-160k_ade20k-512x512')
    assert protocol_of(cfg, tta=True) == {'input': '512x2048', 'mode': 'whole', 'scales': 6, 'flip': True}


def test_a_config_is_known_by_what_it_says(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        "model = dict(type='Net', backbone=dict(type='B', init_cfg=dict(checkpoint=None)))\ndata_root = 'd'\n"
    )
    plain = config_of(str(path), None)
    local = {'data_root': '/elsewhere', 'model.backbone.init_cfg.checkpoint': '/a.pth'}
    assert config_of(str(path), local) == plain  # where things lie is no part of it
    other = config_of(str(path), {**local, 'model.type': 'Other'})
    assert other['overrides'] == ['model.type=Other']
    assert other['digest'] != plain['digest']
    assert plain['file'] == 'mine.py'  # a file outside of the checkout, without its folders


def test_paths_are_relative_or_bare(tmp_path, monkeypatch):
    assert show_path(REPO / 'configs' / 'x.py') == 'configs/x.py'
    assert show_path(tmp_path / 'a' / 'b.pth') == 'b.pth'
    monkeypatch.chdir(tmp_path)
    assert show_path('a/b.pth') == 'a/b.pth'


def test_weights_are_known_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    (tmp_path / 'a.pth').write_bytes(b'weights')
    expected = {'file': 'a.pth', 'sha256': hashlib.sha256(b'weights').hexdigest()}
    assert file_digest(tmp_path / 'a.pth') == expected
    init = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'a.pth')}
    cfg = Config({'model': {'backbone': {'type': 'B', 'init_cfg': init}}})
    assert initial_weights(cfg) == [expected]
    # of a URL it is the file that torch keeps, not the name
    url = 'https://example.org/some/b.pth?version=1'
    cfg = Config({'model': {'backbone': {'type': 'B'}}})
    assert initial_weights(cfg, url) == [{'file': url, 'sha256': None}]
    kept = tmp_path / 'torch' / 'hub' / 'checkpoints'
    kept.mkdir(parents=True)
    (kept / 'b.pth').write_bytes(b'fetched')
    assert initial_weights(cfg, url) == [{'file': url, 'sha256': hashlib.sha256(b'fetched').hexdigest()}]
    name = 'torchvision://resnet18'
    cfg = Config({'model': {'backbone': {'type': 'B', 'init_cfg': {'type': 'Pretrained', 'checkpoint': name}}}})
    (kept / Path(get_torchvision_models()['resnet18']).name).write_bytes(b'of torchvision')
    assert initial_weights(cfg) == [{'file': name, 'sha256': hashlib.sha256(b'of torchvision').hexdigest()}]
    assert initial_weights(Config({'model': {'type': 'Net'}})) == []
    given = {'type': 'TIMMBackbone', 'model_name': 'resnet18', 'pretrained': True}
    (found,) = initial_weights(Config({'model': {'backbone': given, 'neck': {'pretrained': False}}}))
    assert found == {'file': 'timm:resnet18', 'sha256': None}
    given = {'type': 'UniFormer', 'pretrained': str(tmp_path / 'a.pth')}
    assert initial_weights(Config({'model': {'backbone': given}})) == [expected]


def test_data_are_known_by_their_annotations(tmp_path):
    (tmp_path / 'val.json').write_text('{}')
    leaf = {'type': 'CocoDataset', 'data_root': str(tmp_path), 'ann_file': 'val.json'}
    cfg = Config({'test_dataloader': {'dataset': {'type': 'RepeatDataset', 'dataset': leaf}}})
    expected = {'name': tmp_path.name, 'fingerprint': hashlib.sha256(b'{}').hexdigest()}
    assert data_of(cfg) == expected
    # what is trained on is known besides: a list that lost its missing videos is another
    (tmp_path / 'train.txt').write_text('a.mp4 0\nb.mp4 1\n')
    cfg.train_dataloader = {'dataset': {**leaf, 'ann_file': 'train.txt'}}
    assert data_of(cfg, 'train')['fingerprint'] == hashlib.sha256(b'a.mp4 0\nb.mp4 1\n').hexdigest()
    assert data_of(cfg) == expected


def test_a_mini_set_has_its_fingerprint_while_it_is_what_was_made(tmp_path):
    root = tmp_path / 'mini_coco'
    made = MINI_COCO.make(root, MINI_COCO.params(train=2, val=2))
    leaf = {'type': 'CocoDataset', 'data_root': str(root), 'ann_file': 'annotations/instances_val2017.json'}
    cfg = Config({'test_dataloader': {'dataset': leaf}, 'train_dataloader': {'dataset': leaf}})
    expected = {'name': 'mini COCO', 'fingerprint': made['fingerprint']}
    assert data_of(cfg) == data_of(cfg, 'train') == expected
    # one of before records had the digest of the files: compared by the pixels, then the digest is added
    record = json.loads((root / 'mini.json').read_text())
    digest = record.pop('sha256')
    (root / 'mini.json').write_text(json.dumps(record))
    assert data_of(cfg) == expected
    assert json.loads((root / 'mini.json').read_text()) == {**record, 'sha256': digest}
    image = next((root / 'train2017').iterdir())
    whole = image.read_bytes()
    for old in (False, True):
        if old:
            (root / 'mini.json').write_text(json.dumps(record))
        for spoil in (
            lambda: image.write_bytes(cv2.imencode('.jpg', np.zeros((64, 64, 3), np.uint8))[1].tobytes()),
            lambda: image.write_bytes(b'no image'),
            image.unlink,
        ):
            spoil()
            with pytest.raises(UserError, match=r'mini_coco are not those that were made; make it anew with `python'):
                data_of(cfg)
            image.write_bytes(whole)
    assert data_of(cfg) == expected
    (root / 'mini.json').write_text('{}')
    with pytest.raises(UserError, match=r"mini\.json is no record of a mini set \('set'\)"):
        data_of(cfg)


def test_folders_without_annotations_are_known_by_names_and_sizes(tmp_path):
    (tmp_path / 'val' / 'cat').mkdir(parents=True)
    (tmp_path / 'val' / 'cat' / '1.jpg').write_bytes(b'12345')
    leaf = {'type': 'ImageNet', 'data_root': str(tmp_path), 'data_prefix': {'img_path': 'val'}}
    cfg = Config({'test_dataloader': {'dataset': leaf}})
    assert data_of(cfg)['fingerprint'] == hashlib.sha256(b'val/cat/1.jpg 5\n').hexdigest()
    cfg.train_dataloader = {'dataset': leaf}
    assert data_of(cfg, 'train')['fingerprint'] == hashlib.sha256(b'val/cat/1.jpg\n').hexdigest()
    leaf = {'type': 'ImageNet', 'data_root': str(tmp_path), 'split': 'val'}  # mmpretrain finds folder and list by it
    cfg = Config({'test_dataloader': {'dataset': leaf}})
    assert data_of(cfg)['fingerprint'] == hashlib.sha256(b'val/cat/1.jpg 5\n').hexdigest()
    # an absolute prefix, beside a root that is relative, another folder, or none
    for root in ('ds', str(tmp_path / 'val'), ''):
        leaf = {'type': 'CustomDataset', 'data_root': root, 'data_prefix': str(tmp_path)}
        cfg.train_dataloader = {'dataset': leaf}
        assert data_of(cfg, 'train')['fingerprint'] == hashlib.sha256(b'val/cat/1.jpg\n').hexdigest()
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'val.txt').write_text('cat/1.jpg 0\n')
    assert data_of(cfg)['fingerprint'] == hashlib.sha256(b'cat/1.jpg 0\n').hexdigest()


def test_data_without_files_are_known_by_their_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fingerprint(**settings):
        return data_of(Config({'test_dataloader': {'dataset': {'type': 'Synthetic', **settings}}}))['fingerprint']

    before = fingerprint(size=4)
    (tmp_path / 'work_dirs').mkdir()
    (tmp_path / 'work_dirs' / 'log.txt').write_text('of no data')
    assert fingerprint(size=4) == before != fingerprint(size=5)
    assert fingerprint(size=4, pipeline=[{'type': 'Resize'}]) == before


@pytest.mark.parametrize(
    ('scale', 'sides'), [((float('inf'), 256), (256, 256)), ([(640, 480), (320, 240)], (480, 640)), (-1, (224, 224))]
)
def test_input_of_an_unusual_scale(scale, sides):
    leaf = {'type': 'D', 'pipeline': [{'type': 'Resize', 'scale': scale}]}
    assert nominal_input(Config({'test_dataloader': {'dataset': leaf}})) == (1, 3, *sides)


@pytest.mark.skipif(not shutil.which('git'), reason='git is not installed')
def test_code_is_known_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, '__file__', str(tmp_path / 'lisa_backbone' / 'provenance.py'))
    code_state.cache_clear()
    try:
        assert code_state() == {'commit': 'unknown', 'dirty': False}

        def git(*words):
            identity = ('-c', 'user.name=a', '-c', 'user.email=a@b')
            done = subprocess.run(['git', *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
            return done.stdout.strip()

        def state():
            code_state.cache_clear()
            return code_state()

        (tmp_path / 'results').mkdir()
        for name in ('code.py', 'results/mini.jsonl'):
            (tmp_path / name).write_text('1\n')
        git('init', '-q')
        git('add', '.')
        git('commit', '-qm', 'first')
        head = git('rev-parse', 'HEAD')
        inside = tmp_path / '.venv' / 'site-packages' / 'lisa_backbone' / 'provenance.py'  # of another's checkout
        inside.parent.mkdir(parents=True)
        with monkeypatch.context() as patch:
            patch.setattr(provenance, '__file__', str(inside))
            assert state() == {'commit': 'unknown', 'dirty': False}
        assert state() == {'commit': head, 'dirty': False}
        (tmp_path / 'results' / 'mini.jsonl').write_text('2\n')  # what a sweep writes as it goes
        assert state() == {'commit': head, 'dirty': False}
        for name, dirty in (
            ('data/a.py', False),
            ('lisa_backbone/a.txt', False),
            ('lisa_backbone/attention/new.py', True),
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text('1\n')
            assert state() == {'commit': head, 'dirty': dirty}, name
        (tmp_path / name).unlink()
        assert state() == {'commit': head, 'dirty': False}
        (tmp_path / 'code.py').write_text('2\n')
        assert state() == {'commit': head, 'dirty': True}
    finally:
        code_state.cache_clear()
