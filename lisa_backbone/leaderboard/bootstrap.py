"""Two tests compared over the images or videos that they share, by the paired bootstrap."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from ..errors import UserError
from ..predictions import Classification, Detection, Predictions, Segmentation, read_predictions

__all__ = ['Comparison', 'compare', 'value_of']

_BATCH = 2_000_000  # numbers that one batch of resamples may take


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images or videos, by the paired bootstrap.

    The difference is inside the noise where its confidence interval holds 0: then another set of images of the same
    kind might well turn it round. Whether training again would, it does not tell.

    Attributes:
        metric: The metric.
        names: The models.
        values: The metric of either on all samples.
        difference: The first less the second.
        low: Lower end of the confidence interval of the difference.
        high: Upper end.
        share: Like a p-value: twice the share of resamples on the rarer side of 0, those at 0 on both sides.
        samples: How many samples there are.
        unit: ``'images'`` or ``'videos'``.
        confidence: Of the interval, a share of one.
        method: ``'percentile'`` or ``'BCa'``.
        resamples: How many there were.
        seed: Of the generator that drew them.
    """

    metric: str
    names: tuple[str, str]
    values: tuple[float, float]
    difference: float
    low: float
    high: float
    share: float
    samples: int
    unit: str
    confidence: float
    method: str
    resamples: int
    seed: int

    @property
    def in_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high

    def sentence(self) -> str:
        """The comparison in one sentence."""
        where = 'inside' if self.in_noise else 'outside'
        return (
            f'{self.metric}: {self.names[0]} {self.values[0]:.4f}, {self.names[1]} {self.values[1]:.4f}, difference '
            f'{self.difference:+.4f}, {100 * self.confidence:g} % interval {self.low:+.4f} to {self.high:+.4f} (paired '
            f'bootstrap over {self.samples} {self.unit}, {self.resamples} resamples, {self.method}, seed {self.seed}, '
            f'share {self.share:.2g}): {where} the noise of the choice of {self.unit}, which tells nothing about other '
            f'seeds of training'
        )


