"""Measure where the time of a pass goes, by part of the model and kind of operation; see docs/performance.md.

Candidates are those of tools/benchmark.py, shapes too. The processor alone is measured.

Examples:
    python tools/profile_model.py LiSA:arch=tiny mmdet.SwinTransformer --shape 800 1280
    python tools/profile_model.py configs/seg/lisa-t_upernet_8xb2-160k_ade20k-512x512.py --mode training --out parts.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lisa_backbone.benchmarking.breakdown import name_of, profile_candidate, table
from lisa_backbone.benchmarking.candidates import Candidate
from lisa_backbone.benchmarking.passes import MODES
from lisa_backbone.benchmarking.settings import Settings
from lisa_backbone.errors import UserError, exit_with_sentence
from lisa_backbone.paths import check_file
from lisa_backbone.rows import append_rows, refuse_known

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Profile each candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('candidates', nargs='+', metavar='CANDIDATE', help='NAME or NAME:OPTION=VALUE,OPTION=VALUE')
    add('--shape', type=int, nargs=2, default=(224, 224), metavar=('H', 'W'), help='pixels of an image')
    add('--frames', type=int, metavar='T', help='videos of T frames')
    add('--mode', choices=MODES, default='training', help='forward, or forward and backward')
    add('--batch', type=int, default=1)
    add('--threads', type=int, default=torch.get_num_threads(), help='processor threads (default: as torch has it)')
    add('--passes', type=int, default=3, help='that are measured, after one that is not')
    add('--out', type=Path, default=REPO / 'work_dirs' / 'parts.csv', help='CSV file, added to')
    args = parser.parse_args()
    if args.passes < 1:
        raise UserError(f'--passes {args.passes} must be positive')
    shape = tuple(args.shape) if args.frames is None else (args.frames, *args.shape)
    candidates = tuple(Candidate(spec) for spec in args.candidates)
    settings = Settings(
        candidates=candidates,
        shapes=(shape,),
        out=args.out.parent,
        modes=(args.mode,),
        batches=(args.batch,),
        threads=args.threads,
    )
    settings.check()
    check_file(args.out, '--out')
    for candidate in candidates:
        refuse_known(args.out, name_of(candidate, settings))
    for candidate in candidates:
        rows = profile_candidate(candidate, settings, args.passes)
        print(f'\n{candidate.label}, {args.mode}, batch {args.batch}\n\n{table(rows)}')
        append_rows(args.out, rows)


if __name__ == '__main__':
    exit_with_sentence(main)
