"""Predictions of a test: what is kept gives the figures of the frameworks again."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')

from mmengine.config import Config  # noqa: E402
from mmengine.evaluator import BaseMetric  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmengine.structures import BaseDataElement, InstanceData, PixelData  # noqa: E402

from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.predictions import (  # noqa: E402
    PredictionHook,
    _names,
    _without_padding,
    classification,
    keep_predictions,
    read_predictions,
    write_predictions,
)

SCOPES = {
    'mmpretrain': ('predictions.npz', {'type': 'PredictionHook', 'kind': 'classification', 'name': 'predictions'}),
    'mmaction': ('predictions.npz', {'type': 'PredictionHook', 'kind': 'action recognition', 'name': 'predictions'}),
}


class Replay(BaseModel):
    """Gives the predictions that the samples bring along."""

    out_channels = 5

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return data_samples


class Samples(torch.utils.data.Dataset):
    """Samples that are made already."""

    def __init__(self, samples, data_root='data/set', **metainfo):
        self.samples, self.data_root, self.metainfo = samples, data_root, metainfo

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        sample = self.samples[index]
        several = isinstance(sample, list)
        return {'inputs': [torch.zeros(1)] * len(sample) if several else torch.zeros(1), 'data_samples': sample}


class Nothing(BaseMetric):
    """Counts the samples."""

    default_prefix = 'nothing'

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return {'count': len(results)}


def run(work_dir, scope, dataset, metric, evaluator=None, model=None, name='predictions'):
    """Test as runner.run_test does; the path that was announced, and the metrics."""
    work_dir.mkdir(exist_ok=True)
    cfg = Config({'default_scope': scope, 'work_dir': str(work_dir), 'test_evaluator': evaluator or {}})
    path = keep_predictions(cfg, name)
    runner = Runner(
        model=model or Replay(),
        work_dir=str(work_dir),
        test_dataloader={
            'dataset': dataset,
            'batch_size': 2,
            'num_workers': 0,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        },
        test_cfg={},
        test_evaluator=[metric],
        custom_hooks=list(cfg.custom_hooks),
        experiment_name=f'{work_dir.name}_{os.getpid()}_{len(os.listdir(work_dir))}',
    )
    return path, runner.test()


def scored(scores, labels, key='img_path', name='data/set/val/{}.jpg'):
    """Samples with scores."""
    samples = []
    for index, (score, label) in enumerate(zip(scores, labels, strict=True)):
        sample = BaseDataElement(metainfo={key: name.format(index)})
        sample.pred_score, sample.gt_label = torch.tensor(score), torch.tensor([label])
        samples.append(sample)
    return samples


def random_scores(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(classes), count).astype(np.float32)
    return scores, rng.integers(classes, size=count)


# ------------------------------------------------------------------------------------------------------- classification


def test_images_give_the_accuracies_of_mmpretrain(tmp_path):
    from mmpretrain.evaluation import Accuracy

    scores, labels = random_scores(31, 6)
    dataset = Samples(scored(scores, labels), classes=tuple('abcdef'))
    path, metrics = run(tmp_path, 'mmpretrain', dataset, Accuracy(topk=(1, 3)))
    assert path == tmp_path / 'predictions.npz'
    kept = read_predictions(path)
    assert (kept.kind, kept.unit, kept.classes) == ('classification', 'images', tuple('abcdef'))
    assert kept.ids == tuple(f'val/{index}.jpg' for index in range(31))
    np.testing.assert_array_equal(kept.labels, labels)
    np.testing.assert_array_equal(kept.predicted, scores.argmax(axis=1))
    np.testing.assert_array_equal(kept.scores, scores.astype(np.float16))
    for k in (1, 3):
        assert 100 * (kept.ranks < k).mean() == pytest.approx(metrics[f'accuracy/top{k}'], abs=1e-4)
    assert kept.metrics == pytest.approx(metrics)


def test_videos_give_the_accuracies_of_mmaction(tmp_path):
    from mmaction.evaluation import AccMetric

    scores, labels = random_scores(23, 7, seed=1)
    dataset = Samples(scored(scores, labels, 'filename', '/elsewhere/{}.mp4'))
    path, metrics = run(tmp_path, 'mmaction', dataset, AccMetric(), name='predictions_tta')
    assert path == tmp_path / 'predictions_tta.npz'
    kept = read_predictions(path)
    assert (kept.kind, kept.unit, kept.classes) == ('action recognition', 'videos', ())
    assert kept.ids == tuple(f'{index}.mp4' for index in range(23))
    for k in (1, 5):
        assert (kept.ranks < k).mean() == pytest.approx(metrics[f'acc/top{k}'])


def test_views_are_averaged_before_they_are_kept(tmp_path):
    from mmpretrain.evaluation import Accuracy
    from mmpretrain.models import AverageClsScoreTTA
    from mmpretrain.structures import DataSample

    (first, labels), (second, _) = random_scores(9, 4), random_scores(9, 4, seed=5)
    samples = []
    for index, label in enumerate(labels):
        views = [DataSample(metainfo={'img_path': f'data/set/{index}.jpg'}) for _ in range(2)]
        for view, scores in zip(views, (first, second), strict=True):
            view.set_gt_label(int(label)).set_pred_score(torch.tensor(scores[index]))
        samples.append(views)
    model = AverageClsScoreTTA(module=Replay())
    path, metrics = run(tmp_path, 'mmpretrain', Samples(samples, classes=tuple('abcd')), Accuracy(), model=model)
    kept = read_predictions(path)
    np.testing.assert_allclose(kept.scores, (first + second) / 2, atol=1e-3)
    assert 100 * (kept.ranks < 1).mean() == pytest.approx(metrics['accuracy/top1'], abs=1e-4)


def test_ranks_are_those_of_the_scores_as_given():
    nan = np.nan
    scores = np.array([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4], [0.2, nan, 0.8], [nan, nan, nan], [0.5, 0.5, 0.0]], np.float32)
    made = classification('classification', list('pqrst'), [], {}, scores, [1, 0, 2, 0, 1])
    assert made.ranks.tolist() == [0, 1, 3, 3, 1]
    assert made.predicted.tolist() == [1, 2, 2, 0, 0]
    near = np.array([[0.50001, 0.50002], [1e6, 2e6]], np.float32)  # equal in half precision, and beyond it
    made = classification('classification', ['a', 'b'], [], {}, near, [0, 1])
    assert made.ranks.tolist() == [1, 0]
    assert made.scores[0, 0] == made.scores[0, 1]
    assert np.isfinite(made.scores).all()


# --------------------------------------------------------------------------------------------------------- segmentation


def label_maps(count, seed=0, classes=5):
    """True and predicted maps: one class is nowhere, one is only predicted, some pixels have no label."""
    rng = np.random.default_rng(seed)
    maps = []
    for index in range(count):
        shape = (20 + index, 30 - index)
        true = rng.integers(classes - 2, size=shape)
        predicted = np.where(rng.random(shape) < 0.6, true, rng.integers(classes - 1, size=shape))
        true[rng.random(shape) < 0.1] = 255
        maps.append((torch.tensor(true), torch.tensor(predicted)))
    return maps


def pixel_samples(maps):
    samples = []
    for index, (true, predicted) in enumerate(maps):
        sample = BaseDataElement(metainfo={'img_path': f'data/set/images/{index}.jpg'})
        sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=true[None]), PixelData(data=predicted[None])
        samples.append(sample)
    return samples


def test_label_maps_give_the_miou_of_mmseg(tmp_path):
    from mmseg.evaluation import IoUMetric

    maps = label_maps(7)
    path, metrics = run(tmp_path, 'mmseg', Samples(pixel_samples(maps), classes=tuple('abcde')), IoUMetric())
    kept = read_predictions(path)
    assert kept.ids == tuple(f'images/{index}.jpg' for index in range(7))
    for index, (true, predicted) in enumerate(maps):
        intersect, union, _, pixels = IoUMetric.intersect_and_union(predicted, true, 5, 255)
        assert kept.intersect[index].tolist() == intersect.tolist()
        assert kept.union[index].tolist() == union.tolist()
        assert kept.pixels[index].tolist() == pixels.tolist()
    intersect, union, pixels = (array.sum(axis=0) for array in (kept.intersect, kept.union, kept.pixels))
    assert union[4] == 0
    assert union[3] > pixels[3] == 0
    with np.errstate(invalid='ignore'):
        iou = np.nanmean((intersect / union).astype(np.float32))
    assert np.round(100 * iou, 2) == pytest.approx(metrics['mIoU'], abs=1e-6)
    assert 20 < metrics['mIoU'] < 60
    assert np.round(100 * intersect.sum() / pixels.sum(), 2) == pytest.approx(metrics['aAcc'], abs=1e-5)


def test_the_label_that_does_not_count_is_that_of_the_evaluator(tmp_path):
    from mmseg.evaluation import IoUMetric

    evaluator = {'type': 'IoUMetric', 'ignore_index': 0}
    dataset = Samples(pixel_samples(label_maps(3)), classes=tuple('abcde'))
    path, metrics = run(tmp_path, 'mmseg', dataset, IoUMetric(ignore_index=0), evaluator)
    kept = read_predictions(path)
    assert kept.pixels[:, 0].tolist() == [0, 0, 0]
    intersect, union = kept.intersect.sum(axis=0), kept.union.sum(axis=0)
    with np.errstate(invalid='ignore'):
        assert np.round(100 * np.nanmean(intersect / union), 2) == pytest.approx(metrics['mIoU'], abs=0.011)


def test_label_maps_of_several_views(tmp_path):
    from mmseg.evaluation import IoUMetric
    from mmseg.models import SegTTAModel

    maps, generator, samples = label_maps(4), torch.Generator().manual_seed(0), []
    for index, sample in enumerate(pixel_samples(maps)):
        views = []
        for _ in range(2):
            view = sample.clone()
            view.seg_logits = PixelData(data=torch.randn(5, *maps[index][0].shape, generator=generator))
            views.append(view)
        samples.append(views)
    model = SegTTAModel(module=Replay())
    path, metrics = run(tmp_path, 'mmseg', Samples(samples, classes=tuple('abcde')), IoUMetric(), model=model)
    kept = read_predictions(path)
    mean = [sum(view.seg_logits.data.softmax(dim=0) for view in views).argmax(dim=0) for views in samples]
    hits = [[int(((m == c) & (true == c)).sum()) for c in range(5)] for m, (true, _) in zip(mean, maps, strict=True)]
    assert kept.intersect.tolist() == hits
    assert 100 * kept.intersect.sum() / kept.pixels.sum() == pytest.approx(metrics['aAcc'], abs=0.006)


# ------------------------------------------------------------------------------------------------------------ detection


@pytest.fixture(scope='module')
def mini_coco(tmp_path_factory):
    from lisa_backbone.data.mini_coco import MiniCocoParams, make_mini_coco

    root = tmp_path_factory.mktemp('data') / 'mini_coco'
    make_mini_coco(root, MiniCocoParams(seed=5, train=2, val=12, size=128))
    return root


def guesses(annotation_file, masks=True, seed=0):
    """Samples of mmdet: the truth, shifted, scaled and confused, and some boxes in the void."""
    from mmdet.structures import DetDataSample
    from pycocotools.coco import COCO

    coco, rng, samples = COCO(annotation_file), np.random.default_rng(seed), []
    for image in coco.dataset['images']:
        sample = DetDataSample(metainfo={'img_id': image['id'], 'ori_shape': (image['height'], image['width'])})
        boxes, labels, shapes = [], [], []
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            for _ in range(rng.integers(0, 3)):
                x, y, w, h = annotation['bbox']
                moved = rng.integers(-2, 3, 2)
                boxes.append([x + moved[0], y + moved[1], x + w * rng.uniform(0.8, 1.3), y + h])
                labels.append(annotation['category_id'] - 1 if rng.random() < 0.8 else rng.integers(10))
                shapes.append(np.roll(coco.annToMask(annotation), moved, axis=(1, 0)))
        for _ in range(2):
            corner = rng.uniform(0, 90, 2)
            boxes.append([*corner, *(corner + rng.uniform(5, 40, 2))])
            labels.append(rng.integers(10))
            shapes.append(rng.random((image['height'], image['width'])) < 0.02)
        found = InstanceData(
            bboxes=torch.tensor(np.array(boxes), dtype=torch.float32),
            labels=torch.tensor(np.array(labels)),
            scores=torch.tensor(rng.random(len(boxes)), dtype=torch.float32),
        )
        if masks:
            found.masks = torch.tensor(np.array(shapes, bool))
        sample.pred_instances = found
        samples.append(sample)
    return samples


def average_precision(kept, kind):
    """As COCOeval makes it of the kept detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    keys = ('image_id', 'category_id', 'score', 'bbox' if kind == 'bbox' else 'segmentation')
    coco = COCO(kept.ground_truth)
    results = [{key: one[key] for key in keys} for one in kept.detections]
    evaluation = COCOeval(coco, coco.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6]