def compare(
    path_a: str | Path,
    path_b: str | Path,
    metric: str | None = None,
    *,
    names: tuple[str, str] = ('A', 'B'),
    resamples: int = 2000,
    confidence: float = 0.95,
    method: str = 'percentile',
    seed: int = 0,
    ground_truth: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare two saved predictions of one task by the paired bootstrap.

    The samples are drawn with replacement, the same for both, and the metric is made anew of what was drawn: the share
    of right ones, mIoU of the summed counts of pixels, or AP of all detections in the images drawn.

    Args:
        path_a: Predictions of a model, as :class:`lisa_backbone.predictions.PredictionHook` writes them.
        path_b: Predictions of the other.
        metric: ``'top-1'`` or another ``'top-K'``, ``'mIoU'``, ``'box AP'`` or ``'mask AP'``; by default the first of
            these that the predictions allow.
        names: What to call the models.
        resamples: How often to draw.
        confidence: Of the interval.
        method: Of the interval: ``'percentile'``, or ``'BCa'``, which takes as many evaluations more as there are
            samples.
        seed: Of the generator.
        ground_truth: The annotation file of detections, if it is not where the test found it.
        progress: Whether to show a bar.

    Returns:
        The comparison.

    Raises:
        UserError: A file cannot be read, the two are not of the same samples, or the metric is not to be had of them.
    """
    if method not in ('percentile', 'BCa') or resamples < 100:
        raise UserError(f"method {method!r} must be 'percentile' or 'BCa', and resamples {resamples} at least 100")
    paths = (Path(path_a), Path(path_b))
    a, b = (read_predictions(path) for path in paths)
    _require_same_samples(a, b, paths)
    metric = metric or _main_metric(a)
    with tqdm(total=0, desc='reading and matching', unit='draw', disable=not progress) as bar:
        samples, figures = _figures((a, b), metric, paths, ground_truth)
        width = max(samples, *(figure.width for figure in figures))
        of_all = np.ones((1, samples))
        values = tuple(float(figure(of_all)[0]) for figure in figures)

        def difference(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
            """Of the samples that were drawn, given by their numbers (..., draws)."""
            rows = drawn.reshape(-1, drawn.shape[-1])
            starts = samples * np.arange(len(rows))[:, None]
            weights = np.bincount((rows + starts).ravel(), minlength=samples * len(rows)).astype(float)
            weights = weights.reshape(len(rows), samples)
            bar.update(len(rows))
            return (figures[0](weights) - figures[1](weights)).reshape(drawn.shape[:-1])

        bar.reset(resamples + (samples + 1 if method == 'BCa' else 0))
        bar.set_description(metric)
        low, high, drawn = _bootstrap(difference, samples, width, resamples, confidence, method, seed)
    rarer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return Comparison(
        metric=metric,
        names=names,
        values=values,
        difference=values[0] - values[1],
        low=low,
        high=high,
        share=float(min(1, 2 * (rarer + 1) / (len(drawn) + 1))),
        samples=samples,
        unit=a.unit,
        confidence=confidence,
        method=method,
        resamples=resamples,
        seed=seed,
    )


def value_of(path: str | Path, metric: str, ground_truth: str | Path | None = None) -> float:
    """A metric of saved predictions, made anew of all samples.

    Args:
        path: The predictions.
        metric: As for :func:`compare`.
        ground_truth: The annotation file of detections, if it is not where the test found it.

    Returns:
        The metric, a share of one.

    Raises:
        UserError: A file cannot be read, or the metric is not to be had of them.
    """
    path = Path(path)
    samples, (figure,) = _figures((read_predictions(path),), metric, (path,), ground_truth)
    return float(figure(np.ones((1, samples)))[0])


def _bootstrap(
    statistic: Callable, samples: int, width: int, resamples: int, confidence: float, method: str, seed: int
) -> tuple[float, float, np.ndarray]:
    """Ends of the confidence interval and the value of each resample."""
    if samples < 2:
        raise UserError('predictions of one sample cannot be resampled; compare tests of more')
    with warnings.catch_warnings(), np.errstate(invalid='ignore', divide='ignore'):
        warnings.simplefilter('ignore', stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (np.arange(samples),),
            statistic,
            n_resamples=resamples,
            batch=max(_BATCH // width, 1),
            vectorized=True,
            confidence_level=confidence,
            method=method,
            rng=np.random.default_rng(seed),
        )
    drawn = result.bootstrap_distribution
    if not np.isfinite(drawn).all():
        raise UserError(f'the {samples} samples are too few: the metric is not defined for some of the resamples')
    if np.ptp(drawn) == 0:  # the same for all: BCa is not defined
        return float(drawn[0]), float(drawn[0]), drawn
    low, high = map(float, result.confidence_interval)
    if not math.isfinite(low + high):
        raise UserError('the BCa interval is not defined for these predictions; take percentile')
    return low, high, drawn


def _main_metric(predictions: Predictions) -> str:
    return {'segmentation': 'mIoU', 'detection': 'box AP'}.get(predictions.kind, 'top-1')


def _require_same_samples(a: Predictions, b: Predictions, paths: tuple[Path, Path]) -> None:
    """Stop where two predictions are not of the same samples and the same truth."""
    both = f'{paths[0]} and {paths[1]}'
    if a.kind != b.kind:
        raise UserError(f'{both} are of different kinds ({a.kind}, {b.kind}); compare predictions of one task')
    only_a, only_b = set(a.ids) - set(b.ids), set(b.ids) - set(a.ids)
    if only_a or only_b:
        parts = [f'{len(only)} {a.unit} are only in {path}, such as {min(map(str, only))}'
                 for only, path in ((only_a, paths[0]), (only_b, paths[1])) if only]  # fmt: skip
        raise UserError(f'predictions of different samples cannot be compared: {"; ".join(parts)}')
    if a.classes != b.classes:
        raise UserError(f'{both} have different classes; compare predictions of one task')
    if isinstance(a, Detection) and isinstance(b, Detection):
        if a.ground_truth_sha256 != b.ground_truth_sha256:
            raise UserError(
                f'{both} were tested on different annotations ({a.ground_truth}, SHA-256 {a.ground_truth_sha256[:8]}; '
                f'{b.ground_truth}, {b.ground_truth_sha256[:8]}); test again on one'
            )
        return
    truth = 'pixels' if isinstance(a, Segmentation) else 'labels'
    order = _order(b, a.ids)
    same = getattr(a, truth) == getattr(b, truth)[order]
    if not np.all(same):
        wrong = np.flatnonzero(~same.reshape(len(a.ids), -1).all(axis=1))
        raise UserError(f'{both} have another truth for {len(wrong)} {a.unit}, such as {a.ids[wrong[0]]}')


def _order(predictions: Predictions, ids: Sequence) -> np.ndarray:
    """Where the samples of ``ids`` are in some predictions."""
    place = {name: index for index, name in enumerate(predictions.ids)}
    return np.array([place[name] for name in ids])


class _Figure(ABC):
    """A metric as a function of how often each sample counts: (B, N) to (B,)."""

    width = 0  # numbers that one of B takes, if there are more than samples

    @abstractmethod
    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The metric for each row of weights."""


class _TopK(_Figure):
    """Share of samples whose true class is among the best k."""

    def __init__(self, predictions: Classification, order: np.ndarray, k: int) -> None:
        self.right = (predictions.ranks[order] < k).astype(float)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return weights @ self.right / weights.sum(axis=1)


class _MeanIoU(_Figure):
    """Mean over the classes of summed intersection over summed union, leaving out those that are nowhere."""

    def __init__(self, predictions: Segmentation, order: np.ndarray) -> None:
        self.intersect = predictions.intersect[order].astype(float)
        self.union = predictions.union[order].astype(float)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid='ignore'):
            return np.nanmean((weights @ self.intersect) / (weights @ self.union), axis=1)


