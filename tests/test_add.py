"""Runs added to the results: what passes, and what is refused without a trace."""

import gzip
import hashlib
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from processes import run_tool

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')

from lisa_backbone.collect import write_record  # noqa: E402
from lisa_backbone.config import load_config  # noqa: E402
from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.add import add  # noqa: E402
from lisa_backbone.leaderboard.lint import cost_of  # noqa: E402
from lisa_backbone.predictions import Detection, classification, write_predictions  # noqa: E402
from lisa_backbone.provenance import config_of, file_digest  # noqa: E402
from lisa_backbone.records import read_records  # noqa: E402

REPO = Path(__file__).parents[1]
IMAGENET, COCO = 'configs/pretrain/lisa-p_mini-imagenet.py', 'configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py'
SOFTMAX = {'model.backbone.attention.type': 'SelfAttention'}
DATA = {'name': 'a mini set', 'fingerprint': 'ab' * 32}


@pytest.fixture(scope='module')
def costs():
    return {config: cost_of(REPO / config, SOFTMAX) for config in (IMAGENET, COCO)}


def predict(folder, config):
    """Predictions as a test keeps them, and the metrics that it makes of them."""
    if config == IMAGENET:  # 3 of 4 are right
        scores, labels = np.eye(10)[[0, 1, 2, 3]], np.array([0, 1, 2, 4])
        path, metrics = folder / 'predictions.npz', {'accuracy/top1': 75.0}
        ids = [f'{index}.jpg' for index in range(4)]
        write_predictions(classification('classification', ids, list('abcdefghij'), metrics, scores, labels), path)
        return path, metrics
    box = {'image_id': 1, 'category_id': 1, 'bbox': [2, 2, 8, 8], 'score': 0.5}
    box['segmentation'] = {'size': [20, 20], 'counts': '100'}
    metrics = {'coco/bbox_mAP': 0.25, 'coco/segm_mAP': 0.125}
    path = folder / 'predictions.json.gz'
    found = Detection('detection', (1,), ('a',), metrics, (1,), 'no/such/instances.json', '0' * 64, [box])
    write_predictions(found, path)
    return path, metrics


def make(folder, costs, seed=0, config=IMAGENET):
    """A work directory as training and testing leave it."""
    folder.mkdir()
    (folder / 'best.pth').write_bytes(f'weights of seed {seed}, {config}'.encode())
    weights = file_digest(folder / 'best.pth')
    predictions, metrics = predict(folder, config)
    cost = costs[config]
    shared = {
        'config': config_of(str(REPO / config), SOFTMAX),
        'checkpoint': str(folder / 'best.pth'),
        'code': {'commit': '0' * 40, 'dirty': False},
        'machine': {'device': 'cpu', 'processes': 1, 'threads': 1},
        'versions': {'torch': metadata.version('torch')},
        'peak_mib': 500.0,
        'seed': seed,
        'seconds': 9.5,
        'data': DATA,
    }
    train = {
        **shared,
        'parameters': cost.parameters,
        'backbone_parameters': cost.backbone_parameters,
        'iterations': 10,
        'resumed_from': None,
        'train_seconds': 9.5,
        'made': [weights],
        'weights': [],
    }
    tested = {
        **shared,
        'metrics': metrics,
        'protocol': {'input': '64x64'},
        'macs': {'value': cost.backbone_macs, 'input': list(map(int, cost.input.split('x')))},
        'weights': weights,
        'predictions': file_digest(predictions),
        'finished': '2026-11-21T10:00:00+0000',
    }
    (folder / 'metrics.json').write_text(json.dumps({'train': train, 'test': tested}))
    assert write_record(folder, load_config(REPO / config, SOFTMAX))
    return folder


def call(*words, cwd):
    return run_tool('leaderboard.py', 'add', *words, cwd=cwd)


def test_the_command_line(tmp_path, costs):
    """Two runs are added; a tampered one is refused in a sentence, with the good one beside it."""
    work = [make(tmp_path / f'seed{seed}', costs, seed) for seed in range(3)]
    results = tmp_path / 'mine.jsonl'
    done = call(*work[:2], '--results', results, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f'{results}: mini ImageNet, lisa-p, SelfAttention, seed {seed}: top-1 75.0 %' for seed in (0, 1)
    ]
    assert [json.dumps(record) for record in read_records(results)] == [
        json.dumps(json.loads((folder / 'record.json').read_text())) for folder in work[:2]
    ]
    before = results.read_bytes()
    bad = make(tmp_path / 'bad', costs, 5)
    (bad / 'best.pth').write_bytes(b'other weights')
    done = call(work[2], bad, '--results', results, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f'error: {bad}/best.pth is not the file that {bad}/record.json names (SHA-256 ')
    assert 'Traceback' not in done.stderr
    assert results.read_bytes() == before


def edit(change):
    """A tampering with the record."""

    def spoil(folder):
        path = folder / 'record.json'
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return spoil


def edit_both(change):
    """A tampering with the record that leaves metrics.json in agreement with it."""

    def spoil(folder):
        edit(lambda record: change(record, record))(folder)
        path = folder / 'metrics.json'
        entries = json.loads(path.read_text())
        change(entries['train'], entries['test'])
        path.write_text(json.dumps(entries))

    return spoil


def raise_accuracy(folder):
    edit(lambda record: record['metrics'].update({'top-1': 0.99}))(folder)
    path = folder / 'metrics.json'
    path.write_text(path.read_text().replace('"accuracy/top1": 75.0', '"accuracy/top1": 99.0'))


def fewer_parameters(folder):
    edit(lambda record: record['parameters'].update(model=7))(folder)
    path = folder / 'metrics.json'
    entries = json.loads(path.read_text())
    entries['train']['parameters'] = 7
    path.write_text(json.dumps(entries))


