"""Train any config: detection, segmentation, action recognition or classification.

python tools/train.py configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py
"""

from __future__ import annotations

import argparse

from lisa_backbone import compat
from lisa_backbone.arguments import add_run_arguments, run_options
from lisa_backbone.errors import exit_with_sentence


def main() -> None:
    """Parse the command line and train, or rehearse training."""
    parser = argparse.ArgumentParser(description='Train any config; see docs/train.md.')
    parser.add_argument('config', help='config file')
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
    parser.add_argument(
        '--rehearse', action='store_true', help='try the config in a few minutes: few images, few steps'
    )
    parser.add_argument(
        '--rehearse-scale', type=float, default=1.0, metavar='FACTOR', help='shrink the images of a rehearsal'
    )
    add_run_arguments(parser)
    args = parser.parse_args()

    compat.apply()  # before any framework is imported
    if args.rehearse:
        from lisa_backbone.rehearse import rehearse

        rehearse(run_options(args), scale=args.rehearse_scale)
    else:
        from lisa_backbone.runner import run_training

        run_training(run_options(args))


if __name__ == '__main__':
    exit_with_sentence(main)
