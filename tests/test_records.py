"""Records: the schema, what is refused, and files that stay whole."""

import json
import multiprocessing

import pytest

from lisa_backbone.errors import UserError
from lisa_backbone.records import add_records, check_records, read_records, validate

DIGEST = 'ab' * 32
FILE = {'file': 'a.pth', 'sha256': DIGEST}


def published(**more):
    nothing = dict.fromkeys(('config', 'code', 'weights', 'data', 'cost', 'machine', 'versions', 'predictions'))
    return {
        'schema': 1,
        'status': 'published',
        'task': 'COCO Mask R-CNN 1x',
        'model': 'ResNet-50',
        'backbone': 'ResNet-50',
        'attention': None,
        'seed': None,
        'metrics': {'box AP': 0.382},
        'protocol': {},
        'parameters': {'backbone': 25_600_000, 'model': None},
        'macs': {'value': 4_100_000_000, 'input': [1, 3, 224, 224]},
        **nothing,
        'source': 'a paper, table 3',
        'note': None,
        'date': None,
        **more,
    }


def measured(**more):
    return published(
        **{
            'status': 'mini',
            'task': 'mini COCO',
            'seed': 0,
            'config': {'file': 'configs/a.py', 'digest': DIGEST, 'overrides': []},
            'code': {'commit': '0' * 40, 'dirty': False},
            'weights': {'initial': [], 'tested': FILE},
            'data': {'name': 'mini COCO', 'fingerprint': DIGEST},
            'cost': {
                'iterations': 1,
                'train_seconds': None,
                'test_seconds': 1.0,
                'train_peak_mib': 1.0,
                'test_peak_mib': 1.0,
            },
            'machine': {'device': 'cpu', 'processes': 1, 'threads': 2},
            'versions': {'torch': '2.13.0'},
            'source': None,
            'date': '2026-11-21',
            **more,
        }
    )


def test_good_records_pass():
    for record in (published(), measured(), measured(status='reproduced', task='my own', predictions=FILE)):
        assert validate(record, 'it') is record


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        (published(source=None), 'it breaks the schema of records at source: None is not of type'),
        (published(metrics={}), 'at metrics'),
        (published(metrics={'box AP': 38.2}), r'at metrics\.box AP: 38\.2 is greater than the maximum of 1'),
        (published(status='measured'), "at status: 'measured' is not one of"),
        (published(colour='red'), r"Additional properties .*'colour'"),
        (
            measured(config=None, cost=None),
            'it is mini and has no config, cost: a result without provenance is not taken',
        ),
        (measured(seed=None), 'at seed'),
        (measured(date='21.11.2026'), 'at date'),
        (measured(date='2026-99-99'), 'at date: 2026-99-99 is no day'),
        (measured(metrics={'box AP': float('nan')}), r'at metrics\.box AP: nan is no finite number'),
        (measured(macs={'value': 1, 'input': [1, float('inf')]}), r'at macs\.input\.1: inf is no finite number'),
        (measured(status='reproduced'), "at status: 'reproduced' is not the status of 'mini COCO'"),
        (published(task='mini COCO'), "at status: 'published' is not the status of 'mini COCO'"),
        (measured(task='COCO Mask R-CNN 1x'), "at status: 'mini' is not the status of 'COCO Mask R-CNN 1x'"),
        (measured(weights={'initial': [], 'tested': {'file': 'a', 'sha256': 'abc'}}), r'at weights'),
        ({'schema': 1}, 'is a required property'),
        ([], 'at the record'),
    ],
)
def test_what_breaks_the_schema_is_named(record, message):
    with pytest.raises(UserError, match=message):
        validate(record, 'it')


def test_two_claims_of_one_run_are_named():
    other = measured(metrics={'box AP': 0.1})
    with pytest.raises(UserError, match=r'a and b claim the same mini run \(mini COCO, ResNet-50, seed 0\)'):
        check_records([('a', measured()), ('b', other)])
    check_records(
        [('a', measured()), ('b', measured(seed=1)), ('c', measured(status='reproduced')), ('d', published())]
    )
    # two sources may give one model figures under different protocols, not under one
    check_records([('a', published()), ('b', published(protocol={'views': '4x3'}))])
    with pytest.raises(UserError, match='claim the same published run'):
        check_records([('a', published()), ('b', published(source='another'))])


def test_files_are_added_to_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'mini.jsonl'
    assert read_records(path) == []
    add_records(path, [measured()])
    add_records(path, [measured(seed=1), measured(seed=2)])
    assert [record['seed'] for record in read_records(path)] == [0, 1, 2]
    before = path.read_bytes()
    with pytest.raises(UserError, match='line 2, and the new record 1 claim the same mini run'):
        add_records(path, [measured(seed=1)])
    with pytest.raises(UserError, match='the new record 2 is mini and has no data'):
        add_records(path, [measured(seed=3), measured(seed=4, data=None)])
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ['mini.jsonl']  # no drafts and no lock


def add_ten(path, model):
    for seed in range(10):
        add_records(path, [measured(model=model, seed=seed)])


def test_several_processes_add_to_one_file(tmp_path):
    path = tmp_path / 'mini.jsonl'
    fork = multiprocessing.get_context('fork')
    processes = [fork.Process(target=add_ten, args=(path, f'model {number}')) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(read_records(path)) == 40


def test_a_folder_is_read_as_one(tmp_path):
    add_records(tmp_path / 'b.jsonl', [measured()])
    add_records(tmp_path / 'a.jsonl', [published()])
    assert [record['status'] for record in read_records(tmp_path)] == ['published', 'mini']
    add_records(tmp_path / 'c.jsonl', [measured()])
    with pytest.raises(UserError, match=r'b\.jsonl, line 1, and .*c\.jsonl, line 1, claim the same mini run'):
        read_records(tmp_path)


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / 'mini.jsonl'
    path.write_text(json.dumps(measured()) + '\n{"schema": 1,\n')
    with pytest.raises(UserError, match=r'mini\.jsonl, line 2, is not JSON'):
        read_records(path)
    (tmp_path / 'other').write_bytes(b'\xff\xfe')
    with pytest.raises(UserError, match='other is no file of records, which are lines of JSON; name another'):
        read_records(tmp_path / 'other')
    for number, words in (
        ('NaN', r'line 1, is not JSON \(it holds NaN\)'),
        ('-Infinity', r'line 1, is not JSON \(it holds -Infinity\)'),
        ('1e999', r'line 1, breaks the schema of records at metrics\.box AP: inf is no finite number'),
    ):
        path.write_text(json.dumps(measured()).replace('0.382', number) + '\n')
        with pytest.raises(UserError, match=words):
            read_records(path)
