"""Statistics that hold: over seeds and across tasks.

Two kinds of noise are told apart. Training again with another seed gives another model: :func:`compare_seeds`. Another
set of images of the same kind gives another figure of the same model:
:func:`lisa_backbone.leaderboard.bootstrap.compare`. Neither says anything about the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from ..errors import UserError

__all__ = [
    'NOISE_RULE',
    'RANK_METHOD',
    'RankRow',
    'Ranking',
    'SeedComparison',
    'Summary',
    'compare_seeds',
    'correct',
    'metric_of',
    'rank',
    'summarise',
    'values_by_seed',
]

NOISE_RULE = (
    'Each model of a column is compared with the one of the highest mean over seeds, by a paired t-test where both '
    'have the same seeds, else by the t-test of Welch. The p-values of a column are corrected for their number by the '
    'method of Holm, and a difference is inside the noise where the corrected one is 0.05 or more. With one seed of '
    'either it cannot be told. That the highest was chosen by the same figures, which flatters it, is not corrected '
    'for; nor are the columns for their number.'
)
RANK_METHOD = (
    'Within each task the models are ranked by the mean of its main metric over their seeds, 1 being the best and '
    'equal means sharing the mean of their places; the rank of a model is the mean over the tasks, and only models '
    'with a result in every task are ranked.'
)


# ---------------------------------------------------------------------------------------------------------- over seeds


@dataclass(frozen=True)
class Summary:
    """Some values in short.

    Attributes:
        mean: Their mean.
        deviation: Their sample standard deviation (of n - 1); ``None`` of one value.
        count: How many there are.
    """

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        spread = '' if self.deviation is None else f' ± {self.deviation:.3f}'
        return f'{self.mean:.3f}{spread} ({self.count})'


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation.

    Args:
        values: At least one.

    Returns:
        The summary.
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(float(np.mean(values)), deviation, len(values))


def metric_of(records: Sequence[Mapping], metric: str | None = None) -> str:
    """The metric by which records of a task are compared.

    Args:
        records: At least one, as of :mod:`lisa_backbone.records`.
        metric: Its name; by default the main one, which is the first of each record.

    Returns:
        The name.

    Raises:
        UserError: A record does not have it, or they disagree about the main one.
    """
    name = metric or next(iter(records[0]['metrics']))
    for record in records:
        start, has = f'{record["task"]}: {_words(record)}', ', '.join(record['metrics'])
        if name not in record['metrics']:
            raise UserError(f'{start} has no {name}, only {has}')
        if metric is None and next(iter(record['metrics'])) != name:
            raise UserError(f'{start} has {has}, and {name} is not the first; name a metric that all have')
    return name


def values_by_seed(records: Sequence[Mapping], metric: str | None = None) -> dict[int | None, float]:
    """A metric of the runs of one model on one task.

    Args:
        records: At least one.
        metric: The metric, as of :func:`metric_of`.

    Returns:
        Seed to value.

    Raises:
        UserError: They are of several statuses, tasks, data sets or models, or one seed is there twice.
    """
    _require_one(records, ('status', 'task', 'model'))
    name, values = metric_of(records, metric), {}
    for record in records:
        if record['seed'] in values:
            raise UserError(f'{record["task"]}: there are two results of {_words(record)}; choose one')
        values[record['seed']] = float(record['metrics'][name])
    return values


@dataclass(frozen=True)
class SeedComparison:
    """Two models on one task over seeds; :data:`NOISE_RULE` is the rule.

    Attributes:
        task: The task.
        metric: The metric.
        names: The models.
        summaries: Of either.
        difference: The first mean less the second.
        low: Lower end of its confidence interval; ``None`` where it cannot be told.
        high: Upper end.
        p: Of the hypothesis that there is no difference.
        test: ``'paired t-test'`` or ``"Welch's t-test"``; ``None`` where it cannot be told.
        confidence: Of the interval, a share of one.
        corrected: ``p``, corrected for the number of comparisons it is one of; ``None`` where it was not corrected.
        comparisons: That number.
    """

    task: str
    metric: str
    names: tuple[str, str]
    summaries: tuple[Summary, Summary]
    difference: float
    low: float | None
    high: float | None
    p: float | None
    test: str | None
    confidence: float = 0.95
    corrected: float | None = None
    comparisons: int = 1

    @property
    def in_noise(self) -> bool | None:
        """Whether the interval holds 0, or the corrected p is too large; ``None`` where it cannot be told."""
        if self.corrected is not None:
            return self.corrected >= 1 - self.confidence
        return None if self.low is None or self.high is None else self.low <= 0 <= self.high

    def sentence(self) -> str:
        """The comparison in one sentence."""
        of = [f'{name} {summary}' for name, summary in zip(self.names, self.summaries, strict=True)]
        start = f'{self.metric} on {self.task}: {of[0]}, {of[1]}, difference {self.difference:+.3f}'
        if self.in_noise is None:
            return f'{start}; one seed of either is too few to tell whether they differ'
        where = 'inside the noise over seeds' if self.in_noise else 'outside the noise over seeds'
        corrected = ''
        if self.comparisons > 1:
            corrected = f', corrected for {self.comparisons} comparisons {self.corrected:.2g}'
        return (
            f'{start}, {100 * self.confidence:g} % interval {self.low:+.3f} to {self.high:+.3f} ({self.test}, '
            f'p = {self.p:.2g}{corrected}): {where}'
        )


def compare_seeds(
    first: Sequence[Mapping],
    second: Sequence[Mapping],
    metric: str | None = None,
    *,
    paired: bool | None = None,
    confidence: float = 0.95,
) -> SeedComparison:
    """Compare two models on a task over their seeds.

    The same seed gives both models the same order of the data, and the same start where they have the same parameters,
    so results of the same seed go together. Where all pairs differ by the same, as figures of few digits may by chance,
    Welch's test is taken; where the values do not vary at all the interval is the difference itself.

    Args:
        first: Records of a model, one for each seed.
        second: Records of the other.
        metric: The metric, as of :func:`metric_of`.
        paired: Whether results of the same seed go together; by default where both have the same seeds.
        confidence: Of the interval.

    Returns:
        The comparison.

    Raises:
        UserError: The records cannot be compared.
    """
    _require_one([*first, *second], ('status', 'task'))
    name = metric_of([*first, *second], metric)
    a, b = values_by_seed(first, name), values_by_seed(second, name)
    if paired and set(a) != set(b):
        raise UserError(f'seeds {_list(a)} and {_list(b)} do not pair; leave paired out')
    if paired is None:
        paired = set(a) == set(b)
    if paired:
        b = {seed: b[seed] for seed in a}
    x, y = (np.array(list(values.values())) for values in (a, b))
    low = high = p = test = None
    if min(len(x), len(y)) > 1:
        paired = paired and np.ptp(x - y) >= _CONSTANT
        test = 'paired t-test' if paired else "Welch's t-test"
        low, high, p = _t_interval(x, y, paired, confidence)
    return SeedComparison(
        task=first[0]['task'],
        metric=name,
        names=(first[0]['model'], second[0]['model']),
        summaries=(summarise(x), summarise(y)),
        difference=float(x.mean() - y.mean()),
        low=low,
        high=high,
        p=p,
        test=test,
        confidence=confidence,
    )


def correct(comparisons: Sequence[SeedComparison]) -> list[SeedComparison]:
    """Correct p-values for their number by the method of Holm, which holds whatever depends on what.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes less than one before it, nor more
    than 1.

    Args:
        comparisons: Comparisons that are read together, such as those of a column.

    Returns:
        The same in the same order; those that cannot be told neither count nor change.
    """
    told = sorted((c.p, index) for index, c in enumerate(comparisons) if c.p is not None)
    corrected, highest = list(comparisons), 0.0
    for place, (p, index) in enumerate(told):
        highest = max(highest, min((len(told) - place) * p, 1.0))
        corrected[index] = replace(comparisons[index], corrected=highest, comparisons=len(told))
    return corrected


_CONSTANT = 1e-12  # spread of values that do not vary, but for rounding; scipy would divide by it


def _t_interval(x: np.ndarray, y: np.ndarray, paired: bool, confidence: float) -> tuple[float, float, float]:
    """Ends of the confidence interval of the difference of means, and p."""
    difference = float(x.mean() - y.mean())
    if not paired and np.ptp(x) + np.ptp(y) < _CONSTANT:
        return difference, difference, float(abs(difference) < _CONSTANT)
    result = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
    interval = result.confidence_interval(confidence)
    return float(interval.low), float(interval.high), float(result.pvalue)


# -------------------------------------------------------------------------------------------------------- across tasks


@dataclass(frozen=True)
class RankRow:
    """A model of a :class:`Ranking`.

    Attributes:
        model: The model.
        rank: Mean of its ranks, from 1, the best.
        ranks: Its rank in each task.
        seeds: The fewest seeds it has in a task.
        low: Lower end of the interval of the mean rank; ``None`` where a ranked model has one seed in a task.
        high: Upper end.
    """

    model: str
    rank: float
    ranks: dict[str, float]
    seeds: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Ranking:
    """Models by their rank across tasks; :data:`RANK_METHOD` is the method.

    Attributes:
        status: The status of all results in it.
        tasks: The tasks, each with its metric.
        rows: The models, best first.
        left_out: Models without a result in every task, each with the tasks it lacks.
        interval: How the intervals came about, as a sentence; empty where there are none.
    """

    status: str
    tasks: dict[str, str]
    rows: tuple[RankRow, ...]
    left_out: dict[str, tuple[str, ...]]
    interval: str


def rank(
    records: Sequence[Mapping],
    tasks: Sequence[str] | None = None,
    metrics: Mapping[str, str] | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ranking:
    """Rank models across tasks.

    The interval of a mean rank is the middle of what it becomes when the seeds of every model in every task are drawn
    anew, as many with replacement. A handful of seeds holds less spread than there is, so that it is too narrow rather
    than too wide.

    Args:
        records: Results, all of one status.
        tasks: The tasks that count; by default all there are.
        metrics: Task to metric, where it is not the main one.
        resamples: How often the seeds are drawn.
        confidence: Of the intervals.
        seed: Of the draws.

    Returns:
        The ranking.

    Raises:
        UserError: Statuses, or data sets of a task, are mixed, or no model has a result in every task.
    """
    _require_one(records, ('status',))
    tasks = list(dict.fromkeys(tasks or [record['task'] for record in records]))
    found: dict[str, dict[str, np.ndarray]] = {}
    names = {}
    for task in tasks:
        of_task = [record for record in records if record['task'] == task]
        if not of_task:
            raise UserError(f'there is no result of {task}; there are {_list({r["task"] for r in records})}')
        _require_one(of_task, ())
        names[task] = metric_of(of_task, (metrics or {}).get(task))
        for model in dict.fromkeys(record['model'] for record in of_task):
            values = values_by_seed([record for record in of_task if record['model'] == model], names[task])
            found.setdefault(model, {})[task] = np.array(list(values.values()))
    models = [model for model in found if len(found[model]) == len(tasks)]
    if not models:
        raise UserError(f'no model has a result in each of {_list(tasks)}; choose fewer tasks')
    ranks = np.stack([_ranks(np.array([found[model][task].mean() for model in models])) for task in tasks], axis=1)
    seeds = {model: min(len(values) for values in found[model].values()) for model in models}
    low = high = None
    if min(seeds.values()) > 1:
        rng = np.random.default_rng(seed)
        drawn = [np.stack([_means(found[model][task], resamples, rng) for model in models], axis=1) for task in tasks]
        mean_ranks = np.mean([_ranks(means) for means in drawn], axis=0)
        low, high = np.quantile(mean_ranks, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    rows = [
        RankRow(
            model,
            float(ranks[index].mean()),
            dict(zip(tasks, ranks[index].tolist(), strict=True)),
            seeds[model],
            None if low is None else float(low[index]),
            None if high is None else float(high[index]),
        )
        for index, model in enumerate(models)
    ]
    words = (
        f'The interval of a mean rank holds the middle {100 * confidence:g} % of {resamples} draws of the seeds with '
        f'replacement (generator seed {seed}).'
    )
    return Ranking(
        records[0]['status'],
        names,
        tuple(sorted(rows, key=lambda row: (row.rank, row.model))),
        {m: tuple(t for t in tasks if t not in found[m]) for m in found if m not in models},
        '' if low is None else words,
    )


def _means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    return values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)


def _ranks(means: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, 1 for the largest; what differs by rounding alone is equal."""
    return stats.rankdata(-np.round(means, 10), axis=-1)


def _require_one(records: Sequence[Mapping], fields: Sequence[str]) -> None:
    """Stop where records differ in a field, or in the data of a task."""
    if not records:
        raise UserError('there is no result to compare')
    for field in fields:
        values = sorted({str(record[field]) for record in records})
        if len(values) > 1:
            raise UserError(f'results of different {field} are never compared ({_list(values)}); choose one')
    data: dict[str, set[str]] = {}
    for record in records:
        fingerprint = (record.get('data') or {}).get('fingerprint')
        if fingerprint:
            data.setdefault(record['task'], set()).add(fingerprint[:8])
    for task, prints in data.items():
        if len(prints) > 1:
            raise UserError(
                f'{task}: results on different data are never compared (fingerprints {_list(sorted(prints))})'
            )


def _words(record: Mapping) -> str:
    return record['model'] + ('' if record.get('seed') is None else f', seed {record["seed"]}')


def _list(values: Any) -> str:
    return ', '.join(map(str, values))
