"""What the command lines of training and testing have in common. No framework is imported before they are parsed."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import fields
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from .runner import RunOptions

__all__ = ['add_run_arguments', 'run_options', 'split_pairs']


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every run of a config takes.

    Args:
        parser: The parser.
    """
    parser.add_argument('--work-dir', help='where to write (default: work_dirs/<name of the config>)')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='override keys of the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--seed', type=_seed, help='seed of everything random (default: the one of the config)')
    parser.add_argument(
        '--min-fit', type=_share, metavar='SHARE', help='least share (0 to 1) that weight files must fill'
    )
    parser.add_argument(
        '--check-images',
        choices=['sample', 'all', 'none'],
        default='sample',
        help='images and videos to decode beforehand (default: up to 512)',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is no share; give a number from 0 to 1')
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f'{text} is no seed; give a whole number from 0 to {2**32 - 1}')
    return value


def split_pairs(spec: str) -> list[str]:
    """The pairs of ``NAME:OPTION=VALUE,OPTION=VALUE``.

    Args:
        spec: The name and the pairs. Values may hold commas: one begins a pair where a name and ``=`` follow.

    Raises:
        UserError: A pair has no ``=``.
    """
    pairs = [pair for pair in re.split(r',(?=[A-Za-z_][\w.]*=)', spec.partition(':')[2]) if pair]
    for pair in pairs:
        if '=' not in pair:
            raise UserError(f'{pair!r} in {spec!r} is not OPTION=VALUE; write NAME:OPTION=VALUE,OPTION=VALUE')
    return pairs


def run_options(args: argparse.Namespace) -> RunOptions:
    """Options of a run from a parsed command line.

    Args:
        args: What the parser returned; names that are no field of RunOptions are passed over.

    Returns:
        The options.

    Raises:
        UserError: A ``--cfg-options`` pair cannot be read.
    """
    from .config import parse_options
    from .runner import RunOptions

    # mpirun has another name for it, and older launchers give it as an argument
    os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(args.local_rank)))
    given = {f.name: getattr(args, f.name) for f in fields(RunOptions) if hasattr(args, f.name)}
    return RunOptions(**{**given, 'cfg_options': parse_options(args.cfg_options)})
