"""A picture of a table of measured results: figures with their spread over seeds against what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UserError
from ..tasks import MINI_CONTROLS
from .costs import costs
from .sections import Section, sections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ['AGAINST', 'draw_results']

AGAINST = {'macs': 'MACs', 'parameters': 'Parameters', 'throughput': 'Throughput'}  # to how the name of its axis begins
_CONTROLS = {task.name for task in MINI_CONTROLS}
_FAR = (7, 14, 22, 32, 44, 58, 74)  # points
_PLACES = tuple(
    (side, out, dy) for far in _FAR for out in (6, far) for side in (1, -1, 0) for dy in (0, far, -far) if side or dy
)
_SIZE = 6.5  # of the names, points
_CROWD = 24  # names of figures in a task, box and mask AP both, from which on panels are large, a row for each task


class _Point(NamedTuple):
    name: str
    x: float
    mean: float
    deviation: float


def draw_results(
    records: Sequence[dict[str, Any]],
    path: Path,
    against: Sequence[str] = ('macs',),
    benchmarks: Sequence[Mapping[str, str]] = (),
    controls: bool = False,
) -> Figure:
    """Draw the main metric of each task against a cost, a row of panels for each cost.

    A point is the mean over the seeds and its bar the sample standard deviation, in percent. LiSA is drawn in colour.

    Args:
        records: Valid records of one measured status; published figures have no spread and are left out.
        path: The picture, PNG or SVG.
        against: Keys of :data:`AGAINST`.
        benchmarks: Rows of benchmark files, as :func:`lisa_backbone.leaderboard.costs.costs` takes them.
        controls: Whether controls are drawn, too.

    Returns:
        The figure, already saved.

    Raises:
        UserError: There are no measured figures, those of several statuses, or none has the cost.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [section for section in sections(records) if section.status != 'published' and section.rows]
    if len(measured) != 1:
        raise UserError(
            f'a picture is of results of one status, and these are of {len(measured)} besides published ones; name '
            f'another file with --results'
        )
    columns = [number for number, group in enumerate(measured[0].groups) if controls or group.task not in _CONTROLS]
    if not columns:
        raise UserError('a picture is of tasks, and these records are of controls alone; name others with --tasks')
    crowded = max(sum(number == at for row in measured[0].rows for at, _ in row.cells) for number in columns) > _CROWD
    width, height = (7.6, 5.2) if crowded else (2.7, 2.9)
    shape = (len(columns), len(against)) if crowded else (len(against), len(columns))
    figure = Figure(figsize=(width * shape[1] + 0.5, height * shape[0]), layout='constrained')
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(*shape, squeeze=False)
    named = []
    for row, cost in zip(panels.T if crowded else panels, against, strict=True):
        for axes, number in zip(row, columns, strict=True):
            label, points = _points(measured[0], number, AGAINST[cost], benchmarks)
            _draw(axes, points)
            if crowded:
                _spread(axes)
            group = measured[0].groups[number]
            axes.set_title(f'{group.title}, {group.metrics[0]}', fontsize=9)
            axes.set_xlabel(fill(label, 60 if crowded else 34), fontsize=7)
            named.append((axes, points))
    for row in panels:
        row[0].set_ylabel('percent', fontsize=8)
    canvas.draw()  # fixes the layout that the names are fitted into
    for axes, points in named:
        _name(axes, points, canvas.get_renderer())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return figure


def _points(
    section: Section, number: int, start: str, benchmarks: Sequence[Mapping[str, str]]
) -> tuple[str, list[_Point]]:
    """The label of the cost, and the points of a column."""
    group, labels, points = section.groups[number], {}, []
    for row in section.rows:
        cell = row.cells.get((number, group.metrics[0]))
        for axis, value in costs(cell, row.model, benchmarks).items() if cell else ():
            if axis.label.startswith(start):
                labels[axis] = None
                deviation = 100 * (cell.summary.deviation or 0)
                points.append(_Point(row.attention or row.backbone, value, 100 * cell.summary.mean, deviation))
    if len(labels) != 1:
        found = ' and '.join(axis.label for axis in labels) or 'none'
        raise UserError(
            f'{group.title} has no one axis for {start.lower()}, but {found}; name benchmark files of one set of '
            f'conditions with --benchmarks, or draw against something else'
        )
    axis = next(iter(labels))
    scale, unit = axis.scale, axis.unit
    if unit == 'G' and max(point.x for point in points) < 1e9:
        scale, unit = 1e6, 'M'
    return f'{axis.label}, {unit}', [point._replace(x=point.x / scale) for point in points]


def _draw(axes: Axes, points: Sequence[_Point]) -> None:
    for point in points:
        colour = _colour(point.name)
        axes.errorbar(point.x, point.mean, point.deviation, fmt='o', ms=4, capsize=2, lw=1, color=colour)
    axes.margins(x=0.25, y=0.08)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=7)


def _spread(axes: Axes) -> None:
    """Make the axis of costs logarithmic, with plain numbers: most of many models are near each other."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _colour(name: str) -> str:
    return 'tab:red' if name == 'LiSAttention' else 'tab:blue' if name == 'SelfAttention' else '0.35'


def _name(axes: Axes, points: Sequence[_Point], renderer: Any) -> None:
    """Write the names beside the points, each at the nearest place that is free."""
    spots = [axes.transData.transform((point.x, point.mean)) for point in points]
    bars = [
        axes.transData.transform((p.x, p.mean + p.deviation))[1] - y for p, (_, y) in zip(points, spots, strict=True)
    ]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    taken += [(x - 2, y - bar, x + 2, y + bar) for (x, y), bar in zip(spots, bars, strict=True)]
    frame = axes.get_window_extent(renderer)
    for point in sorted(points, key=lambda point: -point.mean):
        best = None
        for side, out, up in _PLACES:
            text = axes.annotate(
                point.name,
                (point.x, point.mean),
                (out * side, up),
                textcoords='offset points',
                ha={1: 'left', -1: 'right', 0: 'center'}[side],
                va='center',
                fontsize=_SIZE,
                color=_colour(point.name),
                arrowprops={'arrowstyle': '-', 'lw': 0.4, 'color': '0.6'} if max(abs(up), out) > 7 else None,
            )
            box = text.get_window_extent(renderer).extents
            inside = box[0] > frame.x0 and box[2] < frame.x1 and box[1] > frame.y0 and box[3] < frame.y1
            cost = sum(_overlap(box, other) for other in taken) + (0 if inside else 1e3)
            if best is None or cost < best[0]:
                if best:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
            if best[0] == 0:
                break
        taken.append(best[2])


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
