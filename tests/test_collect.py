"""Records out of work directories."""

import json

import pytest
from mmengine.config import Config

from lisa_backbone.collect import attention_of, record_of, write_record
from lisa_backbone.errors import UserError

DIGEST = 'ab' * 32


def entries(**test):
    config = {'file': 'configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py', 'digest': DIGEST, 'overrides': ['a=1']}
    shared = {
        'config': config,
        'code': {'commit': '0' * 40, 'dirty': False},
        'machine': {'device': 'cpu', 'processes': 1, 'threads': 2},
        'versions': {'torch': '2.13.0'},
        'peak_mib': 512.5,
        'seed': 3,
    }
    train = {
        **shared,
        'parameters': 100,
        'backbone_parameters': 60,
        'iterations': 7,
        'seconds': 12.5,
        'resumed_from': None,
        'train_seconds': 14.0,
        'data': {'name': 'mini COCO', 'fingerprint': 'cd' * 32},
        'made': [{'file': 'best.pth', 'sha256': 'ef' * 32}, {'file': 'epoch_1.pth', 'sha256': DIGEST}],
        'weights': [{'file': 'start.pth', 'sha256': DIGEST}],
    }
    tested = {
        **shared,
        'metrics': {'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.25, 'coco/bbox_mAP_50': 0.9},
        'seconds': 2.0,
        'protocol': {'input': '160x160'},
        'macs': {'value': 10, 'input': [1, 3, 160, 160]},
        'checkpoint': 'elsewhere/epoch_1.pth',
        'weights': {'file': 'epoch_1.pth', 'sha256': DIGEST},
        'data': {'name': 'mini COCO', 'fingerprint': DIGEST},
        'predictions': None,
        'finished': '2026-11-21T10:00:00+0000',
        **test,
    }
    return {'train': train, 'test': tested}


def write(tmp_path, content):
    (tmp_path / 'metrics.json').write_text(json.dumps(content))


LISA = {'type': 'LiSA', 'attention': {'type': 'SelfAttention', 'local_conv': True}}


def test_a_record_is_made_of_training_and_test(tmp_path):
    write(tmp_path, entries())
    record = record_of(tmp_path, LISA)
    assert (record['status'], record['task'], record['seed']) == ('mini', 'mini COCO', 3)
    assert record['model'] == 'lisa-p, SelfAttention:local_conv=True'
    assert record['metrics'] == {'box AP': 0.5, 'mask AP': 0.25}  # those of the task, the main one first
    assert record['parameters'] == {'backbone': 60, 'model': 100}
    assert record['weights']['initial'] == [{'file': 'start.pth', 'sha256': DIGEST}]
    assert record['cost'] == {
        'iterations': 7,
        'train_seconds': 14.0,
        'test_seconds': 2.0,
        'train_peak_mib': 512.5,
        'test_peak_mib': 512.5,
    }
    assert record['data'] == {'name': 'mini COCO', 'fingerprint': DIGEST, 'training': 'cd' * 32}
    assert record['date'] == '2026-11-21'
    path = write_record(tmp_path, Config({'model': {'backbone': LISA}}))
    assert json.loads(path.read_text()) == record


def test_percent_becomes_a_share(tmp_path):
    content = entries(metrics={'mIoU': 61.23})
    for entry in content.values():
        entry['config']['file'] = 'configs/seg/swin-p_fpn_mini-ade20k-128x128.py'
    write(tmp_path, content)
    record = record_of(tmp_path, {'type': 'mmdet.SwinTransformer'})
    assert record['metrics'] == {'mIoU': 0.6123}
    assert (record['model'], record['attention']) == ('swin-p', None)


def test_seconds_of_a_resumed_training(tmp_path):
    content = entries()
    for resumed, seconds, expected in (
        ('epoch_1.pth', 80.5, 80.5),  # all of them, as the checkpoint told those before
        ('epoch_1.pth', None, None),  # it did not
    ):
        content['train'] |= {'resumed_from': resumed, 'train_seconds': seconds}
        write(tmp_path, content)
        assert record_of(tmp_path, LISA)['cost']['train_seconds'] == expected
    del content['train']['train_seconds']  # written before they were summed up
    write(tmp_path, content)
    assert record_of(tmp_path, LISA)['cost']['train_seconds'] is None
    content['train']['resumed_from'] = None
    write(tmp_path, content)
    assert record_of(tmp_path, LISA)['cost']['train_seconds'] == 12.5


def test_weights_of_another_training_have_no_record(tmp_path, capsys):
    foreign = {'checkpoint': str(tmp_path / 'other.pth'), 'weights': {'file': 'other.pth', 'sha256': '12' * 32}}
    cfg = Config({'model': {'backbone': LISA}})
    write(tmp_path, entries())
    path = write_record(tmp_path, cfg)
    assert path.is_file()
    write(tmp_path, entries(**foreign))
    assert write_record(tmp_path, cfg) is None
    assert 'other.pth is neither the best nor the last checkpoint that was trained in' in capsys.readouterr().out
    assert not path.exists()  # that of before is of another test
    # of a training that noted no digests, those that lie beside it are taken
    old = entries(**foreign)
    del old['train']['made'], old['train']['data']
    write(tmp_path, old)
    assert record_of(tmp_path, LISA)['data'] == {'name': 'mini COCO', 'fingerprint': DIGEST}
    old['test']['checkpoint'] = str(tmp_path / 'elsewhere' / 'other.pth')
    write(tmp_path, old)
    with pytest.raises(UserError, match='is neither the best nor the last checkpoint'):
        record_of(tmp_path, LISA)


def test_a_config_of_no_task_has_no_record(tmp_path):
    content = entries()
    content['train']['config']['file'] = 'mine.py'
    write(tmp_path, content)
    assert record_of(tmp_path, LISA) is None
    assert write_record(tmp_path, Config({'model': {'backbone': LISA}})) is None


def test_what_lacks_is_told(tmp_path, capsys):
    with pytest.raises(UserError, match=r'holds no metrics\.json; train and test there first'):
        record_of(tmp_path, LISA)
    for broken in (b'{"train": ', b'\xff', b'[1, 2]'):
        (tmp_path / 'metrics.json').write_bytes(broken)
        with pytest.raises(UserError, match=r'metrics\.json cannot be read \(.*\); train and test again'):
            record_of(tmp_path, LISA)
    write(tmp_path, {'test': {}})
    assert write_record(tmp_path, Config({'model': {'backbone': LISA}})) is None
    assert 'no record of this run: ' in capsys.readouterr().out
    write(tmp_path, entries(metrics={'coco/bbox_mAP': 0.5, 'coco/segm_mAP': None}))
    with pytest.raises(UserError, match=r'gives no finite coco/segm_mAP, only coco/bbox_mAP, coco/segm_mAP'):
        record_of(tmp_path, LISA)
    old = entries()
    old['train']['config'] = 'configs/a.py'
    write(tmp_path, old)
    with pytest.raises(
        UserError, match=r"entry 'train' of .*metrics\.json was written by an earlier version; train again"
    ):
        record_of(tmp_path, LISA)
    content = entries()
    content['test'] = json.loads(json.dumps(content['test']))
    content['test']['config']['digest'] = 'cd' * 32
    write(tmp_path, content)
    with pytest.raises(UserError, match='tested with another config or other overrides than it was trained with'):
        record_of(tmp_path, LISA)
    content['train']['digest_without_flags'] = 'cd' * 32  # trained with --auto-scale-lr or --amp, which no test takes
    write(tmp_path, content)
    assert record_of(tmp_path, LISA)['config']['digest'] == DIGEST


def test_operators_by_their_names():
    assert attention_of({'type': 'LiSA'}) == 'LiSAttention'
    assert attention_of({'type': 'mmpretrain.LiSA', 'attention': 'SelfAttention'}) == 'SelfAttention'
    two = [{'type': 'A', 'm': 2}, {'type': 'A', 'm': 2}, 'B', 'B']
    assert attention_of({'type': 'LiSA', 'attention': two}) == 'A:m=2 / B'
    assert attention_of({'type': 'ResNet'}) is None
