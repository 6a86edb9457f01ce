"""Rehearse every config of the repository, or those named, on small stand-in data.

python tools/rehearse.py
"""

from __future__ import annotations

import argparse
import signal
from datetime import date
from pathlib import Path

from lisa_backbone import compat
from lisa_backbone.errors import exit_with_sentence

REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    """Parse the command line, rehearse, and print the table."""
    parser = argparse.ArgumentParser(
        description='Rehearse configs on stand-in data; see docs/train.md.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('configs', nargs='*', default=[], help='config files or folders of them; all by default')
    parser.add_argument('--sample', type=int, metavar='N', help='only N of them, others each day')
    parser.add_argument('--offset', type=int, metavar='K', help='which sample; by default the number of the day')
    parser.add_argument('--scale', type=float, default=0.25, metavar='FACTOR', help='shrink the images')
    parser.add_argument('--real', action='store_true', help='the data where the configs say they are, not stand-ins')
    parser.add_argument('--again', action='store_true', help='also those that passed before')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='configs at a time')
    parser.add_argument('--limit', type=float, default=20, metavar='MINUTES', help='time after which one has failed')
    parser.add_argument(
        '--out', type=Path, default=REPO / 'work_dirs' / 'rehearsals', help='folder for results, logs and stand-in data'
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as batch systems end a job: like Ctrl-C

    compat.apply()
    from lisa_backbone.rehearsals import find_configs, rehearse_all, sample, table

    configs = find_configs(args.configs, REPO / 'configs')
    if args.sample is not None:
        offset = date.today().toordinal() if args.offset is None else args.offset
        count, configs = len(configs), sample(configs, args.sample, offset)
        print(f'sample {offset}, {len(configs)} of {count} configs:', *(path.stem for path in configs), flush=True)
    results = rehearse_all(
        configs,
        REPO / 'configs',
        REPO / 'tools' / 'train.py',
        args.out,
        scale=args.scale,
        real=args.real,
        again=args.again,
        jobs=args.jobs,
        limit=args.limit * 60,
    )
    print(table(results))
    return 0 if all(result.passed for result in results) else 1


if __name__ == '__main__':
    exit_with_sentence(main)
