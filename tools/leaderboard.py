"""Train and test every task on its mini data set, with one record for each run, and print one table.

Examples:
    python tools/leaderboard.py run
    python tools/leaderboard.py run --tasks mini-kinetics mini-ssv2 --attention LiSAttention SelfAttention --seeds 0 1 2
    python tools/leaderboard.py run --slurm partition=gpu time=24:00:00 cpus-per-task=8 --gpus 4 --jobs 10
    python tools/leaderboard.py table
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from lisa_backbone import compat
from lisa_backbone.errors import UserError, exit_with_sentence

REPO = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest='action', required=True)
    run = actions.add_parser('run', help='train, test and print the table')
    table = actions.add_parser('table', help='print the table of a results file')
    for action in (run, table):
        action.add_argument('--results', type=Path, default=REPO / 'results' / 'mini.jsonl', help='file of records')
    run.add_argument('--tasks', nargs='+', metavar='TASK', help='names such as mini-coco; all by default')
    run.add_argument('--models', nargs='+', default=['lisa-p'], metavar='NAME', help='as in the names of the configs')
    run.add_argument(
        '--attention',
        nargs='+',
        default=['LiSAttention'],
        metavar='NAME',
        help='operators of LiSA models: NAME or NAME:OPTION=VALUE',
    )
    run.add_argument('--seeds', type=int, nargs='+', default=[0])
    run.add_argument('--data', type=Path, default=REPO / 'data', help='folder of the mini sets; what lacks is made')
    run.add_argument('--work-dir', type=Path, default=REPO / 'work_dirs' / 'leaderboard')
    run.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='overrides for every run')
    run.add_argument('--jobs', type=int, default=1, help='runs at a time; with --slurm, jobs in the queue')
    run.add_argument('--threads', type=int, default=0, help='processor threads of each (default: an equal share)')
    run.add_argument('--gpus', type=int, default=0, help='GPUs of each run; from two on by torchrun')
    run.add_argument('--slurm', nargs='+', metavar='KEY=VALUE', help='run as Slurm jobs, with these options of sbatch')
    run.add_argument(
        '--executor',
        choices=['processes', 'slurm', 'submitit-local'],
        help='default: slurm with --slurm, else processes; submitit-local tries the jobs without Slurm',
    )
    return parser.parse_args()


def main() -> int:
    """Run what was asked for, and print the table."""
    args = parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as batch systems end a job: like Ctrl-C

    compat.apply()
    from lisa_backbone.leaderboard.sweep import Settings, list_models, run_sweep
    from lisa_backbone.leaderboard.table import table
    from lisa_backbone.leaderboard.tasks import choose
    from lisa_backbone.records import read_records

    failed = {}
    if args.action == 'run':
        settings = Settings(
            root=REPO,
            data=args.data.absolute(),
            work=args.work_dir.absolute(),
            results=args.results,
            options=tuple(args.cfg_options),
            jobs=args.jobs,
            threads=args.threads,
            gpus=args.gpus,
            executor=args.executor or ('slurm' if args.slurm else 'processes'),
            slurm=tuple(args.slurm) if args.slurm else None,
        )
        tasks = choose(args.tasks)
        models = list_models(args.models, args.attention, tasks, REPO)
        failed = run_sweep(tasks, models, args.seeds, settings)
        if failed and not args.results.exists():
            raise UserError(f'all runs failed, {next(iter(failed))}: {next(iter(failed.values()))}')
    records = read_records(args.results)
    if not records:
        raise UserError(f'{args.results} holds no records; make them with tools/leaderboard.py run')
    print(table(records))
    for run, sentence in failed.items():
        print(f'FAILED {run}: {sentence}')
    return 1 if failed else 0


if __name__ == '__main__':
    exit_with_sentence(main)
