"""Test a checkpoint with any config, and draw its predictions beside the ground truth.

python tools/test.py configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py --show-dir pictures
"""

from __future__ import annotations

import argparse
import os

from lisa_backbone import compat
from lisa_backbone.errors import exit_with_sentence


def main() -> int:
    """Parse the command line and test."""
    parser = argparse.ArgumentParser(description='Test a checkpoint with any config; see docs/train.md.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='weights (default: the best of the work dir, else the latest)')
    parser.add_argument('--work-dir', help='where to write (default: work_dirs/<name of the config>)')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions beside the ground truth')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='override keys of the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--seed', type=int, help='seed of everything random (default: the one of the config)')
    parser.add_argument('--min-fit', type=float, metavar='SHARE', help='least share (0 to 1) of the model to be filled')
    parser.add_argument(
        '--check-images',
        choices=['sample', 'all', 'none'],
        default='sample',
        help='images of COCO-format sets to decode beforehand (default: up to 512)',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    compat.apply()  # before any framework is imported
    from lisa_backbone.runner import RunOptions, parse_options, run_test

    options = RunOptions(
        config=args.config,
        work_dir=args.work_dir,
        cfg_options=parse_options(args.cfg_options),
        launcher=args.launcher,
        seed=args.seed,
        min_fit=args.min_fit,
        check_images=args.check_images,
        show_dir=args.show_dir,
    )
    run_test(options, args.checkpoint)
    return 0


if __name__ == '__main__':
    exit_with_sentence(main)
