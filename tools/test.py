"""Test a checkpoint with any config, and draw its predictions beside the ground truth.

python tools/test.py configs/det/mask-rcnn_lisa-p_fpn_mini-coco.py --show-dir pictures
"""

from __future__ import annotations

import argparse

from lisa_backbone import compat
from lisa_backbone.arguments import add_run_arguments, run_options
from lisa_backbone.errors import exit_with_sentence


def main() -> None:
    """Parse the command line and test."""
    parser = argparse.ArgumentParser(description='Test a checkpoint with any config; see docs/train.md.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='weights (default: the best of the work dir, else the latest)')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions beside the ground truth')
    parser.add_argument('--tta', action='store_true', help='average over flips and scales (the tta_pipeline)')
    add_run_arguments(parser)
    args = parser.parse_args()

    compat.apply()  # before any framework is imported
    from lisa_backbone.runner import run_test

    run_test(run_options(args), args.checkpoint)


if __name__ == '__main__':
    exit_with_sentence(main)
