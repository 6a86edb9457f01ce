"""Predictions of a test, sample by sample, in a file that holds data alone.

Figures can be made of it again, and two models compared on the same samples, without a model or a framework. It is
JSON, compressed, for detections and NumPy arrays of numbers and text for all else, so that reading one runs no code.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmengine.config import Config
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .errors import UserError
from .paths import replacing

__all__ = [
    'Classification',
    'Detection',
    'PredictionHook',
    'Predictions',
    'Segmentation',
    'classification',
    'keep_predictions',
    'read_predictions',
    'write_predictions',
]

FORMAT, VERSION = 'predictions of lisa_backbone', 1
KINDS = {  # default_scope to kind
    'mmpretrain': 'classification',
    'mmaction': 'action recognition',
    'mmseg': 'segmentation',
    'mmdet': 'detection',
}
IGNORED = 255  # label of pixels that do not count


@dataclass(frozen=True, eq=False)
class Predictions:
    """What all kinds of predictions share.

    Attributes:
        kind: One of the values of :data:`KINDS`.
        ids: What each sample is called: the image of the ground truth for detections, else its file, relative to the
            root of the data.
        classes: Names of the classes; none where the data set does not tell.
        metrics: What the test made of these predictions, in the framework's names and units.
    """

    kind: str
    ids: tuple
    classes: tuple[str, ...]
    metrics: dict[str, float]

    @property
    def unit(self) -> str:
        """What the samples are."""
        return 'videos' if self.kind == 'action recognition' else 'images'


@dataclass(frozen=True, eq=False)
class Classification(Predictions):
    """Predictions of images or videos, N samples of C classes; see :func:`classification`.

    Attributes:
        scores: (N, C), float16.
        labels: True classes, (N,).
        predicted: Classes of the highest score, (N,).
        ranks: How many classes come before the true one, (N,): the prediction is among the best k where it is less
            than k.
    """

    scores: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    ranks: np.ndarray

    arrays: ClassVar = {'scores': 'f', 'labels': 'iu', 'predicted': 'iu', 'ranks': 'iu'}

    def fault(self) -> str | None:
        """What is inconsistent, if anything."""
        count = self.scores.shape[1] if self.scores.ndim == 2 else 0
        of_samples = [array.shape == (len(self.ids),) for array in (self.labels, self.predicted, self.ranks)]
        if not (count and len(self.scores) == len(self.ids) and all(of_samples)):
            return 'arrays of unequal length'
        bounds = ((self.labels, count), (self.predicted, count), (self.ranks, count + 1))
        if any(((array < 0) | (array >= bound)).any() for array, bound in bounds):
            return f'a label beyond the {count} classes'
        return None


@dataclass(frozen=True, eq=False)
class Segmentation(Predictions):
    """Counts of pixels by image and class, all (N, C); those without a label are left out.

    Attributes:
        intersect: Pixels of the class that are predicted as such.
        union: Pixels that are of the class, or predicted as such, or both.
        pixels: Pixels of the class.
    """

    intersect: np.ndarray
    union: np.ndarray
    pixels: np.ndarray

    arrays: ClassVar = {'intersect': 'iu', 'union': 'iu', 'pixels': 'iu'}

    def fault(self) -> str | None:
        """What is inconsistent, if anything."""
        shape = (len(self.ids), len(self.classes))
        if any(array.shape != shape for array in (self.intersect, self.union, self.pixels)):
            return f'arrays that are not of {shape[0]} images and {shape[1]} classes'
        if (self.intersect < 0).any() or (self.intersect > self.pixels).any() or (self.pixels > self.union).any():
            return 'counts of pixels that contradict each other'
        return None


@dataclass(frozen=True, eq=False)
class Detection(Predictions):
    """Detections as COCO has results.

    Attributes:
        categories: Category of the ground truth for each class.
        ground_truth: The annotation file, as the config of the test names it.
        ground_truth_sha256: Its digest.
        detections: One dict each: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score``; with masks
            ``segmentation`` (compressed RLE), and ``mask_score`` where the model scores masks by themselves.
    """

    categories: tuple[int, ...]
    ground_truth: str
    ground_truth_sha256: str
    detections: list[dict]

    def fault(self) -> str | None:
        """What is inconsistent, if anything."""
        images, categories = set(self.ids), set(self.categories)
        for one in self.detections:
            numbers = [*one['bbox'], one['score'], one.get('mask_score', 0)]
            if len(one['bbox']) != 4 or not all(map(math.isfinite, numbers)):
                return f'a detection without four finite coordinates and a finite score ({one["bbox"]}, {one["score"]})'
            if one['image_id'] not in images or one['category_id'] not in categories:
                return f'a detection of an unknown image or category ({one["image_id"]}, {one["category_id"]})'
            if not isinstance(one.get('segmentation', {'counts': ''})['counts'], str):
                return f'a mask that is no compressed RLE (image {one["image_id"]})'
        return None


def classification(
    kind: str, ids: Sequence[str], classes: Sequence[str], metrics: dict, scores: np.ndarray, labels: np.ndarray
) -> Classification:
    """Predictions from scores.

    The order of the classes is that of the scores as given; only then are they rounded to half precision. Of equal
    scores the lower class comes first, and a sample with a score that is no number is wrong for every k.

    Args:
        kind: ``'classification'`` or ``'action recognition'``.
        ids: What each sample is called.
        classes: Names of the classes, or none.
        metrics: What the test made of them.
        scores: (N, C).
        labels: True classes, (N,).

    Returns:
        The predictions.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    ranks = ((scores > true) | ((scores == true) & before)).sum(axis=1)
    ranks[np.isnan(scores).any(axis=1)] = scores.shape[1]
    largest = float(np.finfo(np.float16).max)
    return Classification(
        kind,
        tuple(ids),
        tuple(classes),
        dict(metrics),
        scores=scores.clip(-largest, largest).astype(np.float16),
        labels=labels.astype(np.int32),
        predicted=np.nan_to_num(scores, nan=-np.inf).argmax(axis=1).astype(np.int32),
        ranks=ranks.astype(np.int32),
    )