class _AveragePrecision(_Figure):
    """COCO's AP: IoU 0.50 to 0.95, all areas, 100 detections of a class and image.

    The detections are matched once, by COCOeval. Per resample only the counts of :meth:`COCOeval.accumulate` are made
    anew. It takes the precision at a recall from the first detection that reaches it; such a detection is a hit, so
    the hits are all that is looked at. A detection of an image that counts several times stands for as many equal
    ones. This gives what ``accumulate`` gives of the repeated images, but for the order of equal scores of one class
    within one image.
    """

    def __init__(self, results: list[dict], truth: Any, iou_type: str, categories: Sequence[int]) -> None:
        evaluation = _evaluate(results, truth, iou_type, categories)
        images, self.classes = evaluation.params.imgIds, []
        self.recalls, self.thresholds = evaluation.params.recThrs, len(evaluation.params.iouThrs)
        for index in range(len(evaluation.params.catIds)):
            entries = evaluation.evalImgs[index * len(images) : (index + 1) * len(images)]
            self.classes.append(_Class.of([(at, e) for at, e in enumerate(entries) if e is not None], len(images)))
        self.width = max((len(one.image) for one in self.classes), default=0)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Mean of empty slice', RuntimeWarning)
            return np.nanmean([self._of_class(one, weights) for one in self.classes], axis=0)

    def _of_class(self, one: _Class, weights: np.ndarray) -> np.ndarray:
        """AP of a class; not a number where there is nothing to find."""
        objects = weights @ one.objects
        drawn = weights[:, one.image]
        upto = drawn.cumsum(axis=1)
        total = np.zeros(len(weights))
        for hit, ignored in zip(one.hit, one.ignored, strict=True):
            at = np.flatnonzero(hit)
            if not at.size:
                continue
            hits = drawn[:, at].cumsum(axis=1)
            counted = upto[:, at]
            if ignored.any():
                counted = counted - (drawn * ignored).cumsum(axis=1)[:, at]
            precision = hits / (counted + np.spacing(1))
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            with np.errstate(invalid='ignore', divide='ignore'):
                recall = hits / objects[:, None]
            reached = np.searchsorted(self.recalls, recall, side='right')  # how many of the recalls each hit reaches
            total += (best * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
        return np.where(objects > 0, total / (len(self.recalls) * self.thresholds), np.nan)


@dataclass(frozen=True)
class _Class:
    """Matches of a class, D detections in order of their scores, at T thresholds of IoU."""

    image: np.ndarray  # (D,), the place of each detection's image
    hit: np.ndarray  # (T, D)
    ignored: np.ndarray  # (T, D), neither right nor wrong
    objects: np.ndarray  # (N,), objects to be found in each image

    @classmethod
    def of(cls, entries: Sequence[tuple[int, dict]], images: int) -> _Class:
        """From places of images and what COCOeval found there."""
        objects = np.zeros(images)
        for at, entry in entries:
            objects[at] = np.count_nonzero(np.equal(entry['gtIgnore'], 0))
        image = np.repeat([at for at, _ in entries], [len(e['dtScores']) for _, e in entries]).astype(int)
        if not image.size:
            none = np.zeros((0, 0), bool)
            return cls(image, none, none, objects)
        scores = np.concatenate([e['dtScores'] for _, e in entries])
        order = np.argsort(-scores, kind='mergesort')
        matched, ignored = (
            np.concatenate([e[key] for _, e in entries], axis=1)[:, order].astype(bool)
            for key in ('dtMatches', 'dtIgnore')
        )
        return cls(image[order], matched & ~ignored, ignored, objects)


def _evaluate(results: list[dict], truth: Any, iou_type: str, categories: Sequence[int]) -> Any:
    """COCOeval of some detections, matched."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # which both fill with progress
        if results:
            found = truth.loadRes(results)
        else:  # which loadRes does not take
            found = COCO()
            found.dataset = {**truth.dataset, 'annotations': []}
            found.createIndex()
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.params.catIds = list(categories)
        evaluation.params.maxDets = [100]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.evaluate()
    return evaluation


def _figures(
    several: Sequence[Predictions], metric: str, paths: Sequence[Path], ground_truth: str | Path | None
) -> tuple[int, list[_Figure]]:
    """Number of samples, and the metric of each of some predictions of the same as a function of their weights."""
    a = several[0]
    ids = sorted(a.ids)  # so that the draws do not depend on the order in a file
    top = re.fullmatch(r'top-([1-9]\d*)', metric)
    if isinstance(a, Classification) and top:
        return len(ids), [_TopK(p, _order(p, ids), int(top[1])) for p in several]
    if isinstance(a, Segmentation) and metric == 'mIoU':
        return len(ids), [_MeanIoU(p, _order(p, ids)) for p in several]
    if isinstance(a, Detection) and metric in ('box AP', 'mask AP'):
        truth = _truth(Path(ground_truth or a.ground_truth), a.ground_truth_sha256)
        figures = []
        for predictions, path in zip(several, paths, strict=True):
            results = _results(predictions.detections, metric, path)
            images = set(truth.getImgIds())
            if not images.issuperset(predictions.ids):
                raise UserError(f'{path} holds images that are not in {ground_truth or a.ground_truth}')
            iou_type = 'bbox' if metric == 'box AP' else 'segm'
            figures.append(_AveragePrecision(results, truth, iou_type, predictions.categories))
        return len(truth.getImgIds()), figures
    allowed = {'segmentation': 'mIoU', 'detection': 'box AP, mask AP'}.get(a.kind, 'top-1, top-5')
    raise UserError(f'{metric} is not to be had of predictions of {a.kind} ({paths[0]}); there is {allowed}')


def _results(detections: list[dict], metric: str, path: Path) -> list[dict]:
    """Detections with what one metric looks at, as CocoMetric hands them to COCOeval."""
    shared = ('image_id', 'category_id')
    if metric == 'box AP':
        return [{key: one[key] for key in (*shared, 'score', 'bbox')} for one in detections]
    if any('segmentation' not in one for one in detections):
        raise UserError(f'{path} holds no masks, so mask AP is not to be had of it')
    return [
        {
            **{key: one[key] for key in shared},
            'score': one.get('mask_score', one['score']),
            'segmentation': dict(one['segmentation']),
        }
        for one in detections
    ]


def _truth(path: Path, sha256: str) -> Any:
    """The annotations that detections were tested on."""
    from pycocotools.coco import COCO

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f'ground truth {path} cannot be read ({error.strerror}); name the annotation file that the test had'
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f'{path} is not the annotation file that the test had (SHA-256 {sha256[:8]}...)')
    truth = COCO()
    truth.dataset = json.loads(content)
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth
