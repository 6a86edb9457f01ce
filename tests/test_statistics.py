"""Statistics of the leaderboard, against scipy, COCOeval and sums by hand."""

import copy
import gzip
import hashlib
import io
import json
import math
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')

from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.leaderboard.bootstrap import (  # noqa: E402
    _AveragePrecision,
    _bootstrap,
    _evaluate,
    _MeanIoU,
    compare,
    value_of,
)
from lisa_backbone.leaderboard.statistics import (  # noqa: E402
    compare_seeds,
    correct,
    metric_of,
    rank,
    summarise,
    values_by_seed,
)
from lisa_backbone.predictions import (  # noqa: E402
    Detection,
    Segmentation,
    classification,
    read_predictions,
    write_predictions,
)


def record(model, value, seed=0, task='mini One', status='mini', **more):
    metrics = more.pop('metrics', {'top-1': value})
    return {'status': status, 'task': task, 'model': model, 'seed': seed, 'metrics': metrics, **more}


def runs(model, values, **more):
    return [record(model, value, seed, **more) for seed, value in enumerate(values)]


# ------------------------------------------------------------------------------------------------------------ summaries


def test_a_summary_is_mean_and_sample_deviation():
    summary = summarise([0.481, 0.466, 0.470])
    assert summary.mean == pytest.approx(0.47233, abs=1e-5)
    assert summary.deviation == pytest.approx(math.sqrt((0.00867**2 + 0.00633**2 + 0.00233**2) / 2), abs=1e-5)
    assert str(summary) == '0.472 ± 0.008 (3)'
    assert summarise([0.25]).deviation is None
    assert str(summarise([0.25])) == '0.250 (1)'


def test_values_are_those_of_one_model_and_the_main_metric():
    records = [record('m', 0, seed, metrics={'box AP': 0.5 + seed / 10, 'mask AP': 0.4}) for seed in (2, 0)]
    assert values_by_seed(records) == {2: pytest.approx(0.7), 0: 0.5}
    assert values_by_seed(records, 'mask AP') == {2: 0.4, 0: 0.4}
    assert metric_of(records) == 'box AP'
    with pytest.raises(UserError, match='mini One: m, seed 2 has no mIoU, only box AP, mask AP'):
        values_by_seed(records, 'mIoU')
    other = record('m', 0, 1, metrics={'mask AP': 0.1, 'box AP': 0.2})
    with pytest.raises(UserError, match='m, seed 1 has mask AP, box AP, and box AP is not the first; name a metric'):
        metric_of([*records, other])
    assert values_by_seed([*records, other], 'box AP')[1] == 0.2


@pytest.mark.parametrize(
    ('other', 'words'),
    [
        (record('m', 0.1, 1, status='reproduced'), 'different status are never compared (mini, reproduced)'),
        (record('m', 0.1, 1, task='mini Two'), 'different task are never compared'),
        (record('n', 0.1, 1), 'different model are never compared (m, n)'),
        (record('m', 0.1, 0), 'there are two results of m, seed 0; choose one'),
        (record('m', 0.1, 1, data={'fingerprint': 'f' * 64}), 'on different data are never compared'),
    ],
)
def test_what_must_not_be_mixed_is_not(other, words):
    import re

    with pytest.raises(UserError, match=re.escape(words)):
        values_by_seed([record('m', 0.2, 0, data={'fingerprint': 'a' * 64}), other])


# ------------------------------------------------------------------------------------------------------- over the seeds


def by_hand(difference, error, freedom, confidence=0.95):
    """Ends of the interval, and p, from the t distribution."""
    half = stats.t.ppf((1 + confidence) / 2, freedom) * error
    return difference - half, difference + half, 2 * stats.t.sf(abs(difference) / error, freedom)


A, B = [0.62, 0.66, 0.64, 0.68], [0.60, 0.61, 0.62, 0.65]


def test_the_same_seeds_are_compared_in_pairs():
    found = compare_seeds(runs('a', A), list(reversed(runs('b', B))))
    differences = np.subtract(A, B)
    low, high, p = by_hand(differences.mean(), differences.std(ddof=1) / 2, 3)
    assert found.test == 'paired t-test'
    assert found.difference == pytest.approx(0.03)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, p))
    assert found.p == pytest.approx(stats.ttest_rel(A, B).pvalue)
    assert found.in_noise is False
    assert found.sentence() == (
        'top-1 on mini One: a 0.650 ± 0.026 (4), b 0.620 ± 0.022 (4), difference +0.030, 95 % interval '
        f'{low:+.3f} to {high:+.3f} (paired t-test, p = {p:.2g}): outside the noise over seeds'
    )


def test_different_seeds_are_compared_by_welch():
    found = compare_seeds(runs('a', A), [record('b', value, 10 + seed) for seed, value in enumerate(B[:3])])
    va, vb = np.var(A, ddof=1) / 4, np.var(B[:3], ddof=1) / 3
    freedom = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    low, high, p = by_hand(np.mean(A) - np.mean(B[:3]), math.sqrt(va + vb), freedom)
    assert found.test == "Welch's t-test"
    assert (found.low, found.high, found.p) == pytest.approx((low, high, p))
    assert compare_seeds(runs('a', A), runs('b', B), paired=False).p == pytest.approx(
        stats.ttest_ind(A, B, equal_var=False).pvalue
    )
    with pytest.raises(UserError, match='seeds 0, 1, 2, 3 and 0, 1 do not pair'):
        compare_seeds(runs('a', A), runs('b', B[:2]), paired=True)


def test_the_confidence_decides():
    wide, narrow = (compare_seeds(runs('a', A), runs('b', B), confidence=c) for c in (0.9999, 0.5))
    differences = np.subtract(A, B)
    low, high, _ = by_hand(differences.mean(), differences.std(ddof=1) / 2, 3, 0.9999)
    assert (wide.low, wide.high) == pytest.approx((low, high))
    assert wide.in_noise
    assert '99.99 % interval' in wide.sentence()
    assert not narrow.in_noise


def test_inside_the_noise_it_says_so():
    found = compare_seeds(runs('a', [0.5, 0.6, 0.55]), runs('b', [0.6, 0.5, 0.53]))
    assert found.in_noise is True
    assert found.sentence().endswith('inside the noise over seeds')


def test_pairs_that_all_differ_by_the_same_prove_nothing():
    """Figures of few digits do so by chance; a paired test would divide by zero and be certain."""
    a, b = [0.902, 0.850], [0.900, 0.848]
    found = compare_seeds(runs('a', a), runs('b', b))
    assert found.test == "Welch's t-test"
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert found.in_noise is True
    constant = compare_seeds(runs('a', [0.9, 0.9]), runs('b', [0.8, 0.8]))
    assert (constant.low, constant.high, constant.p) == (pytest.approx(0.1), pytest.approx(0.1), 0)


def test_one_seed_tells_nothing():
    for first, second in (([0.9], [0.1]), ([0.9], [0.1, 0.2]), ([0.9, 0.8], [0.1])):
        found = compare_seeds(runs('a', first), runs('b', second))
        assert (found.in_noise, found.low, found.p, found.test) == (None, None, None, None)
        assert 'too few to tell' in found.sentence()
    published = [record('a', 0.5, None, status='published')]
    assert compare_seeds(published, [record('b', 0.4, None, status='published')]).in_noise is None
    with pytest.raises(UserError, match='different status'):
        compare_seeds(published, runs('b', B))
    with pytest.raises(UserError, match='no result'):
        compare_seeds([], runs('b', B))


def test_values_that_do_not_vary():
    same, apart = (compare_seeds(runs('a', [0.7, 0.7]), runs('b', [v, v])) for v in (0.7, 0.6))
    assert (same.low, same.high, same.p, same.in_noise) == (0, 0, 1, True)
    assert (apart.low, apart.high) == pytest.approx((0.1, 0.1))
    assert (apart.p, apart.in_noise) == (0, False)


def with_p(*values):
    base = compare_seeds(runs('a', A), runs('b', B))
    return [replace(base, p=p, low=None if p is None else 0.01) for p in values]


def test_many_comparisons_are_corrected_by_holm():
    # As p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), 'holm') of R has it, in whatever order they come.
    found = correct(with_p(0.04, 0.01, 0.05, 0.02, 0.03))
    assert [one.corrected for one in found] == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert {one.comparisons for one in found} == {5}
    # By hand: 0.001 x 3, 0.3 x 2, and 0.9 x 1; none above 1 or below one before it; what cannot be told does not count.
    found = correct(with_p(0.9, None, 0.3, 0.001))
    assert [one.corrected for one in found] == [pytest.approx(0.9), None, pytest.approx(0.6), pytest.approx(0.003)]
    assert [one.comparisons for one in found] == [3, 1, 3, 3]
    assert [one.corrected for one in correct(with_p(0.6, 0.7))] == [1, 1]
    assert correct([]) == []


def test_the_corrected_p_decides():
    # 1 / 30 = 0.033 by itself and 0.067 as one of two.
    alone, beside = correct(with_p(1 / 30))[0], correct(with_p(1 / 30, 0.5))[0]
    assert (alone.in_noise, alone.corrected) == (False, 1 / 30)
    assert (beside.in_noise, beside.corrected) == (True, pytest.approx(1 / 15))
    assert beside.sentence().endswith('(paired t-test, p = 0.033, corrected for 2 comparisons 0.067): '
                                      'inside the noise over seeds')  # fmt: skip
    assert 'corrected' not in alone.sentence()
    assert correct(with_p(0.02, 0.5))[0].in_noise is False
    assert correct(with_p(None))[0].in_noise is None


# --------------------------------------------------------------------------------------------------------- across tasks


def test_ranks_are_means_over_tasks_with_ties_shared():
    table = {'a': (0.9, 0.5, 0.1), 'b': (0.8, 0.5, 0.3), 'c': (0.7, 0.2, 0.2), 'd': (0.99, 0.99, None)}
    records = [
        record(model, value, task=f't{number}')
        for model, values in table.items()
        for number, value in enumerate(values)
        if value is not None
    ]
    found = rank(records)
    # without d: t0 1 2 3, t1 1.5 1.5 3, t2 3 1 2
    assert [(row.model, row.rank) for row in found.rows] == [
        ('b', pytest.approx(4.5 / 3)),
        ('a', pytest.approx(5.5 / 3)),
        ('c', pytest.approx(8 / 3)),
    ]
    assert found.rows[1].ranks == {'t0': 1, 't1': 1.5, 't2': 3}
    assert found.left_out == {'d': ('t2',)}
    assert (found.status, found.tasks, found.interval) == ('mini', {'t0': 'top-1', 't1': 'top-1', 't2': 'top-1'}, '')
    assert {(row.low, row.high, row.seeds) for row in found.rows} == {(None, None, 1)}
    two = rank(records, ['t1', 't0'])
    assert [(row.model, row.rank) for row in two.rows] == [('d', 1), ('a', 2.25), ('b', 2.75), ('c', 4)]
    assert list(two.tasks) == ['t1', 't0']


def test_equal_means_are_equal_ranks_whatever_the_rounding():
    records = runs('a', [0.1, 0.2]) + runs('b', [0.15, 0.15])
    assert np.mean([0.1, 0.2]) != np.mean([0.15, 0.15])
    assert [row.rank for row in rank(records).rows] == [1.5, 1.5]


def test_a_metric_may_be_chosen_for_a_task():
    records = [
        record('a', 0, metrics={'box AP': 0.5, 'mask AP': 0.1}),
        record('b', 0, metrics={'box AP': 0.4, 'mask AP': 0.2}),
    ]
    assert [row.model for row in rank(records).rows] == ['a', 'b']
    chosen = rank(records, metrics={'mini One': 'mask AP'})
    assert [row.model for row in chosen.rows] == ['b', 'a']
    assert chosen.tasks == {'mini One': 'mask AP'}


def test_the_interval_of_a_rank_comes_from_the_seeds():
    apart = rank(runs('a', [0.9, 0.91, 0.92]) + runs('b', [0.1, 0.2, 0.3]))
    assert [(row.low, row.high) for row in apart.rows] == [(1, 1), (2, 2)]
    assert apart.interval == (
        'The interval of a mean rank holds the middle 95 % of 2000 draws of the seeds with replacement (generator seed '
        '0).'
    )
    # b beats a in a draw where both seeds of a are 0.4: one draw in four
    near = rank(runs('a', [0.4, 0.6]) + runs('b', [0.45, 0.45]), confidence=0.4)
    assert [(row.model, row.rank, row.low, row.high) for row in near.rows] == [('a', 1, 1, 1), ('b', 2, 2, 2)]
    wide = rank(runs('a', [0.4, 0.6]) + runs('b', [0.45, 0.45]), confidence=0.6)
    assert [(row.low, row.high) for row in wide.rows] == [(1, 2), (1, 2)]
    one = rank(runs('a', [0.4, 0.6]) + runs('b', [0.45]))
    assert one.rows[0].low is None


def test_what_cannot_be_ranked_is_told():
    with pytest.raises(UserError, match=r'different status are never compared \(mini, published\)'):
        rank([record('a', 0.5), record('b', 0.5, None, status='published')])
    with pytest.raises(UserError, match='no result of t9; there are'):
        rank([record('a', 0.5)], ['t9'])
    with pytest.raises(UserError, match='no model has a result in each of t0, t1'):
        rank([record('a', 0.5, task='t0'), record('b', 0.5, task='t1')])
    with pytest.raises(UserError, match='different data'):
        rank([record(m, 0.5, data={'fingerprint': m * 64}) for m in 'ab'])
    with pytest.raises(UserError, match='two results of a'):
        rank([record('a', 0.5), record('a', 0.6)])


# ----------------------------------------------------------------------------------------------------- over the samples


def write_scores(path, scores, labels, order=None, kind='classification'):
    ids = np.array([f'{index:03}.jpg' for index in range(len(labels))])
    order = np.arange(len(labels)) if order is None else order
    made = classification(kind, ids[order].tolist(), (), {}, scores[order], labels[order])
    write_predictions(made, path)
    return path


@pytest.fixture
def pair(tmp_path):
    """Two models on 120 images, the second listing them in another order; labels of each and whether it is right."""
    rng = np.random.default_rng(3)
    labels = rng.integers(6, size=120)
    scores = rng.random((2, 120, 6)).astype(np.float32)
    scores[0, np.arange(120), labels] += 0.5
    scores[1, np.arange(120), labels] += 0.3
    paths = [
        write_scores(tmp_path / 'a.npz', scores[0], labels),
        write_scores(tmp_path / 'b.npz', scores[1], labels, rng.permutation(120)),
    ]
    return paths, scores.argmax(axis=2) == labels, scores, labels


@pytest.mark.parametrize('method', ['percentile', 'BCa'])
def test_accuracies_are_compared_as_scipy_does(pair, method):
    paths, right, _, _ = pair
    found = compare(*paths, names=('one', 'two'), resamples=999, method=method, seed=7, progress=False)
    expected = stats.bootstrap(
        (right[0].astype(float), right[1].astype(float)),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=999,
        method=method,
        rng=np.random.default_rng(7),
    )
    interval, drawn = expected.confidence_interval, np.round(expected.bootstrap_distribution, 12)
    assert found.metric == 'top-1'
    assert found.values == pytest.approx(tuple(right.mean(axis=1)))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.share == pytest.approx(2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / 1000)
    assert found.in_noise == (interval.low <= 0 <= interval.high)
    assert (found.samples, found.unit, found.method, found.seed) == (120, 'images', method, 7)


def test_a_sentence_tells_all(pair):
    paths, right, _, _ = pair
    found = compare(*paths, names=('one', 'two'), resamples=400, progress=False)
    assert not found.in_noise
    a, b = right.mean(axis=1)
    assert found.sentence() == (
        f'top-1: one {a:.4f}, two {b:.4f}, difference {a - b:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}'
        f' (paired bootstrap over 120 images, 400 resamples, percentile, seed 0, share {found.share:.2g}): outside the '
        f'noise of the choice of images, which tells nothing about other seeds of training'
    )
    again = compare(*reversed(paths), resamples=400, progress=False)
    assert (again.difference, again.low, again.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_the_spread_is_that_of_paired_differences(pair):
    paths, right, _, _ = pair
    found = compare(*paths, resamples=5000, confidence=0.6827, progress=False)
    error = np.subtract(*right.astype(float)).std() / math.sqrt(120)
    assert (found.high - found.low) / 2 == pytest.approx(error, rel=0.1)


def test_an_interval_that_is_not_defined_is_refused():
    def distinct(drawn, axis=-1):  # on all samples more than in any draw
        return 1.0 + (np.diff(np.sort(drawn, axis=axis), axis=axis) > 0).sum(axis=axis)

    low, high, drawn = _bootstrap(distinct, 20, 20, 200, 0.95, 'percentile', 0)
    assert 8 <= low <= np.median(drawn) <= high < 20
    with pytest.raises(UserError, match='BCa interval is not defined for these predictions; take percentile'):
        _bootstrap(distinct, 20, 20, 200, 0.95, 'BCa', 0)
    with pytest.raises(UserError, match='the 20 samples are too few'):
        _bootstrap(lambda x, axis=-1: x.mean(axis=axis) * np.nan, 20, 20, 200, 0.95, 'percentile', 0)


def test_a_model_beside_itself_is_inside_the_noise(pair):
    (path, _), _, _, _ = pair
    for method in ('percentile', 'BCa'):
        found = compare(path, path, method=method, resamples=200, progress=False)
        assert (found.difference, found.low, found.high, found.share, found.in_noise) == (0, 0, 0, 1, True)
        assert 'inside the noise' in found.sentence()


def test_top_k_and_videos(pair, tmp_path):
    _, _, scores, labels = pair
    paths = [write_scores(tmp_path / f'{i}.npz', scores[i], labels, kind='action recognition') for i in (0, 1)]
    found = compare(*paths, 'top-3', resamples=100, progress=False)
    best = np.argsort(-scores, axis=2)[..., :3]
    assert found.values == pytest.approx(tuple((best == labels[:, None]).any(axis=2).mean(axis=1)))
    assert found.unit == 'videos'


def test_what_cannot_be_compared_is_told(pair, tmp_path):
    (a, b), _, scores, labels = pair
    fewer = write_scores(tmp_path / 'fewer.npz', scores[0][:119], labels[:119])
    with pytest.raises(UserError, match=r'different samples .*: 1 images are only in .*a\.npz, such as 119\.jpg$'):
        compare(a, fewer)
    wrong = labels.copy()
    wrong[4] = (wrong[4] + 1) % 6
    with pytest.raises(UserError, match=r'another truth for 1 images, such as 004\.jpg'):
        compare(a, write_scores(tmp_path / 'wrong.npz', scores[0], wrong))
    with pytest.raises(UserError, match=r'different kinds \(classification, action recognition\)'):
        compare(a, write_scores(tmp_path / 'video.npz', scores[0], labels, kind='action recognition'))
    with pytest.raises(UserError, match=r'mIoU is not to be had of predictions of classification .* there is top-1'):
        compare(a, b, 'mIoU')
    with pytest.raises(UserError, match="method 'basic'"):
        compare(a, b, method='basic')
    with pytest.raises(UserError, match='resamples 5 at least 100'):
        compare(a, b, resamples=5)
    with pytest.raises(UserError, match='cannot be read'):
        compare(a, tmp_path / 'none.npz')


# --------------------------------------------------------------------------------------------------------- segmentation


def counts(seed, pixels):
    """Counts of pixels of a model: the more the seed, the worse; of the last class only false ones."""
    rng = np.random.default_rng(seed)
    intersect = rng.binomial(pixels, 0.8 - 0.05 * seed)
    return intersect, pixels + rng.poisson(5 + seed, size=pixels.shape)


@pytest.fixture
def maps(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, size=(30, 4)) * (np.arange(4) < 3)
    paths = []
    for seed in (1, 2):
        intersect, union = counts(seed, pixels)
        ids = tuple(f'{index:02}.png' for index in range(30))
        made = Segmentation('segmentation', ids, tuple('abcd'), {}, intersect=intersect, union=union, pixels=pixels)
        paths.append(tmp_path / f'{seed}.npz')
        write_predictions(made, paths[-1])
    return paths


def miou(predictions, images):
    """Of the images drawn, by mmseg's formula."""
    with np.errstate(invalid='ignore'):
        return np.nanmean(predictions.intersect[images].sum(axis=0) / predictions.union[images].sum(axis=0))


def test_miou_is_that_of_the_images_drawn(maps):
    a, b = map(read_predictions, maps)
    found = compare(*maps, resamples=300, seed=4, progress=False)
    everything = np.arange(30)
    assert found.metric == 'mIoU'
    assert found.values == pytest.approx((miou(a, everything), miou(b, everything)))
    assert value_of(maps[1], 'mIoU') == found.values[1]
    rng = np.random.default_rng(4)
    drawn = [miou(a, images) - miou(b, images) for images in rng.integers(30, size=(300, 30))]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found.low > 0
    assert not found.in_noise


def test_a_class_that_is_nowhere_in_a_draw_is_left_out():
    union = np.array([[10, 0], [20, 4]])
    made = Segmentation('segmentation', ('x', 'y'), ('a', 'b'), {}, intersect=union // 2, union=union, pixels=union)
    figure = _MeanIoU(made, np.arange(2))
    made.intersect[1, 1] = 1
    figure = _MeanIoU(made, np.arange(2))
    assert figure(np.array([[2.0, 0.0], [1.0, 1.0]])).tolist() == [0.5, (15 / 30 + 1 / 4) / 2]


def test_label_maps_of_another_truth_are_refused(maps, tmp_path):
    a = read_predictions(maps[0])
    pixels = a.pixels.copy()
    pixels[5, 0] = max(pixels[5, 0] - 1, 0) or 1
    other = Segmentation(a.kind, a.ids, a.classes, {}, intersect=a.intersect * 0, union=a.union + 1, pixels=pixels)
    write_predictions(other, tmp_path / 'other.npz')
    with pytest.raises(UserError, match=r'another truth for 1 images, such as 05\.png'):
        compare(maps[0], tmp_path / 'other.npz')
    named = Segmentation(a.kind, a.ids, tuple('wxyz'), {}, intersect=a.intersect, union=a.union, pixels=a.pixels)
    write_predictions(named, tmp_path / 'other.npz')
    with pytest.raises(UserError, match='different classes'):
        compare(maps[0], tmp_path / 'other.npz')


# ------------------------------------------------------------------------------------------------------------ detection


@pytest.fixture(scope='module')
def truth_file(tmp_path_factory):
    """Mini COCO with some crowds, and with an image in which there is nothing."""
    from lisa_backbone.data.mini_coco import MiniCocoParams, make_mini_coco

    root = tmp_path_factory.mktemp('data') / 'mini_coco'
    make_mini_coco(root, MiniCocoParams(seed=2, train=1, val=16, size=128))
    path = root / 'annotations' / 'instances_val2017.json'
    content = json.loads(path.read_text())
    content['annotations'] = [one for one in content['annotations'] if one['image_id'] != 3]
    for one in content['annotations'][::9]:
        one['iscrowd'] = 1
    path.write_text(json.dumps(content))
    return path


def make_detections(truth_file, path, seed, noise, step=None):
    """Boxes and masks near the true ones, confused and repeated; scores in steps, so that some are equal."""
    from pycocotools import mask as coco_mask

    content, rng, found = json.loads(truth_file.read_text()), np.random.default_rng(seed), []
    for one in content['annotations']:
        for _ in range(rng.integers(0, 4)):
            shift = rng.normal(0, noise, 2)
            x, y, w, h = one['bbox']
            mask = np.roll(coco_mask.decode(one['segmentation']), shift.astype(int), axis=(1, 0))
            rle = coco_mask.encode(np.asfortranarray(mask))
            score = float(rng.random())
            found.append({
                'image_id': one['image_id'],
                'category_id': one['category_id'] if rng.random() < 0.85 else int(rng.integers(1, 11)),
                'bbox': [x + shift[0], y + shift[1], w * rng.uniform(0.9, 1.1), h],
                'score': score if step is None else round(score / step) * step,
                'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode()},
            })  # fmt: skip
    found += [{**one, 'image_id': 3, 'score': one['score'] / 2} for one in found[:4]]
    found = [one for one in found if one['category_id'] != 4]  # a class that is never found
    categories = tuple(one['id'] for one in content['categories'])
    made = Detection(
        'detection', tuple(one['id'] for one in content['images']), (), {}, categories, str(truth_file),
        hashlib.sha256(truth_file.read_bytes()).hexdigest(), found,
    )  # fmt: skip
    write_predictions(made, path)
    return made


def load(truth_file):
    from pycocotools.coco import COCO

    with redirect_stdout(io.StringIO()):
        return COCO(truth_file)


def results(made, kind):
    key = {'bbox': 'bbox', 'segm': 'segmentation'}[kind]
    return [{k: copy.copy(one[k]) for k in ('image_id', 'category_id', 'score', key)} for one in made.detections]


def ap_of(evaluation):
    """AP that COCOeval accumulates: the mean over what is defined."""
    with redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    return precision[precision > -1].mean()


def repeated(evaluation, drawn):
    """The evaluation of images that were drawn, some of them several times."""
    images, classes = len(evaluation.params.imgIds), len(evaluation.params.catIds)
    evaluation = copy.copy(evaluation)
    evaluation.params, evaluation._paramsEval = copy.copy(evaluation.params), copy.copy(evaluation._paramsEval)
    evaluation.evalImgs = [evaluation.evalImgs[k * images + i] for k in range(classes) for i in drawn]
    evaluation.params.imgIds = evaluation._paramsEval.imgIds = list(range(len(drawn)))
    return evaluation


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize('step', [None, 0.125])
def test_ap_is_that_of_cocoeval(truth_file, tmp_path, kind, step):
    """On all images with the parameters of CocoMetric, equal scores or not."""
    from pycocotools.cocoeval import COCOeval

    made = make_detections(truth_file, tmp_path / 'a.json.gz', 0, 2, step)
    figure = _AveragePrecision(results(made, kind), load(truth_file), kind, made.categories)
    with redirect_stdout(io.StringIO()):
        truth = load(truth_file)
        evaluation = COCOeval(truth, truth.loadRes(results(made, kind)), kind)
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    value = figure(np.ones((1, 16)))[0]
    assert value == pytest.approx(evaluation.stats[0], abs=1e-12)
    assert 0.1 < value < 0.9
    ignored = sum(one.ignored.sum() for one in figure.classes)
    assert ignored > 20  # matches of crowds


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_ap_of_repeated_images_is_that_of_cocoeval(truth_file, tmp_path, kind):
    made = make_detections(truth_file, tmp_path / 'a.json.gz', 1, 2)
    figure = _AveragePrecision(results(made, kind), load(truth_file), kind, made.categories)
    evaluation = _evaluate(results(made, kind), load(truth_file), kind, made.categories)
    rng = np.random.default_rng(0)
    draws = rng.integers(16, size=(12, 16))
    weights = np.stack([np.bincount(drawn, minlength=16) for drawn in draws]).astype(float)
    expected = [ap_of(repeated(evaluation, drawn)) for drawn in draws]
    assert figure(weights) == pytest.approx(expected, abs=1e-12)
    assert np.ptp(expected) > 0.02


def test_ap_of_a_class_that_is_never_found_is_nothing(truth_file, tmp_path):
    made = make_detections(truth_file, tmp_path / 'a.json.gz', 1, 2)
    figure = _AveragePrecision(results(made, 'bbox'), load(truth_file), 'bbox', made.categories)
    weights = np.ones((1, 16))
    each = [figure._of_class(one, weights)[0] for one in figure.classes]
    assert each[3] == 0
    assert figure.classes[3].objects.sum() > 3
    assert figure(weights)[0] == pytest.approx(np.mean(each))


def test_a_draw_of_images_without_objects_has_no_ap(truth_file, tmp_path):
    made = make_detections(truth_file, tmp_path / 'a.json.gz', 1, 2)
    figure = _AveragePrecision(results(made, 'bbox'), load(truth_file), 'bbox', made.categories)
    only_third = np.zeros((1, 16))
    only_third[0, 2] = 16
    assert np.isnan(figure(only_third)[0])


def test_detections_are_compared(truth_file, tmp_path):
    paths = [tmp_path / 'a.json.gz', tmp_path / 'b.json.gz']
    made = [
        make_detections(truth_file, path, seed, noise) for path, seed, noise in zip(paths, (1, 2), (1, 3), strict=True)
    ]
    for metric, kind in (('box AP', 'bbox'), ('mask AP', 'segm')):
        found = compare(*paths, metric, resamples=150, seed=5, progress=False)
        figures = [_AveragePrecision(results(one, kind), load(truth_file), kind, one.categories) for one in made]
        draws = np.random.default_rng(5).integers(16, size=(150, 16))
        weights = np.stack([np.bincount(drawn, minlength=16) for drawn in draws]).astype(float)
        differences = figures[0](weights) - figures[1](weights)
        assert found.values == pytest.approx([figure(np.ones((1, 16)))[0] for figure in figures])
        assert (value_of(paths[0], metric), value_of(paths[1], metric, truth_file)) == found.values
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
        assert found.low > 0
    assert compare(*paths, resamples=100, progress=False).metric == 'box AP'


def test_batches_do_not_change_the_draws(truth_file, tmp_path, monkeypatch):
    paths = [tmp_path / 'a.json.gz', tmp_path / 'b.json.gz']
    for number, path in enumerate(paths):
        make_detections(truth_file, path, number, 2)
    whole = compare(*paths, resamples=100, progress=False)
    monkeypatch.setattr('lisa_backbone.leaderboard.bootstrap._BATCH', 16 * 7)
    parts = compare(*paths, resamples=100, progress=False)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high))


