"""Measure where the time of a training step goes, print a table and write a CSV file; see docs/performance.md.

Examples:
    python tools/profile_step.py configs/seg/lisa-p_fpn_mini-ade20k-128x128.py
    python tools/profile_step.py configs/*/lisa-p_*mini*.py --iterations 50 --out results/steps.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_backbone import compat
from lisa_backbone.errors import exit_with_sentence

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure each config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files')
    parser.add_argument('--iterations', type=int, default=30, help='that are measured')
    parser.add_argument('--warmup', type=int, default=10, help='iterations before them')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='override keys of the configs')
    parser.add_argument('--out', type=Path, default=REPO / 'work_dirs' / 'steps.csv', help='CSV file, added to')
    args = parser.parse_args()

    compat.apply()  # before any framework is imported
    from lisa_backbone.config import parse_options
    from lisa_backbone.paths import check_file
    from lisa_backbone.rows import append_rows, refuse_known
    from lisa_backbone.runner import RunOptions
    from lisa_backbone.step_profile import name_of, profile_step, table

    check_file(args.out, '--out')
    given = parse_options(args.cfg_options)
    runs = [RunOptions(config, cfg_options=given, amp=args.amp) for config in args.configs]
    for options in runs:
        refuse_known(args.out, name_of(options))
    rows = []
    for options in runs:
        rows.append(profile_step(options, args.iterations, args.warmup))
        append_rows(args.out, rows[-1:])
    print(table(rows))


if __name__ == '__main__':
    exit_with_sentence(main)
