"""A picture of a sweep: how time and memory grow with the number of tokens or pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..figures import colours, save
from ..tasks import task_of
from .report import fit_growth, memory_of_one, time_of_one

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ['draw_growth']

Row = dict[str, str]


def draw_growth(rows: Sequence[Row], path: Path) -> Figure:
    """Draw time and memory of one input over its size, on logarithmic axes: a row of panels for each mode.

    The legend gives the exponents that :func:`~lisa_backbone.benchmarking.report.fit_growth` finds, of all sizes and at
    the end. A candidate has a line for each batch; a config of a task is named by its model.

    Args:
        rows: Rows of the files of a sweep.
        path: The picture, PNG or SVG.

    Returns:
        The figure, already saved.

    Raises:
        UserError: No row has a measurement.
    """
    from matplotlib.figure import Figure

    measured = [row for row in rows if row['median_ms']]
    if not measured:
        raise UserError('nothing was measured that could be drawn; all candidates ran out of time or memory')
    modes = list(dict.fromkeys(row['mode'] for row in measured))
    panels = (('time of one input, ms', time_of_one), ('memory of one input beyond the weights, MiB', memory_of_one))
    figure = Figure(figsize=(9.5, 3.7 * len(modes)), layout='constrained')
    grid = figure.subplots(len(modes), len(panels), squeeze=False)
    for mode, places in zip(modes, grid, strict=True):
        mine = [row for row in measured if row['mode'] == mode]
        for (label, value), axes in zip(panels, places, strict=True):
            _draw(axes, mine, value)
            axes.set_title(f'{mode}, {label}', fontsize=9)
    unit = 'tokens' if measured[0]['kind'] == 'operator' else 'pixels'
    for axes in figure.axes:
        axes.set_xlabel(unit)
    save(figure, path)
    return figure


def _names(candidates: Sequence[str]) -> dict[str, str]:
    """A config of a task by its model, where that tells it from the others; all else as it was named."""
    found = {candidate: task_of(candidate) for candidate in candidates}
    short = {candidate: one[1] if one else candidate for candidate, one in found.items()}
    return short if len(set(short.values())) == len(short) else {candidate: candidate for candidate in candidates}


def _draw(axes: Axes, rows: Sequence[Row], value: Callable[[Row], float | None]) -> None:
    batches = {row['batch_asked'] for row in rows}
    lines = list(dict.fromkeys((row['candidate'], row['batch_asked']) for row in rows))
    names = _names(list(dict.fromkeys(candidate for candidate, _ in lines)))
    for (candidate, batch), colour in zip(lines, colours([candidate for candidate, _ in lines]), strict=True):
        points = sorted(
            (int(row['positions']), found)
            for row in rows
            if (row['candidate'], row['batch_asked']) == (candidate, batch) and (found := value(row)) is not None
        )
        if not points:
            continue
        fit = fit_growth(*zip(*points, strict=True))
        name = names[candidate] if len(batches) == 1 else f'{names[candidate]}, batch {batch}'
        label = f'{name} (N^{fit.exponent:.2f}, at the end N^{fit.last:.2f})' if fit else name
        axes.plot(*zip(*points, strict=True), 'o-', ms=4, lw=1.4, label=label, color=colour)
    axes.set(xscale='log', yscale='log')
    axes.grid(alpha=0.3, which='both', lw=0.5)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7)
