"""Measure the kernels of trained LiSA backbones, print a table and draw a figure; see docs/comparison.md.

Examples:
    python tools/measure_kernels.py work_dirs/leaderboard/mini-imagenet/*/*
    python tools/measure_kernels.py --out results/kernels.csv --figure docs/images/kernels.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_backbone.errors import UserError, exit_with_sentence
from lisa_backbone.figures import check_figure
from lisa_backbone.kernels import COLUMNS, draw, measure_run, record_in, table
from lisa_backbone.paths import check_file
from lisa_backbone.rows import append_rows, holds, read_rows

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure what was named, and show all that was measured so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='*', type=Path, help='work directories of runs that were trained and tested')
    parser.add_argument('--images', type=int, default=50, help='how many of the test set')
    parser.add_argument('--data-root', help='where the data lie, if not where the config says')
    parser.add_argument('--out', type=Path, default=REPO / 'work_dirs' / 'kernels.csv', help='CSV file, added to')
    parser.add_argument('--figure', type=Path, help='picture, PNG or SVG')
    args = parser.parse_args()
    if args.images < 1:
        raise UserError(f'--images {args.images} must be positive')
    if args.figure:
        check_figure(args.figure, '--figure')
    check_file(args.out, '--out')
    for run, record in [(run, record_in(run)) for run in args.runs]:
        if holds(read_rows(args.out, COLUMNS), {key: record[key] for key in ('task', 'model', 'seed')}):
            print(f'passed over: {run}, which {args.out} holds already')
            continue
        append_rows(args.out, measure_run(run, args.images, args.data_root))
    rows = read_rows(args.out, COLUMNS)
    if not rows:
        raise UserError(f'{args.out} holds nothing yet; name work directories of runs')
    print(table(rows))
    if args.figure:
        draw(rows, args.figure)


if __name__ == '__main__':
    exit_with_sentence(main)