def test_no_detection_at_all_is_an_ap_of_nothing(truth_file, tmp_path):
    made = make_detections(truth_file, tmp_path / 'a.json.gz', 1, 2)
    none = Detection(made.kind, made.ids, (), {}, made.categories, made.ground_truth, made.ground_truth_sha256, [])
    write_predictions(none, tmp_path / 'none.json.gz')
    found = compare(tmp_path / 'a.json.gz', tmp_path / 'none.json.gz', resamples=100, progress=False)
    assert found.values[1] == 0
    assert found.low > 0


def test_mask_scores_order_the_masks(truth_file, tmp_path):
    made = make_detections(truth_file, tmp_path / 'a.json.gz', 1, 2)
    turned = [{**one, 'score': 1 - one['score'], 'mask_score': one['score']} for one in made.detections]
    other = Detection(made.kind, made.ids, (), {}, made.categories, made.ground_truth, made.ground_truth_sha256, turned)
    write_predictions(other, tmp_path / 'b.json.gz')
    masks, boxes = (compare(tmp_path / 'a.json.gz', tmp_path / 'b.json.gz', metric, resamples=100, progress=False)
                    for metric in ('mask AP', 'box AP'))  # fmt: skip
    assert masks.difference == pytest.approx(0, abs=1e-12)
    assert abs(boxes.difference) > 0.01