def test_detections_give_the_ap_of_mmdet(tmp_path, mini_coco):
    from mmdet.evaluation import CocoMetric

    file = mini_coco / 'annotations' / 'instances_val2017.json'
    evaluator = {'type': 'CocoMetric', 'ann_file': str(file), 'metric': ['bbox', 'segm']}
    classes = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
    metric = CocoMetric(ann_file=str(file), metric=['bbox', 'segm'])
    path, metrics = run(tmp_path, 'mmdet', Samples(guesses(file), classes=classes), metric, evaluator)
    assert path == tmp_path / 'predictions.json.gz'
    kept = read_predictions(path)
    assert (kept.ids, kept.classes, kept.categories) == (tuple(range(1, 13)), classes, tuple(range(1, 11)))
    assert kept.ground_truth == str(file)
    assert kept.ground_truth_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    for kind in ('bbox', 'segm'):
        names = [f'coco/{kind}_mAP{suffix}' for suffix in ('', '_50', '_75', '_s', '_m', '_l')]
        assert np.round(average_precision(kept, kind), 3).tolist() == [metrics[name] for name in names]
        assert 0.1 < metrics[names[0]] < 0.9
    assert json.loads(gzip.decompress(path.read_bytes()))['detections'] == kept.detections


def test_masks_may_have_scores_of_their_own_or_be_absent(tmp_path, mini_coco):
    from mmdet.evaluation import CocoMetric

    file = mini_coco / 'annotations' / 'instances_val2017.json'
    evaluator = {'type': 'mmdet.CocoMetric', 'ann_file': str(file)}
    classes = tuple(c['name'] for c in json.loads(file.read_text())['categories'])
    with_scores = guesses(file)
    for sample in with_scores:
        sample.pred_instances.mask_scores = 1 - sample.pred_instances.scores
    kept = {}
    for name, samples in (('own', with_scores), ('boxes', guesses(file, masks=False))):
        metric = CocoMetric(ann_file=str(file))
        path, _ = run(tmp_path / name, 'mmdet', Samples(samples, classes=classes), metric, evaluator)
        kept[name] = read_predictions(path)
    assert [one['mask_score'] for one in kept['own'].detections] == pytest.approx(
        [1 - one['score'] for one in kept['own'].detections], abs=1e-6
    )
    assert {tuple(one) for one in kept['boxes'].detections} == {('image_id', 'category_id', 'bbox', 'score')}
    assert [one['bbox'] for one in kept['boxes'].detections] == [one['bbox'] for one in kept['own'].detections]


