"""The words of a report: what a status means, and numbers and protocols as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .statistics import NOISE_RULE, Summary

__all__ = [
    'HEADINGS',
    'LEADS',
    'MARKS',
    'MARKS_RULE',
    'MEANING',
    'count',
    'figure',
    'input_words',
    'number',
    'percent',
    'protocol_words',
]

HEADINGS = {'published': 'Published', 'reproduced': 'Reproduced here', 'mini': 'Mini sets'}
MEANING = {
    'published': 'published: read in the source, not run here',
    'reproduced': 'reproduced here: trained and tested by this project',
    'mini': 'mini: trained and tested by this project on a mini set; it says nothing about the real one',
}
_SEEDS = 'A cell is the mean over the seeds ± the sample standard deviation, in percent, with the number of seeds.'
LEADS = {
    'published': (
        'Figures that papers and repositories give, in percent; none was run here. The models of a column share the '
        'task and the protocol. Recipes and pretraining still differ from source to source, and one figure has no '
        'spread, so a small difference is no ranking.'
    ),
    'reproduced': f'Trained and tested by this project on the real data sets. {_SEEDS}',
    'mini': (
        'Trained and tested by this project on the mini sets, in minutes on a processor. They show what learns, and '
        f'how operators compare on so little; they say nothing about the real data sets. {_SEEDS}'
    ),
}

# Beside a figure, by its standing; the best is bold.
MARKS = {'best': '', 'noise': '≈', 'untold': '?', '': ''}
MARKS_RULE = (
    'Bold is the best of a column, ≈ marks what is inside the noise beside it, and ? what cannot be told for want of '
    f'seeds. {NOISE_RULE}'
)


def percent(value: float) -> str:
    """A share of one in percent, with as many decimals as the figure has, one to two: 0.4451 is ``44.51``."""
    text = f'{100 * value:.2f}'
    return text.removesuffix('0')


def number(value: float) -> str:
    """A count in three digits with a unit: ``28.2 M``, ``4.53 G``, ``940``."""
    for unit, name in ((1e9, ' G'), (1e6, ' M'), (1e3, ' k')):
        if value >= unit:
            return count(value, unit) + name
    return f'{value:g}'


def count(number: float, unit: float) -> str:
    """A count in a unit, in three digits: 25400000 in millions is ``25.4``, 4500000000 in milliards ``4.5``."""
    value = number / unit
    return f'{value:.0f}' if value >= 100 else f'{float(f"{value:.3g}"):g}'


def figure(summary: Summary, measured: bool) -> str:
    """A figure in percent as tables show it: ``44.51`` if it was published, ``47.2 ± 0.8 (3)`` if measured.

    Args:
        summary: Its mean, deviation and number of seeds.
        measured: Whether it was measured here.
    """
    if not measured:
        return percent(summary.mean)
    spread = '' if summary.deviation is None else f' ± {100 * summary.deviation:.1f}'
    return f'{100 * summary.mean:.1f}{spread} ({summary.count})'


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """A protocol in one line: ``head UPerNet, iterations 160000``."""
    return ', '.join(f'{name} {_word(value)}' for name, value in protocol.items())


def input_words(shape: Sequence[int]) -> str:
    """The size of an input, without channels: ``224 x 224``, ``8 x 112 x 112`` for a clip.

    Args:
        shape: (1, 3, H, W), (1, 3, T, H, W), or (T, 3, H, W) where frames go through a backbone of images; empty for a
            clip whose size the source does not give.
    """
    frames = [] if not shape or shape[0] == 1 else [shape[0]]
    return ' x '.join(map(str, [*frames, *shape[2:]])) or 'a clip'


def _word(value: Any) -> str:
    if value is None:
        return 'not given'
    return ('no', 'yes')[value] if isinstance(value, bool) else str(value)