def test_the_annotations_must_be_those_of_the_test(truth_file, tmp_path):
    paths = [tmp_path / 'a.json.gz', tmp_path / 'b.json.gz']
    moved = tmp_path / 'moved.json'
    moved.write_bytes(truth_file.read_bytes())
    for path in paths:
        made = make_detections(moved, path, 1, 2)
    moved.rename(tmp_path / 'again.json')
    with pytest.raises(UserError, match=rf'ground truth {moved} cannot be read .*name the annotation file'):
        compare(*paths, progress=False)
    found = compare(*paths, ground_truth=tmp_path / 'again.json', resamples=100, progress=False)
    assert found.difference == 0
    (tmp_path / 'again.json').write_text('{}')
    with pytest.raises(UserError, match=r'again\.json is not the annotation file that the test had'):
        compare(*paths, ground_truth=tmp_path / 'again.json', progress=False)
    other = Detection(made.kind, made.ids, (), {}, made.categories, 'x.json', 'f' * 64, made.detections)
    write_predictions(other, paths[1])
    with pytest.raises(UserError, match=r'different annotations .*x\.json, ffffffff'):
        compare(*paths, progress=False)


def test_masks_must_be_there_for_mask_ap(truth_file, tmp_path):
    make_detections(truth_file, tmp_path / 'a.json.gz', 1, 2)
    content = json.loads(gzip.decompress((tmp_path / 'a.json.gz').read_bytes()))
    for one in content['detections']:
        del one['segmentation']
    (tmp_path / 'b.json.gz').write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(UserError, match=r'b\.json\.gz holds no masks'):
        compare(tmp_path / 'a.json.gz', tmp_path / 'b.json.gz', 'mask AP', progress=False)
    assert compare(tmp_path / 'a.json.gz', tmp_path / 'b.json.gz', resamples=100, progress=False).difference == 0


def test_progress_is_shown_to_the_end(pair, capfd):
    (a, b), _, _, _ = pair
    compare(a, b, resamples=100)
    assert '100/100' in capfd.readouterr().err