def keep_predictions(cfg: Config, name: str = 'predictions') -> Path | None:
    """Have the predictions of a test kept in the work directory, by adding :class:`PredictionHook` to the config.

    Args:
        cfg: The config, with its ``work_dir``; changed in place.
        name: Name of the file, without its ending.

    Returns:
        The file that the test will write; ``None``, and nothing is added, where predictions of that framework are not
        known, or detections are not evaluated by CocoMetric on an annotation file.
    """
    kind = KINDS.get(cfg.get('default_scope'))
    evaluators = cfg.get('test_evaluator') or []
    evaluators = [evaluators] if isinstance(evaluators, dict) else list(evaluators)
    hook = {'type': 'PredictionHook', 'kind': kind, 'name': name}
    if kind == 'detection':
        files = [e.get('ann_file') for e in evaluators if str(e['type']).rpartition('.')[2] == 'CocoMetric']
        if not any(files):
            return None
        hook['ground_truth'] = next(filter(None, files))
    elif kind == 'segmentation':
        hook['ignore_index'] = next((e['ignore_index'] for e in evaluators if 'ignore_index' in e), IGNORED)
    elif kind is None:
        return None
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    return Path(cfg.work_dir) / _file_name(kind, name)


@HOOKS.register_module()
class PredictionHook(Hook):
    """Keep the predictions of a test in a file of the work directory.

    The file of an earlier test is removed when the test begins, and the new one is there, whole, when it ends. With
    several processes the first writes the samples of all. What cannot be kept is told in the log and does not stop the
    test.

    Args:
        kind: One of the values of :data:`KINDS`.
        name: Name of the file, without its ending.
        ground_truth: Annotation file that detections are evaluated on.
        ignore_index: Label of pixels that do not count.
    """

    priority = 'LOW'

    def __init__(
        self, kind: str, name: str = 'predictions', ground_truth: str | None = None, ignore_index: int = IGNORED
    ) -> None:
        self.kind, self.name = kind, name
        self.ground_truth, self.ignore_index = ground_truth, ignore_index
        self._rows: list[dict] = []
        self._classes: tuple[str, ...] = ()
        self._metrics: dict[str, float] = {}
        self._unfit: str | None = None

    def before_test(self, runner: Runner) -> None:
        """Begin anew."""
        self._rows, self._metrics, self._unfit = [], {}, None
        meta = getattr(runner.test_dataloader.dataset, 'metainfo', None) or {}
        self._classes = tuple(map(str, meta.get('classes') or ()))
        if is_main_process():
            self._path(runner).unlink(missing_ok=True)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Take what is kept of the samples of a batch."""
        for sample in outputs or ():
            if self._unfit is None:
                try:
                    self._rows.append(self._row(sample))
                except _UnfitError as error:
                    self._unfit = str(error)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Take what the evaluators made of them."""
        for key, value in (metrics or {}).items():
            if isinstance(value, int | float | np.number) and math.isfinite(value):
                self._metrics[key] = float(value)

    def after_test(self, runner: Runner) -> None:
        """Write the file."""
        rows = collect_results(self._rows, 2**62)  # without a cut; which samples are there twice is seen below
        self._rows = []
        if rows is None:
            return
        dataset = runner.test_dataloader.dataset
        rows = _without_padding(rows, len(dataset))
        try:
            if self._unfit or len(rows) != len(dataset):
                raise _UnfitError(self._unfit or f'{len(rows)} samples of {len(dataset)} can be kept')
            predictions = self._predictions(rows, runner, _data_root(dataset))
            fault = _fault(predictions)
            if fault:
                raise _UnfitError(f'they hold {fault}')
        except _UnfitError as error:
            runner.logger.warning(f'the predictions are not kept: {error}')
            return
        write_predictions(predictions, self._path(runner))
        runner.logger.info(f'predictions of {len(rows)} {predictions.unit} are in {self._path(runner)}')

    def _path(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / _file_name(self.kind, self.name)

    def _row(self, sample: Any) -> dict:
        """What is kept of one sample; its ``'id'`` tells the same sample of another process."""
        if self.kind == 'detection':
            return _detection_row(sample)
        path = next((sample.get(key) for key in ('img_path', 'filename', 'frame_dir') if sample.get(key)), None)
        if path is None:
            raise _UnfitError('the samples do not name their files; add img_path or filename to meta_keys of the test')
        if self.kind == 'segmentation':
            return {'id': str(path), **_segmentation_row(sample, len(self._classes), self.ignore_index)}
        return {'id': str(path), **_classification_row(sample)}

    def _predictions(self, rows: list[dict], runner: Runner, root: str | None) -> Predictions:
        """All rows as predictions."""
        if self.kind == 'detection':
            return self._detections(rows, runner)
        shared = (self.kind, _names([row['id'] for row in rows], root), self._classes, self._metrics)
        if self.kind == 'segmentation':
            return Segmentation(*shared, **{key: np.stack([row[key] for row in rows]) for key in Segmentation.arrays})
        if len({row['scores'].shape for row in rows}) > 1:
            raise _UnfitError('the samples have scores of unequal numbers of classes')
        return classification(*shared, np.stack([row['scores'] for row in rows]), [row['label'] for row in rows])

    def _detections(self, rows: list[dict], runner: Runner) -> Detection:
        """All rows as COCO results, in the categories that CocoMetric took for the classes."""
        categories = next((m.cat_ids for m in runner.test_evaluator.metrics if getattr(m, 'cat_ids', None)), None)
        if categories is None:
            raise _UnfitError('CocoMetric did not tell the categories of the classes')
        return Detection(
            self.kind,
            tuple(row['id'] for row in rows),
            self._classes,
            self._metrics,
            categories=tuple(categories),
            ground_truth=str(self.ground_truth),
            ground_truth_sha256=hashlib.sha256(Path(self.ground_truth).read_bytes()).hexdigest(),
            detections=[one for row in rows for one in _coco_results(row, categories)],
        )


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write predictions; a reader finds the whole file or none, and the same predictions give the same bytes.

    Args:
        predictions: The predictions.
        path: The file, which is replaced.
    """
    meta = {
        'format': FORMAT,
        'version': VERSION,
        'kind': predictions.kind,
        'classes': predictions.classes,
        'metrics': predictions.metrics,
    }
    with replacing(path) as draft, draft.open('wb') as file:
        if isinstance(predictions, Detection):
            content = {
                **meta,
                'ground_truth': {'file': predictions.ground_truth, 'sha256': predictions.ground_truth_sha256},
                'categories': predictions.categories,
                'images': predictions.ids,
                'detections': predictions.detections,
            }
            with gzip.GzipFile(filename='', mode='wb', compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.write(json.dumps(content, allow_nan=False, separators=(',', ':')).encode())
        else:
            arrays = {name: getattr(predictions, name) for name in predictions.arrays}
            np.savez_compressed(file, meta=np.array(json.dumps(meta)), ids=np.array(predictions.ids, str), **arrays)


def read_predictions(path: str | Path) -> Classification | Segmentation | Detection:
    """Read a file that a test wrote.

    Args:
        path: The file.

    Returns:
        The predictions.

    Raises:
        UserError: It is missing, damaged or of another origin.
    """
    path = Path(path)
    try:
        with path.open('rb') as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(f'predictions {path} cannot be read ({error.strerror}); tools/test.py writes them') from error
    try:
        found = _read_detections(path) if start == b'\x1f\x8b' else _read_arrays(path)
        fault = _fault(found)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, ValueError, TypeError, LookupError) as error:
        words = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'{path} is not a whole file of predictions ({words}); make it again with tools/test.py'
        ) from error
    if fault:
        raise UserError(f'{path} holds {fault}; make it again with tools/test.py')
    return found


class _UnfitError(Exception):
    """Why predictions cannot be kept."""


def _fault(predictions: Classification | Segmentation | Detection) -> str | None:
    if len(set(predictions.ids)) < len(predictions.ids):
        return 'a sample twice'
    return predictions.fault()


def _file_name(kind: str, name: str) -> str:
    return f'{name}.json.gz' if kind == 'detection' else f'{name}.npz'


# ------------------------------------------------------------------------------------------------ what a test gives


def _classification_row(sample: Any) -> dict:
    scores, label = sample.get('pred_score'), sample.get('gt_label')
    if scores is None or isinstance(scores, dict) or scores.ndim != 1 or label is None or label.numel() != 1:
        raise _UnfitError('the samples do not hold one score for each class and one true class')
    scores, label = scores.detach().float().cpu().numpy(), int(label)
    if not 0 <= label < len(scores):
        raise _UnfitError(f'a true class is {label}, beyond the {len(scores)} classes')
    return {'scores': scores, 'label': label}


def _segmentation_row(sample: Any, count: int, ignore_index: int) -> dict:
    if sample.get('pred_sem_seg') is None or sample.get('gt_sem_seg') is None or not count:
        raise _UnfitError('the samples do not hold a predicted and a true label map, or the classes have no names')
    predicted, true = (
        sample.get(key).data.squeeze().cpu().numpy().astype(np.int64).ravel() for key in ('pred_sem_seg', 'gt_sem_seg')
    )
    if predicted.shape != true.shape:
        raise _UnfitError('the predicted and the true label map are of unequal size')
    known = true != ignore_index
    predicted, true = predicted[known], true[known]

    def histogram(labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels[(labels >= 0) & (labels < count)], minlength=count)

    intersect, pixels = histogram(true[predicted == true]), histogram(true)
    return {'intersect': intersect, 'union': pixels + histogram(predicted) - intersect, 'pixels': pixels}


def _detection_row(sample: Any) -> dict:
    found = sample.get('pred_instances')
    if found is None or sample.get('img_id') is None:
        raise _UnfitError('the samples do not hold detections and the number of their image')
    row = {'id': sample.img_id, 'masks': None}
    for key in ('bboxes', 'scores', 'labels', 'mask_scores'):
        if key in found:
            row[key] = found[key].detach().cpu().numpy()
    if 'masks' in found:
        masks = found['masks']
        row['masks'] = masks if isinstance(masks, list | tuple) else _encode(masks.detach().cpu().numpy())
    return row


def _encode(masks: np.ndarray) -> list[dict]:
    """Masks (N, H, W) as compressed RLE."""
    from pycocotools import mask as coco_mask

    return [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def _coco_results(row: dict, categories: Sequence[int]) -> list[dict]:
    """One image's detections, the numbers as CocoMetric has them."""
    results = []
    for index, ((left, top, right, bottom), score, label) in enumerate(
        zip(row['bboxes'].tolist(), row['scores'].tolist(), row['labels'].tolist(), strict=True)
    ):
        one = {
            'image_id': row['id'],
            'category_id': categories[label],
            'bbox': [left, top, right - left, bottom - top],
            'score': score,
        }
        if row['masks'] is not None:
            size, counts = (row['masks'][index][key] for key in ('size', 'counts'))
            counts = counts.decode() if isinstance(counts, bytes) else counts
            one['segmentation'] = {'size': [int(side) for side in size], 'counts': counts}
            if 'mask_scores' in row:
                one['mask_score'] = float(row['mask_scores'][index])
        results.append(one)
    return results


def _without_padding(rows: Sequence[dict], size: int) -> list[dict]:
    """Leave out the samples that a sampler repeats at the end so that every process gets as many.

    A file that the data set itself lists twice stays twice.
    """
    spare, times, kept = len(rows) - size, Counter(row['id'] for row in rows), []
    for row in reversed(rows):
        if spare > 0 and times[row['id']] > 1:
            times[row['id']] -= 1
            spare -= 1
        else:
            kept.append(row)
    return kept[::-1]


def _data_root(dataset: Any) -> str | None:
    """Root of the data of a data set, inside its wrappers."""
    while dataset is not None and not getattr(dataset, 'data_root', None):
        inner = getattr(dataset, 'dataset', None) or next(iter(getattr(dataset, 'datasets', None) or ()), None)
        dataset = inner if inner is not dataset else None
    return getattr(dataset, 'data_root', None)


def _names(paths: Sequence[str], root: str | None) -> tuple[str, ...]:
    """Files as relative to the root; if one lies elsewhere, all by their last part, or from where they all lie."""
    absolute = [os.path.abspath(path) for path in paths]
    top = os.path.abspath(root) if root else None
    if top is None or any(os.path.commonpath([top, path]) != top for path in absolute):
        last = [os.path.basename(path) for path in absolute]
        unique = len(set(last)) == len(set(absolute))
        top = None if unique else os.path.commonpath(absolute)
    names = [os.path.basename(p) if top is None else Path(os.path.relpath(p, top)).as_posix() for p in absolute]
    seen: Counter = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f'{name}#{seen[name]}'
    return tuple(names)


# ---------------------------------------------------------------------------------------------------- what is in a file


def _read_detections(path: Path) -> Detection:
    content = json.loads(gzip.decompress(path.read_bytes()))
    return Detection(
        *_shared(content, content['images'], Detection),
        categories=tuple(content['categories']),
        ground_truth=content['ground_truth']['file'],
        ground_truth_sha256=content['ground_truth']['sha256'],
        detections=list(content['detections']),
    )


def _read_arrays(path: Path) -> Classification | Segmentation:
    with np.load(path, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError('not a file of several arrays')
        content = {name: file[name] for name in file.files}
    meta = json.loads(str(content['meta']))
    form = Segmentation if meta['kind'] == 'segmentation' else Classification
    for name, kinds in form.arrays.items():
        if content[name].dtype.kind not in kinds:
            raise ValueError(f'{name} is of type {content[name].dtype}')
    shared = _shared(meta, content['ids'].tolist(), form)
    return form(*shared, **{name: content[name] for name in form.arrays})


def _shared(meta: dict, ids: Sequence, form: type[Predictions]) -> tuple:
    if meta['format'] != FORMAT or meta['version'] != VERSION:
        raise ValueError(f'format {meta["format"]!r}, version {meta["version"]}')
    kinds = {
        Detection: ('detection',),
        Segmentation: ('segmentation',),
        Classification: ('classification', 'action recognition'),
    }
    if meta['kind'] not in kinds[form]:
        raise ValueError(f'kind {meta["kind"]!r}')
    return meta['kind'], tuple(ids), tuple(map(str, meta['classes'])), dict(meta['metrics'])
