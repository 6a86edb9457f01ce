"""Make the mini data sets: small sets of real handwritten digits in the layout of the real benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_backbone.data.mini_coco import MiniCocoParams, make_mini_coco
from lisa_backbone.errors import exit_with_sentence

DATA_ROOT = Path(__file__).resolve().parent.parent / 'data'


def parse_args() -> argparse.Namespace:
    """The command line."""
    defaults = MiniCocoParams()
    parser = argparse.ArgumentParser(description=__doc__)
    sets = parser.add_subparsers(dest='set', required=True)
    coco = sets.add_parser(
        'coco',
        help='detection and instance segmentation',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    coco.add_argument('--out', type=Path, default=DATA_ROOT / 'mini_coco', help='root of the set')
    coco.add_argument('--seed', type=int, default=defaults.seed, help='the same seed gives the same set')
    coco.add_argument('--train', type=int, default=defaults.train, help='images in train2017')
    coco.add_argument('--val', type=int, default=defaults.val, help='images in val2017')
    coco.add_argument('--size', type=int, default=defaults.size, help='side of the images in pixels')
    coco.add_argument('--overwrite', action='store_true', help='replace the mini set that is there')
    coco.set_defaults(make=make_coco)
    return parser.parse_args()


def make_coco(args: argparse.Namespace) -> None:
    """Make the mini COCO and say what was made."""
    params = MiniCocoParams(seed=args.seed, train=args.train, val=args.val, size=args.size)
    record = make_mini_coco(args.out, params, overwrite=args.overwrite)
    done = 'made' if record['made'] else 'is there already, with the same parameters'
    print(f'{args.out} {done}: {args.train} + {args.val} images, fingerprint {record["fingerprint"][:16]}')


def main() -> None:
    """Make the set that was asked for."""
    args = parse_args()
    args.make(args)


if __name__ == '__main__':
    exit_with_sentence(main)
