"""Make the mini data sets: small sets of real handwritten digits in the layout of the real benchmarks."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from lisa_backbone.data.mini import MiniSet
from lisa_backbone.data.mini_ade20k import MINI_ADE20K
from lisa_backbone.data.mini_coco import MINI_COCO
from lisa_backbone.data.mini_imagenet import MINI_IMAGENET
from lisa_backbone.data.mini_kinetics import MINI_KINETICS
from lisa_backbone.data.mini_ssv2 import MINI_SSV2
from lisa_backbone.errors import exit_with_sentence

DATA_ROOT = Path(__file__).resolve().parent.parent / 'data'
SETS = (MINI_COCO, MINI_ADE20K, MINI_KINETICS, MINI_SSV2, MINI_IMAGENET)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='set', required=True)
    for mini in SETS:
        command = add_command(commands, mini.command, mini.about)
        defaults = mini.params()
        command.add_argument('--out', type=Path, default=DATA_ROOT / f'mini_{mini.command}', help='root of the set')
        command.add_argument('--train', type=int, default=defaults.train, help=f'{mini.unit}s for training')
        command.add_argument('--val', type=int, default=defaults.val, help=f'{mini.unit}s for validation')
        command.add_argument('--size', type=int, default=defaults.size, help=f'side of the {mini.unit}s in pixels')
        if mini is MINI_COCO:
            command.add_argument(
                '--coco-categories',
                dest='categories',
                action='store_const',
                const='coco',
                default=defaults.categories,
                help="list COCO's 80 categories, ten of which stand for the digits, so that configs for COCO run on it",
            )
        command.set_defaults(sets=(mini,))
    command = add_command(commands, 'all', 'every set, each at its defaults')
    command.add_argument('--out', type=Path, default=DATA_ROOT, help='folder to make the sets in')
    command.set_defaults(sets=SETS)
    return parser.parse_args()


def add_command(commands: argparse._SubParsersAction, name: str, about: str) -> argparse.ArgumentParser:
    """A subcommand with the options that all have."""
    command = commands.add_parser(name, help=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    command.add_argument('--seed', type=int, default=0, help='the same seed gives the same set')
    command.add_argument('--overwrite', action='store_true', help='replace the mini set that is there')
    return command


def make(mini: MiniSet, out: Path, args: argparse.Namespace) -> None:
    """Make one set and say what was made."""
    given = {
        field.name: value for field in fields(mini.params) if (value := getattr(args, field.name, None)) is not None
    }
    params = mini.params(**given)
    record = mini.make(out, params, overwrite=args.overwrite)
    done = 'made' if record['made'] else 'is there already, with the same parameters'
    count = f'{params.train} + {params.val} {mini.unit}s'
    print(f'{out} {done}: {count}, fingerprint {record["fingerprint"][:16]}', flush=True)


def main() -> None:
    """Make the sets that were asked for."""
    args = parse_args()
    for mini in args.sets:
        make(mini, args.out if len(args.sets) == 1 else args.out / f'mini_{mini.command}', args)


if __name__ == '__main__':
    exit_with_sentence(main)
