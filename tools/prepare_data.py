"""Check a data set against the official counts and, for the video sets, write the lists that the configs read.

Nothing is downloaded; see docs/data.md for what comes from where.

Examples:
    python tools/prepare_data.py ade20k
    python tools/prepare_data.py kinetics400 --root /data/k400 --check headers
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_backbone.data import prepare, prepare_images
from lisa_backbone.errors import exit_with_sentence

REPO = Path(__file__).resolve().parent.parent
DATA = REPO / 'data'
IMAGE_SETS = {
    'coco': (prepare_images.check_coco, DATA / 'coco'),
    'ade20k': (prepare_images.check_ade20k, DATA / 'ade' / 'ADEChallengeData2016'),
    'imagenet': (prepare_images.check_imagenet, DATA / 'imagenet'),
}
VIDEO_SETS = {
    'kinetics400': (prepare.prepare_kinetics, DATA / 'kinetics400'),
    'ssv2': (prepare.prepare_ssv2, DATA / 'sthv2'),
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sets = parser.add_subparsers(dest='set', required=True)
    for name, (function, root) in {**IMAGE_SETS, **VIDEO_SETS}.items():
        one = sets.add_parser(name, help=function.__doc__.splitlines()[0])
        one.add_argument('--root', type=Path, default=root, help=f'root of the set (default: {root.relative_to(REPO)})')
        one.set_defaults(function=function)
        if name in IMAGE_SETS:
            one.add_argument(
                '--check', choices=('sample', 'all', 'none'), default='sample', help='images to decode (default: 512)'
            )
            continue
        one.add_argument(
            '--check',
            choices=prepare.CHECKS,
            default='decode',
            help='how to look at each video: not, at its packets, also decode its start and its end (default), or all '
            'of it',
        )
        one.add_argument('--workers', type=int, default=8, help='videos looked at at a time (default: 8)')
    return parser.parse_args()


def main() -> int:
    """Check or prepare the set, and print a line on each split; the status is 1 where one is there and is faulty."""
    options = vars(parse_args())
    function, root = options.pop('function'), options.pop('root')
    del options['set']
    splits = function(root, **options)
    print(*splits, sep='\n')
    return int(any(split.faulty for split in splits))


if __name__ == '__main__':
    exit_with_sentence(main)