# --------------------------------------------------------------------------------------------------------- switching on


def test_the_hook_is_added_beside_those_of_the_config(tmp_path):
    for scope, (file, hook) in SCOPES.items():
        cfg = Config({'default_scope': scope, 'work_dir': str(tmp_path), 'custom_hooks': [{'type': 'EMAHook'}]})
        assert keep_predictions(cfg) == tmp_path / file
        assert [dict(h) for h in cfg.custom_hooks] == [{'type': 'EMAHook'}, hook]
    evaluators = [{'type': 'IoUMetric', 'ignore_index': 7}, {'type': 'Other'}]
    cfg = Config({'default_scope': 'mmseg', 'work_dir': str(tmp_path), 'test_evaluator': evaluators})
    keep_predictions(cfg)
    assert cfg.custom_hooks[0].ignore_index == 7


def test_what_is_not_known_is_not_kept(tmp_path):
    for cfg in (
        {'default_scope': 'mmpose'},
        {'default_scope': 'mmdet', 'test_evaluator': {'type': 'CocoMetric', 'ann_file': None}},
        {'default_scope': 'mmdet', 'test_evaluator': [{'type': 'LVISMetric', 'ann_file': 'a.json'}]},
    ):
        cfg = Config({**cfg, 'work_dir': str(tmp_path)})
        assert keep_predictions(cfg) is None
        assert 'custom_hooks' not in cfg


def test_what_cannot_be_kept_is_told_and_leaves_no_old_file(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr('logging.Logger.warning', lambda self, message, *_, **__: told.append(message))
    scores, labels = random_scores(3, 4)
    unnamed, several, pairs = (scored(scores, labels) for _ in range(3))
    for sample in unnamed:
        sample.set_metainfo({'img_path': None})
    several[1].gt_label = torch.tensor([0, 1])
    pairs[2].pred_score = torch.zeros(2, 4)
    for samples, words in (
        (unnamed, 'do not name their files; add img_path'),
        (several, 'one true class'),
        (pairs, 'do not hold one score for each class'),
    ):
        (tmp_path / 'predictions.npz').write_text('of an earlier test')
        path, metrics = run(tmp_path, 'mmpretrain', Samples(samples), Nothing())
        assert metrics == {'nothing/count': 3}
        assert not path.exists()
        assert any('not kept' in message and words in message for message in map(str, told)), told
        told.clear()


# -------------------------------------------------------------------------------------------------- files and processes


def run_rank(rank, world, folder):
    """One process of a test of 5 samples."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=int(rank), world_size=int(world)
    )
    os.chdir(folder)
    scores, labels = random_scores(5, 3)
    run(Path(folder) / 'work', 'mmpretrain', Samples(scored(scores, labels), classes=tuple('abc')), Nothing())


def test_several_processes_give_the_same_file(tmp_path):
    scores, labels = random_scores(5, 3)
    alone, _ = run(tmp_path / 'alone', 'mmpretrain', Samples(scored(scores, labels), classes=tuple('abc')), Nothing())
    call = 'import sys; sys.path.insert(0, {!r}); import test_predictions as t; t.run_rank({}, 2, {!r})'
    here, env = str(Path(__file__).parent), {**os.environ, 'OMP_NUM_THREADS': '1'}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', call.format(here, rank, str(tmp_path))],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out[-3000:]
    assert (tmp_path / 'work' / 'predictions.npz').read_bytes() == alone.read_bytes()
    assert list(tmp_path.glob('work/.predictions*')) == []


def test_repeated_samples_are_dropped_and_listed_ones_kept():
    def left(names, size):
        return ''.join(row['id'] for row in _without_padding([{'id': name} for name in names], size))

    assert left('abcda', 4) == 'abcd'
    assert left('abcab', 3) == 'abc'
    assert left('abcd', 4) == 'abcd'
    assert left('abca', 4) == 'abca'  # the data set lists it twice
    assert left('abcaab', 4) == 'abca'
    assert left('abbc', 3) == 'abc'  # as a sampler of blocks repeats


def test_samples_are_called_by_their_place_below_the_root():
    assert _names(['data/set/a/1.jpg', 'data/set/b/1.jpg'], 'data/set/') == ('a/1.jpg', 'b/1.jpg')
    assert _names(['/other/1.jpg', 'data/set/2.jpg'], 'data/set') == ('1.jpg', '2.jpg')
    assert _names(['/other/a/1.jpg', '/other/b/1.jpg'], 'data/set') == ('a/1.jpg', 'b/1.jpg')
    assert _names(['/x/1.mp4', '/x/2.mp4', '/x/1.mp4'], None) == ('1.mp4', '2.mp4', '1.mp4#2')


def test_the_root_is_found_inside_wrappers(tmp_path):
    scores, labels = random_scores(4, 3)
    inner = Samples(scored(scores, labels, name='/somewhere/set/{}/img.jpg'), data_root='/somewhere/set')
    outer = Samples(inner.samples, data_root=None)
    outer.dataset = inner
    path, _ = run(tmp_path, 'mmpretrain', outer, Nothing())
    assert read_predictions(path).ids == tuple(f'{index}/img.jpg' for index in range(4))


@pytest.fixture
def written(tmp_path):
    scores, labels = random_scores(40, 4)
    path = tmp_path / 'predictions.npz'
    ids = [f'{index}.jpg' for index in range(40)]
    write_predictions(classification('classification', ids, list('abcd'), {'top1': 0.5}, scores, labels), path)
    return path


def test_files_that_are_not_whole_predictions_are_refused(written, tmp_path):
    whole = written.read_bytes()
    broken = tmp_path / 'broken.npz'
    with pytest.raises(UserError, match=rf'{broken} cannot be read \(No such file.*\); tools/test\.py writes them'):
        read_predictions(broken)
    with pytest.raises(UserError, match='cannot be read'):
        read_predictions(tmp_path)
    middle = bytearray(whole)
    middle[len(whole) // 3] ^= 255
    for content in (b'', b'PK', b'hello', whole[: len(whole) // 2], bytes(middle), b'\x1f\x8b', gzip.compress(b'[1]')):
        broken.write_bytes(content)
        with pytest.raises(UserError, match=rf'{broken} is not a whole file of predictions .*make it again'):
            read_predictions(broken)
    for content in ({}, {'format': 'other'}, {'images': [1], 'format': 'other', 'version': 1}, [], 3):
        broken.write_bytes(gzip.compress(json.dumps(content).encode()))
        with pytest.raises(UserError, match='is not a whole file of predictions'):
            read_predictions(broken)


def test_no_code_is_run_by_reading(written, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path}/sprung',)

    with np.load(written) as file:
        arrays = dict(file)
    trap = tmp_path / 'trap.npz'
    for name in ('scores', 'ids', 'meta'):
        np.savez(trap, **{**arrays, name: np.array([Trap()], dtype=object)})
        with pytest.raises(UserError, match='not a whole file'):
            read_predictions(trap)
    np.save(tmp_path / 'one.npy', np.array([Trap()], dtype=object))
    with pytest.raises(UserError, match='not a whole file'):
        read_predictions(tmp_path / 'one.npy')
    assert not (tmp_path / 'sprung').exists()


def test_contents_that_contradict_each_other_are_refused(written, tmp_path):
    with np.load(written) as file:
        arrays = dict(file)
    path = tmp_path / 'other.npz'
    ids, labels = arrays['ids'].copy(), arrays['labels'].copy()
    ids[1], labels[3] = ids[0], 4
    meta = json.loads(str(arrays['meta']))
    newer = np.array(json.dumps({**meta, 'version': 2}))
    for name, value, words in (
        ('ids', ids, 'holds a sample twice'),
        ('labels', labels, 'beyond the 4 classes'),
        ('ranks', arrays['ranks'][1:], 'unequal length'),
        ('ranks', arrays['ranks'].astype(float), 'ranks is of type float64'),
        ('meta', newer, 'version 2'),
        ('meta', np.array(json.dumps({**meta, 'kind': 'detection'})), "kind 'detection'"),
        ('meta', np.array(json.dumps({**meta, 'kind': 'segmentation'})), 'intersect'),
    ):
        np.savez(path, **{**arrays, name: value})
        with pytest.raises(UserError, match=words):
            read_predictions(path)


def test_detections_are_checked_one_by_one(tmp_path):
    good = {'image_id': 1, 'category_id': 2, 'bbox': [0, 0, 2, 2], 'score': 0.5}
    content = {
        'format': 'predictions of lisa_backbone', 'version': 1, 'kind': 'detection', 'classes': ['a'], 'metrics': {},
        'ground_truth': {'file': 'a.json', 'sha256': '0'}, 'categories': [2], 'images': [1], 'detections': [good],
    }  # fmt: skip
    path = tmp_path / 'predictions.json.gz'

    def read(**change):
        path.write_bytes(gzip.compress(json.dumps({**content, 'detections': [{**good, **change}]}).encode()))
        return read_predictions(path)

    assert read().detections == [good]
    for change, words in (
        ({'score': float('nan')}, 'finite'),
        ({'bbox': [0, 0, 2]}, 'four'),
        ({'bbox': 'wide'}, 'not a whole file'),
        ({'image_id': 2}, r'unknown image or category \(2, 2\)'),
        ({'category_id': 1}, 'unknown image'),
        ({'segmentation': {'counts': [1, 2]}}, 'no compressed RLE'),
        ({'segmentation': [[1, 2]]}, 'not a whole file'),
    ):
        with pytest.raises(UserError, match=words):
            read(**change)


def test_a_stopped_writing_leaves_the_old_file(written, monkeypatch):
    before = written.read_bytes()
    kept = read_predictions(written)
    monkeypatch.setattr('numpy.savez_compressed', lambda file, **_: file.write(b'half') and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_predictions(kept, written)
    assert written.read_bytes() == before


def test_the_hook_is_registered():
    from mmengine.registry import HOOKS

    assert HOOKS.get('PredictionHook') is PredictionHook
