"""A picture of a table of measured results: figures with their spread over seeds against what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UserError
from ..figures import LISA, OTHERS, SOFTMAX, save
from ..tasks import MINI_CONTROLS
from .costs import costs
from .sections import Section, sections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

__all__ = ['AGAINST', 'draw_results']

AGAINST = {'macs': 'MACs', 'parameters': 'Parameters', 'throughput': 'Throughput'}  # to how the name of its axis begins
_CONTROLS = {task.name for task in MINI_CONTROLS}
_FAR = (7, 14, 22, 32, 44, 58, 74)  # points
_PLACES = tuple(
    (side, out, dy) for far in _FAR for out in (6, far) for side in (1, -1, 0) for dy in (0, far, -far) if side or dy
)
_SIZE = 6.5  # of the names, points
_COLOURS = {'LiSAttention': LISA, 'SelfAttention': SOFTMAX}
_CROWD = 12  # models of a task from which on names do not fit between points


class _Point(NamedTuple):
    name: str
    colour: str
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
    """Draw the main metric of each task against costs: a panel for each, or, of many models, a line for each model.

    A point is the mean over the seeds and its bar the sample standard deviation, in percent. LiSA and softmax attention
    are drawn in colour.

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
    found = [[_points(measured[0], number, AGAINST[cost], benchmarks) for cost in against] for number in columns]
    crowd = max(len(points) for one in found for _, points in one)
    figure = Figure(layout='constrained')
    canvas = FigureCanvasAgg(figure)
    if crowd > _CROWD:
        figure.set_size_inches(6 + 2.6 * len(against), (0.19 * crowd + 1) * len(columns))
        _list(figure, measured[0], columns, found)
    else:
        _scatter(figure, canvas, measured[0], columns, found)
    save(figure, path)
    return figure


def _scatter(
    figure: Figure, canvas: FigureCanvasAgg, section: Section, columns: Sequence[int], found: Sequence[list]
) -> None:
    """A row of panels for each cost, a panel for each task, with the names of the models beside their points.

    Against one cost alone, the panels of many tasks are in rows of three.
    """
    rows, across = len(found[0]), len(columns)
    if rows == 1 and across > 3:
        rows, across = -(-across // 3), 3
    figure.set_size_inches(2.7 * across + 0.5, 2.9 * rows)
    panels = figure.subplots(rows, across, squeeze=False)
    for row in panels:
        row[0].set_ylabel('percent', fontsize=8)
    for axes in panels.flat[len(columns) * len(found[0]) :]:
        axes.remove()
    panels = panels.reshape(-1)[: len(columns) * len(found[0])].reshape(len(found[0]), len(columns))
    for column, number, costs_of in zip(panels.T, columns, found, strict=True):
        for axes, (label, points) in zip(column, costs_of, strict=True):
            _draw(axes, points)
            group = section.groups[number]
            axes.set_title(f'{group.title}, {group.metrics[0]}', fontsize=9)
            axes.set_xlabel(fill(label, 34), fontsize=7)
    canvas.draw()  # fixes the layout that the names are fitted into
    for column, costs_of in zip(panels.T, found, strict=True):
        for axes, (_, points) in zip(column, costs_of, strict=True):
            _name(axes, points, canvas.get_renderer())


def _points(
    section: Section, number: int, start: str, benchmarks: Sequence[Mapping[str, str]]
) -> tuple[str, list[_Point]]:
    """The label of the cost, and the points of a column."""
    group, labels, points = section.groups[number], {}, []
    drawn = [row for row in section.rows if (number, group.metrics[0]) in row.cells]
    short = Counter(row.attention or row.backbone for row in drawn)
    for row in drawn:
        cell = row.cells[number, group.metrics[0]]
        name = row.attention or row.backbone
        name = name if short[name] == 1 else row.model
        for axis, value in costs(cell, row.model, benchmarks).items():
            if axis.label.startswith(start):
                labels[axis] = None
                deviation = 100 * (cell.summary.deviation or 0)
                colour = _COLOURS.get(row.attention, OTHERS[-1])
                points.append(_Point(name, colour, value, 100 * cell.summary.mean, deviation))
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
        axes.errorbar(point.x, point.mean, point.deviation, fmt='o', ms=4, capsize=2, lw=1, color=point.colour)
    axes.margins(x=0.25, y=0.08)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=7)


def _list(figure: Figure, section: Section, columns: Sequence[int], costs_of: Sequence[list]) -> None:
    """The models of each task in lines, the best on top: the figure with its bar, and a panel of bars for each cost."""
    heights = [len(points[0][1]) for points in costs_of]
    widths = [2, *[1] * len(costs_of[0])]
    shape = len(columns), len(widths)
    panels = figure.subplots(*shape, squeeze=False, sharey='row', width_ratios=widths, height_ratios=heights)
    for (first, *others), number, found in zip(panels, columns, costs_of, strict=True):
        points = sorted(found[0][1], key=lambda point: (point.mean, point.name))
        places = {point.name: place for place, point in enumerate(points)}
        for point in points:
            bar = {'xerr': point.deviation, 'capsize': 2} if point.deviation else {}
            first.errorbar(point.mean, places[point.name], fmt='o', ms=4, lw=1, color=point.colour, **bar)
        group = section.groups[number]
        first.set_title(f'{group.title}, {group.metrics[0]}', fontsize=9)
        first.set_yticks(range(len(points)), list(places), fontsize=8)
        for label, point in zip(first.get_yticklabels(), points, strict=True):
            label.set_color(point.colour)
        first.set_xlabel('percent', fontsize=8)
        for axes, (label, costs_there) in zip(others, found, strict=True):
            for point in costs_there:
                axes.barh(places[point.name], point.x, height=0.6, color=point.colour)
            axes.set_xlabel(fill(label, 40), fontsize=7)
        for axes in (first, *others):
            axes.grid(alpha=0.25)
            axes.tick_params(axis='x', labelsize=7)
        first.set_ylim(-0.8, len(points) - 0.2)


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
                color=point.colour,
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
