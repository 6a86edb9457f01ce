"""The figures that docs/performance.md names are those of the benchmark files beside it."""

from pathlib import Path

import pytest

from lisa_backbone.benchmarking.report import fit_growth
from lisa_backbone.rows import read_rows

REPO = Path(__file__).parents[1]
FILES = 'benchmark-{}-fp32-cpu{}-torch2.13.0-{}.csv'
LISA, SWIN = (f'configs/det/mask-rcnn_{name}-t_fpn_1x_coco.py' for name in ('lisa', 'swin'))


def value(mode, which, candidate, input_, column, threads=2):
    rows = read_rows(REPO / 'results' / FILES.format(mode, threads, which))
    (found,) = [row[column] for row in rows if (row['candidate'], row['input']) == (candidate, input_)]
    return float(found)


def operators(side, threads):
    """How many times as fast LiSA is as softmax attention, in inference."""
    return value('inference', 'sweep-dim64-heads2', 'SelfAttention:rpe=None', f'{side}x{side}', 'ratio', threads)


def backbones(mode, column):
    """What Swin-T takes over what LiSA-T does; of time, the median over the rounds."""
    swin, lisa = (value(mode, '800x1280', name, '800x1280', column) for name in (SWIN, LISA))
    return swin if column == 'ratio' else swin / lisa


def on_h100(which, reference, candidate, input_):
    """How many times as fast as a candidate the first of its file is."""
    name = f'benchmark-inference-bf16-nvidia-h100-80gb-hbm3-torch2.11.0-{which}.csv'
    rows = [row for row in read_rows(REPO / 'results' / name) if row['input'] == input_]
    assert rows[0]['candidate'] == reference
    (found,) = [row['ratio'] for row in rows if row['candidate'].startswith(candidate)]
    return float(found)


def growth():
    rows = read_rows(REPO / 'results' / FILES.format('inference', 2, 'sweep-dim64-heads2'))
    mine = [row for row in rows if row['candidate'] == 'LiSAttention' and int(row['positions']) >= 3136]
    return fit_growth([int(row['positions']) for row in mine], [float(row['median_ms']) for row in mine])


def test_growth_between_the_last_two_sizes():
    page = (REPO / 'docs' / 'performance.md').read_text()
    assert f'over three sizes; {growth().last:.2f} between the last two' in page


def own_share():
    """The largest share of a step, in percent, that transforms of this package take."""
    rows = [row for name in ('mini', 'real') for row in read_rows(REPO / 'results' / f'steps-{name}.csv')]
    return max(100 * float(row['own transforms ms']) / float(row['ms']) for row in rows)


@pytest.mark.parametrize(
    ('aim', 'found', 'least', 'digits'),
    [
        ('forward of the backbone', lambda: backbones('inference', 'ratio'), 1.5, 2),
        ('operator at 3,136 tokens, one thread', lambda: operators(56, 1), 4, 1),
        ('operator at 3,136 tokens, two threads', lambda: operators(56, 2), 4, 1),
        ('operator at 16,384 tokens', lambda: operators(128, 2), 20, 0),
        ('growth of the time of the operator', lambda: -growth().exponent, -1.15, 2),
        (
            'on an H100 in bf16: forward',
            lambda: on_h100('800x1280', 'LiSA:arch=tiny', 'timm.swin_tiny', '800x1280'),
            1.3,
            2,
        ),
        (
            'on an H100 in bf16: operator at 4,096',
            lambda: on_h100('sweep-dim64-heads2', 'LiSAttention', 'SelfAttention', '64x64'),
            1,
            2,
        ),
        ('training step', lambda: -own_share(), -5, 1),
        ('memory of training', lambda: -1 / backbones('training', 'peak_memory_mib'), -1, 2),
    ],
)
def test_aims(aim, found, least, digits):
    page = (REPO / 'docs' / 'performance.md').read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f'| {aim}')]
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    assert cells[-2].split()[0] == f'{abs(found()):.{digits}f}'
    assert cells[-1] == ('met' if found() >= least else 'missed')
