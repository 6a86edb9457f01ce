"""The picture of a table: points where the figures and costs are, and names that can be read."""

import itertools

import pytest

from lisa_backbone import compat

compat.apply()
pytest.importorskip('mmengine')
pytest.importorskip('matplotlib')

from test_report import published, run  # noqa: E402

from lisa_backbone.errors import UserError  # noqa: E402
from lisa_backbone.figures import LISA  # noqa: E402
from lisa_backbone.leaderboard.plot import draw_results  # noqa: E402


def operator(name, values, macs=70_000_000, task='mini SSv2'):
    """Records of an operator, one for each value."""
    macs = {'value': macs, 'input': [1, 3, 8, 64, 64]}
    return [
        run(f'lisa-p, {name}', seed, task, attention=name, metrics={'top-1': value}, macs=macs)
        for seed, value in enumerate(values)
    ]


def points(axes):
    """Place and half length of the bar of each point."""
    found = []
    for bars in axes.containers:
        line, _, (bar,) = bars
        (x,), (y,) = line.get_data()
        (_, low), (_, high) = bar.get_segments()[0]
        found.append((x, y, (high - low) / 2))
    return found


def test_points_are_means_and_bars_are_deviations(tmp_path):
    records = [*operator('LiSAttention', (0.9, 0.92, 0.94)), *operator('SelfAttention', (0.5,), 2_000_000_000)]
    records += [published('ResNet-50', 0.4), *operator('LiSAttention', (0.1,), task='mini SSv2 one frame')]
    figure = draw_results(records, tmp_path / 'new' / 'a.png')
    assert (tmp_path / 'new' / 'a.png').read_bytes().startswith(b'\x89PNG')
    (axes,) = figure.axes  # the control has none
    assert axes.get_title() == 'mini SSv2, top-1'
    assert axes.get_xlabel().replace('\n', ' ').endswith('8 x 64 x 64, G')
    assert points(axes) == [(0.07, pytest.approx(92), pytest.approx(2)), (2.0, pytest.approx(50), 0)]
    assert sorted(text.get_text() for text in axes.texts) == ['LiSAttention', 'SelfAttention']


def test_small_costs_are_in_millions(tmp_path):
    figure = draw_results(operator('XCA', (0.5,)), tmp_path / 'a.svg', ('macs', 'parameters'))
    assert [points(axes)[0][0] for axes in figure.axes] == [70, 1]
    assert figure.axes[0].get_xlabel().endswith(', M')


@pytest.mark.parametrize('others', [0, 12], ids=['few', 'many'])
def test_models_of_one_operator_have_names_of_their_own(tmp_path, others):
    records = [one for i in range(others) for one in operator(f'Operator{i:02d}', (0.5 + i / 100,))]
    for arch, value in (('lisa-t', 0.8), ('lisa-s', 0.9)):
        macs = {'value': 90_000_000, 'input': [1, 3, 8, 64, 64]}
        more = dict(attention='LiSAttention', metrics={'top-1': value}, macs=macs)
        records += [run(f'{arch}, LiSAttention', 0, 'mini SSv2', **more)]
    axes = draw_results(records, tmp_path / 'a.png').axes[0]
    labels = axes.get_yticklabels() if others else axes.texts
    named = {label.get_text(): label.get_color() for label in labels}
    assert len(named) == others + 2
    assert {name for name, colour in named.items() if colour == LISA} == {
        'lisa-t, LiSAttention',
        'lisa-s, LiSAttention',
    }


def test_names_of_a_few_do_not_overlap(tmp_path):
    records = []
    for i in range(12):
        records += operator(f'Operator{i:02d}', (0.5 + 0.004 * (i * 7 % 12),), 70_000_000 + 900_000 * (i * 11 % 12))
    figure = draw_results(records, tmp_path / 'a.png')
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 12
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]


def test_panels_of_many_tasks_are_in_rows_of_three(tmp_path):
    tasks = ('mini ImageNet', 'mini Kinetics', 'mini SSv2', 'mini SSv2 one frame')
    records = [record for task in tasks for record in operator('XCA', (0.5,), task=task)]
    figure = draw_results(records, tmp_path / 'a.png', controls=True)
    assert [axes.get_title() for axes in figure.axes] == [f'{task}, top-1' for task in tasks]
    places = [axes.get_position() for axes in figure.axes]
    assert places[0].y0 == places[1].y0 == places[2].y0 > places[3].y1
    assert places[3].x0 == places[0].x0
    two = draw_results(records, tmp_path / 'b.png', ('macs', 'parameters'), controls=True)
    assert len({round(axes.get_position().y0, 6) for axes in two.axes}) == 2


def test_many_are_lines_with_the_best_on_top(tmp_path):
    records = operator('LiSAttention', (0.9, 0.92, 0.94), 50_000_000)
    for i in range(20):
        records += operator(f'Operator{i:02d}', (0.5 + 0.004 * (i * 7 % 20),), 70_000_000 + 300_000 * i)
    figure = draw_results(records, tmp_path / 'a.png', ('macs', 'parameters'))
    first, macs, parameters = figure.axes
    labels = first.get_yticklabels()
    assert [label.get_text() for label in labels][-1] == 'LiSAttention'
    assert [label.get_text() for label in labels][:2] == ['Operator00', 'Operator03']
    assert [label.get_color() for label in labels] == ['0.35'] * 20 + ['tab:red']
    means = [line.get_xdata()[0] for bars in first.containers for line in bars.lines[:1]]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(92)
    assert len([bars for bars in first.containers if bars.has_xerr]) == 1  # of one seed there is no spread
    bars = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in macs.patches}
    assert (bars[20], bars[0], bars[1]) == (50, 70, pytest.approx(70.9))
    assert 'MACs' in macs.get_xlabel()
    assert 'Parameters' in parameters.get_xlabel()


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(UserError, match='results of one status, and these are of 0'):
        draw_results([published('ResNet-50', 0.4)], tmp_path / 'a.png')
    with pytest.raises(UserError, match='no one axis for throughput, but none; name benchmark files'):
        draw_results(operator('XCA', (0.5,)), tmp_path / 'a.png', ('throughput',))
    assert not list(tmp_path.iterdir())
