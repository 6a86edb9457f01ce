"""Train any config: detection, segmentation, action recognition or classification.

python tools/train.py configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py
"""

from __future__ import annotations

import argparse
import os

from lisa_backbone import compat
from lisa_backbone.errors import exit_with_sentence


def main() -> int:
    """Parse the command line and train, or rehearse training."""
    parser = argparse.ArgumentParser(description='Train any config; see docs/train.md.')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where to write (default: work_dirs/<name of the config>)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or from the latest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the total batch')
    parser.add_argument('--show-dir', help='afterwards test the best checkpoint, and put pictures of it here')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='override keys of the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--seed', type=int, help='seed of everything random (default: the one of the config)')
    parser.add_argument(
        '--min-fit', type=float, metavar='SHARE', help='least share (0 to 1) that weight files must fill'
    )
    parser.add_argument(
        '--rehearse', action='store_true', help='try the config in a few minutes: few images, few steps'
    )
    parser.add_argument(
        '--rehearse-scale', type=float, default=1.0, metavar='FACTOR', help='shrink the images of a rehearsal'
    )
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
    from lisa_backbone.rehearse import rehearse
    from lisa_backbone.runner import RunOptions, parse_options, run_training

    options = RunOptions(
        config=args.config,
        work_dir=args.work_dir,
        cfg_options=parse_options(args.cfg_options),
        launcher=args.launcher,
        seed=args.seed,
        show_dir=args.show_dir,
        min_fit=args.min_fit,
        check_images=args.check_images,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
    )
    if args.rehearse:
        rehearse(options, scale=args.rehearse_scale)
    else:
        run_training(options)
    return 0


if __name__ == '__main__':
    exit_with_sentence(main)