def forget_commit(train, test):
    for entry in (train, test):
        entry['code'] = {'commit': 'unknown', 'dirty': False}


TAMPERED = {
    'no record': (lambda folder: (folder / 'record.json').unlink(), r'record\.json cannot be read'),
    'no JSON': (lambda folder: (folder / 'record.json').write_text('{'), r'record\.json is not JSON'),
    'seed': (edit(lambda record: record.update(seed=9)), r'seed is not what the training and the test'),
    'model': (edit(lambda record: record.update(model='lisa-p, XCA')), 'model is not what'),
    'operator': (edit(lambda record: record.update(attention='XCA')), 'attention is not what'),
    'status': (edit(lambda record: record.update(status='reproduced')), "'reproduced' is not the status of"),
    'task': (edit(lambda record: record.update(task='mini SSv2')), 'task is not what'),
    'metric': (edit(lambda record: record['metrics'].update({'top-1': 0.99})), 'metrics is not what'),
    'metric twice': (raise_accuracy, r'says top-1 0\.99, and predictions\.npz gives 0\.75'),
    'parameters': (fewer_parameters, r'says model parameters 7, and its config gives \d+'),
    'overrides': (
        edit(lambda record: record['config'].update(overrides=['model.backbone.attention.type=XCA'])),
        r'its config is another than configs/pretrain/lisa-p_mini-imagenet\.py of this checkout with its overrides',
    ),
    'config': (edit(lambda record: record['config'].update(file='mine.py')), r'its config mine\.py is none of a task'),
    'commit': (edit_both(forget_commit), 'does not tell its code, as it was run outside of a git checkout'),
    'predictions': (
        lambda folder: (folder / 'predictions.npz').write_bytes(b'other'),
        r'predictions\.npz is not the file that .*record\.json names',
    ),
    'no predictions': (
        lambda folder: (folder / 'predictions.npz').unlink(),
        r'names \S*predictions\.npz, which is not in \S+; put it there or test again',
    ),
    'no weights': (lambda folder: (folder / 'best.pth').unlink(), r'names \S*best\.pth, which is not in'),
}  # fmt: skip


@pytest.mark.parametrize('name', TAMPERED)
def test_what_does_not_fit_is_refused(name, tmp_path, costs):
    folder = make(tmp_path / 'work', costs)
    spoil, words = TAMPERED[name]
    spoil(folder)
    with pytest.raises(UserError, match=words):
        add([folder], REPO, tmp_path / 'mine.jsonl')
    assert not (tmp_path / 'mine.jsonl').exists()


def test_duplicates_are_refused(tmp_path, costs):
    results = tmp_path / 'mine.jsonl'
    first = make(tmp_path / 'first', costs)
    add([first], REPO, results)
    before = results.read_bytes()
    with pytest.raises(UserError, match='claim the same mini run'):
        add([first], REPO, results)
    again = make(tmp_path / 'again', costs, 1)  # the same run under another seed
    (again / 'best.pth').write_bytes((first / 'best.pth').read_bytes())
    digest = file_digest(first / 'best.pth')['sha256']
    for file in ('metrics.json', 'record.json'):
        path = again / file
        old = hashlib.sha256(f'weights of seed 1, {IMAGENET}'.encode()).hexdigest()
        path.write_text(path.read_text().replace(old, digest))
    with pytest.raises(UserError, match=r'seed 0\) and .*seed 1\) are of the same weights'):
        add([again], REPO, results)
    assert results.read_bytes() == before


def test_what_cannot_be_checked_is_told(tmp_path, costs):
    folder = make(tmp_path / 'work', costs, config=COCO)
    path = folder / 'metrics.json'
    entries = json.loads(path.read_text())
    entries['train']['weights'] = [{'file': 'elsewhere.pth', 'sha256': 'cd' * 32}]
    path.write_text(json.dumps(entries))
    write_record(folder, load_config(REPO / COCO, SOFTMAX))
    results = tmp_path / 'mine.jsonl'
    line, *unchecked = add([folder], REPO, results)
    assert line == f'{results}: mini COCO, lisa-p, SelfAttention, seed 0: box AP 25.0 %, mask AP 12.5 %'
    assert unchecked == [
        f'{folder}: not checked: the weights at the start, elsewhere.pth, whose file is not here',
        f'{folder}: not checked: box AP by its detections, as no/such/instances.json is not here',
        f'{folder}: not checked: mask AP by its detections, as no/such/instances.json is not here',
    ]
    # what the test itself made of the detections is compared all the same
    other = make(tmp_path / 'other', costs, 1, COCO)
    path = other / 'predictions.json.gz'
    content = gzip.decompress(path.read_bytes()).decode().replace('0.125', '0.5')
    old = file_digest(path)['sha256']
    path.write_bytes(gzip.compress(content.encode()))
    for file in ('metrics.json', 'record.json'):
        text = (other / file).read_text()
        (other / file).write_text(text.replace(old, file_digest(path)['sha256']))
    with pytest.raises(UserError, match=r'says mask AP 0\.125, and predictions\.json\.gz gives 0\.5'):
        add([other], REPO, results)
    assert len(read_records(results)) == 1


def test_records_go_to_the_file_of_their_status(tmp_path, costs, monkeypatch):
    (tmp_path / 'results').mkdir()
    (tmp_path / 'configs').symlink_to(REPO / 'configs')
    folder = make(tmp_path / 'work', costs)
    add([folder], tmp_path)
    assert [path.name for path in (tmp_path / 'results').glob('*.jsonl')] == ['mini.jsonl']
