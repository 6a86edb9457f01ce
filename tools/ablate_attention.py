"""Run the operator trial and print its table; see docs/operator.md.

Examples:
    python tools/ablate_attention.py run --seeds 0 1 2 --out results/operator_trial.csv
    python tools/ablate_attention.py table --out results/operator_trial.csv --time-rounds 20
"""

import argparse
from pathlib import Path

import torch

from lisa_backbone import ablation
from lisa_backbone.errors import UserError, exit_with_sentence
from lisa_backbone.paths import check_file
from lisa_backbone.rows import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=('run', 'table'))
    parser.add_argument('--out', type=Path, default=Path('results/operator_trial.csv'), help='CSV file, a row a run')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--variants', nargs='+', help='names of rows; all by default')
    parser.add_argument('--steps', type=int, default=ablation.Trial.steps, help='training steps of a run')
    parser.add_argument('--threads', type=int, default=1, help='processor threads')
    parser.add_argument('--time-rounds', type=int, default=0, help='table: also time this many steps of each, in turns')
    args = parser.parse_args()
    if args.steps < 1 or args.threads < 1 or min(args.time_rounds, *args.seeds) < 0:
        raise UserError('--steps and --threads must be positive, --time-rounds and --seeds not negative')
    torch.set_num_threads(args.threads)
    trial = ablation.Trial(steps=args.steps)
    if args.action == 'run':
        check_file(args.out, '--out')
        ablation.run(args.out, args.seeds, args.variants, trial)
    times = None
    if args.time_rounds:
        variants = [row['variant'] for row in read_rows(args.out, ablation.COLUMNS)]
        times = ablation.step_times([name for name in variants if name in ablation.VARIANTS], trial, args.time_rounds)
    print(ablation.table(args.out, times))


if __name__ == '__main__':
    exit_with_sentence(main)
