r"""Parameters, MACs, time and peak memory of operators, backbones and whole models, side by side in one run.

A candidate is NAME or NAME:OPTION=VALUE,OPTION=VALUE, where NAME is one of

    LiSAttention            an attention operator of this package
    Floor                   q, k and v read and y written once: what memory alone allows an operator
    LiSA                    this package's backbone
    mmdet.SwinTransformer   a registered class of mmdet, mmseg, mmpretrain or mmaction
    timm.resnet50           a timm model
    configs/det/x.py        a config file: its backbone, or all of its model with --whole

and the options are arguments of the class, or overrides of the config (model.backbone.arch=small). Operators take
tokens on a grid and the others images, so they are benchmarked in runs of their own. Ratios are to the first candidate.

Examples:
    python tools/benchmark.py LiSA:arch=tiny mmdet.SwinTransformer mmpretrain.ResNet:depth=50
    python tools/benchmark.py configs/det/mask-rcnn_lisa-t_fpn_1x_coco.py configs/det/mask-rcnn_swin-t_fpn_1x_coco.py \
        --shape 800 1280 --mode inference training
    python tools/benchmark.py configs/seg/lisa-t_upernet_8xb2-160k_ade20k-512x512.py --whole --shape 512 2048
    python tools/benchmark.py configs/action/lisa-t_8xb8-amp-8x8x1-30e_kinetics400-rgb.py --frames 8 --views 12
    python tools/benchmark.py LiSAttention LiSAttention:form=padded SelfAttention:rpe=None --dim 64 --heads 2 \
        --shape 56 56 --batch 1 32
    python tools/benchmark.py LiSA:arch=tiny mmdet.SwinTransformer --sweep 224 448 896 1792 4096 \
        --device cuda --dtype bf16
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import torch

from lisa_backbone.benchmarking.candidates import Candidate
from lisa_backbone.benchmarking.figure import draw_growth
from lisa_backbone.benchmarking.passes import DTYPES, MODES
from lisa_backbone.benchmarking.report import growth_lines, table
from lisa_backbone.benchmarking.runs import run_benchmark
from lisa_backbone.benchmarking.settings import Settings
from lisa_backbone.errors import UserError, exit_with_sentence
from lisa_backbone.figures import check_figure
from lisa_backbone.rows import read_rows

REPO = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('candidates', nargs='+', metavar='CANDIDATE', help='NAME or NAME:OPTION=VALUE,OPTION=VALUE')
    add('--whole', action='store_true', help='the whole models of the configs, not their backbones')
    add(
        '--shape',
        type=int,
        nargs=2,
        action='append',
        metavar=('H', 'W'),
        help='pixels of an image, or tokens of an operator; may be given again (default: 224 224, operators 56 56)',
    )
    add('--sweep', type=int, nargs='+', metavar='SIDE', help='squares of these sides, and how all grows with them')
    add('--frames', type=int, metavar='T', help='videos of T frames')
    add('--views', type=int, default=1, metavar='V', help='inputs for one prediction: clips x crops (default: 1)')
    add('--dim', type=int, default=64, help='channels of operators (default: 64)')
    add('--heads', type=int, default=2, help='heads of operators (default: 2)')
    add('--mode', nargs='+', choices=MODES, default=['inference'], help='forward, or forward and backward')
    add('--batch', type=int, nargs='+', default=[1], help='batch sizes; halved where memory runs out (default: 1)')
    add('--dtype', choices=list(DTYPES), default='fp32', help='fp32, or autocast (default: fp32)')
    add('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    add('--threads', type=int, default=torch.get_num_threads(), help='processor threads (default: as torch has it)')
    add('--rounds', type=int, default=20, help='timed rounds (default: 20)')
    add('--warmup', type=int, default=2, help='rounds before them (default: 2)')
    add('--seconds', type=float, default=120, help='time for the rounds of a group, at least three (default: 120)')
    add('--limit', type=float, default=60, help='seconds that one pass may take (default: 60)')
    add('--compile', action='store_true', help='compile the candidates with torch.compile, for each shape anew')
    add('--graph', action='store_true', help='record each pass as a CUDA graph, so that launching takes no time')
    add('--figure', type=Path, metavar='FILE', help='picture of a sweep, PNG or SVG')
    add('--out', type=Path, default=REPO / 'results', help='folder of the CSV files (default: results)')
    return parser.parse_args()


def main() -> None:
    """Measure, and print the tables."""
    args = parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as batch systems end a job: like Ctrl-C
    if args.sweep and args.shape:
        raise UserError('--sweep and --shape both give the sizes; give one of them')
    if args.figure and not args.sweep:
        raise UserError('--figure draws how time and memory grow with the size; give the sizes with --sweep')
    if args.figure:
        check_figure(args.figure, '--figure')
    candidates = tuple(Candidate(spec, args.whole, args.dim, args.heads) for spec in args.candidates)
    default = (56, 56) if candidates[0].kind == 'operator' else (224, 224)
    shapes = [(side, side) for side in args.sweep or []] or [tuple(shape) for shape in args.shape or [default]]
    settings = Settings(
        candidates=candidates,
        shapes=tuple((args.frames, *shape) if args.frames is not None else shape for shape in shapes),
        out=args.out,
        modes=tuple(args.mode),
        batches=tuple(args.batch),
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
        views=args.views,
        rounds=args.rounds,
        warmup=args.warmup,
        seconds=args.seconds,
        limit=args.limit,
        sweep=bool(args.sweep),
        compiled=args.compile,
        graph=args.graph,
    )
    measured = {path: read_rows(path) for path in run_benchmark(settings)}
    for path, rows in measured.items():
        print('\n'.join(['', str(path), '', table(rows), *(['', *growth_lines(rows)] if args.sweep else [])]))
    if args.figure:
        draw_growth([row for rows in measured.values() for row in rows], args.figure)
        print(f'\n{args.figure}')


if __name__ == '__main__':
    exit_with_sentence(main)
