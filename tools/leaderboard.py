"""The leaderboard: train and test models on tasks, report, compare, check and reproduce what was recorded.

Examples:
    python tools/leaderboard.py run
    python tools/leaderboard.py run --tasks mini-kinetics mini-ssv2 --attention LiSAttention SelfAttention --seeds 0 1 2
    python tools/leaderboard.py run --slurm partition=gpu time=24:00:00 cpus-per-task=8 --gpus 4 --jobs 10
    python tools/leaderboard.py run --tasks coco-mask-r-cnn-1x --models lisa-t swin-t --gpus 8
    python tools/leaderboard.py table
    python tools/leaderboard.py report --out work_dirs/report
    python tools/leaderboard.py draw --out work_dirs/mini.png
    python tools/leaderboard.py compare work_dirs/a/predictions.npz work_dirs/b/predictions.npz
    python tools/leaderboard.py add work_dirs/mask-rcnn_lisa-t_fpn_1x_coco
    python tools/leaderboard.py lint
    python tools/leaderboard.py reproduce mini-ade20k "lisa-p, LiSAttention" --seed 0 --run
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from lisa_backbone import compat
from lisa_backbone.errors import UserError, exit_with_sentence

REPO = Path(__file__).resolve().parent.parent
BENCHMARKS = 'CSV files of tools/benchmark.py (default: results/benchmark-*.csv)'


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest='action', required=True)
    run = actions.add_parser('run', help='train, test, record and print the table')
    table = actions.add_parser('table', help='print the table of a results file')
    run.add_argument(
        '--results', type=Path, help='file of records (default: results/mini.jsonl, of real tasks reproduced.jsonl)'
    )
    mini = [REPO / 'results' / 'mini.jsonl']
    table.add_argument('--results', type=Path, nargs='+', default=mini, help='files of records')
    table.add_argument('--models', nargs='+', metavar='NAME', help='of these backbones alone, such as lisa-p')
    table.add_argument('--tasks', nargs='+', metavar='TASK', help='of these tasks alone, such as mini-coco')
    run.add_argument('--tasks', nargs='+', metavar='TASK', help='such as mini-coco; all mini ones by default')
    run.add_argument('--models', nargs='+', default=['lisa-p'], metavar='NAME', help='as in the names of the configs')
    run.add_argument(
        '--attention',
        nargs='+',
        default=['LiSAttention'],
        metavar='NAME',
        help='operators of LiSA models: NAME or NAME:OPTION=VALUE',
    )
    run.add_argument('--seeds', type=int, nargs='+', default=[0])
    run.add_argument('--data', type=Path, default=REPO / 'data', help='folder of the data sets; mini sets are made')
    run.add_argument('--work-dir', type=Path, default=REPO / 'work_dirs' / 'leaderboard')
    run.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='overrides for every run')
    run.add_argument('--schedule', type=float, default=1, metavar='SHARE', help='of the epochs or iterations of each')
    run.add_argument('--jobs', type=int, default=1, help='runs at a time; with --slurm, jobs in the queue')
    run.add_argument('--threads', type=int, default=0, help='processor threads of each (default: an equal share)')
    run.add_argument('--gpus', type=int, default=0, help='GPUs of each run; from two on by torchrun')
    run.add_argument('--slurm', nargs='+', metavar='KEY=VALUE', help='run as Slurm jobs, with these options of sbatch')
    run.add_argument(
        '--executor',
        choices=['processes', 'slurm', 'submitit-local'],
        help='default: slurm with --slurm, else processes; submitit-local tries the jobs without Slurm',
    )

    report = actions.add_parser('report', help='write a page, tables in Markdown and a CSV file of all results')
    report.add_argument('--results', type=Path, nargs='+', help='files of records (default: all in results/)')
    report.add_argument('--benchmarks', type=Path, nargs='*', help=BENCHMARKS)
    report.add_argument('--out', type=Path, default=REPO / 'work_dirs' / 'report', help='folder for the files')

    draw = actions.add_parser('draw', help='draw figures with their spread against what they cost')
    draw.add_argument('--results', type=Path, nargs='+', default=mini, help='files of records')
    draw.add_argument('--models', nargs='+', metavar='NAME', help='of these backbones alone, such as lisa-p')
    draw.add_argument('--tasks', nargs='+', metavar='TASK', help='of these tasks alone, such as mini-coco')
    draw.add_argument('--against', nargs='+', default=['macs'], choices=['macs', 'parameters', 'throughput'])
    draw.add_argument('--benchmarks', type=Path, nargs='*', help=BENCHMARKS)
    draw.add_argument('--out', type=Path, required=True, help='the picture, .png or .svg')

    compare = actions.add_parser('compare', help='compare the saved predictions of two tests by a paired bootstrap')
    compare.add_argument('first', type=Path, help='predictions.npz or predictions.json.gz of a work directory')
    compare.add_argument('second', type=Path)
    compare.add_argument('--metric', help='top-1, mIoU, box AP or mask AP (default: the first that they allow)')
    compare.add_argument('--resamples', type=int, default=2000)
    compare.add_argument('--method', choices=['percentile', 'BCa'], default='percentile', help='of the interval')

    add = actions.add_parser('add', help='check runs and add their records to the results')
    add.add_argument('work_dirs', type=Path, nargs='+', metavar='WORK_DIR', help='where each was trained and tested')
    add.add_argument('--results', type=Path, help='file of records (default: that of the status in results/)')

    lint = actions.add_parser('lint', help='build every config and compare costs, records and tables with it')
    lint.add_argument('--mend', action='store_true', help='write costs and tables anew')

    reproduce = actions.add_parser('reproduce', help='print, or run, what makes a row of the table')
    reproduce.add_argument('task', help='key of a task, such as mini-coco or coco-mask-r-cnn-1x')
    reproduce.add_argument('model', help='as in the table: "lisa-p, SelfAttention", or swin-t')
    reproduce.add_argument('--seed', type=int, default=0)
    reproduce.add_argument('--results', type=Path, nargs='+', help='files of records (default: all in results/)')
    reproduce.add_argument('--gpus', type=int, help='GPUs (default: as many as the record has processes, else 1)')
    reproduce.add_argument(
        '--iteration-seconds', type=float, nargs='+', help='of each training, measured: for an estimate of the hours'
    )
    reproduce.add_argument('--run', action='store_true', help='run the commands, and compare the figure')
    return parser.parse_args()


def run(args: argparse.Namespace) -> int:
    """Train and test what has no record yet, and print the table."""
    from lisa_backbone.leaderboard import table as tables
    from lisa_backbone.leaderboard.models import list_models
    from lisa_backbone.leaderboard.sweep import Settings, run_sweep
    from lisa_backbone.records import read_records
    from lisa_backbone.tasks import choose

    tasks = choose(args.tasks)
    args.results = args.results or REPO / 'results' / f'{tasks[0].status}.jsonl'
    settings = Settings(
        root=REPO,
        data=args.data.absolute(),
        work=args.work_dir.absolute(),
        results=args.results,
        options=tuple(args.cfg_options),
        schedule=args.schedule,
        jobs=args.jobs,
        threads=args.threads,
        gpus=args.gpus,
        executor=args.executor or ('slurm' if args.slurm else 'processes'),
        slurm=tuple(args.slurm) if args.slurm else None,
    )
    models = list_models(args.models, args.attention, tasks, REPO)
    failed = run_sweep(tasks, models, args.seeds, settings)
    if failed and not args.results.exists():
        raise UserError(f'all runs failed, {next(iter(failed))}: {next(iter(failed.values()))}')
    print(tables.table(read_records(args.results)))
    for one, sentence in failed.items():
        print(f'FAILED {one}: {sentence}')
    return 1 if failed else 0


def table(args: argparse.Namespace) -> int:
    """Print the table of results files."""
    from lisa_backbone.leaderboard import table as tables

    records = _records(args)
    if not records:
        raise UserError(f'{args.results[0]} holds no records; make them with tools/leaderboard.py run')
    print(tables.table(records))
    return 0


def _records(args: argparse.Namespace) -> list[dict]:
    """The records that the command line names."""
    from lisa_backbone.records import read_records, records_of
    from lisa_backbone.tasks import choose

    _require(args.results)
    tasks = [task.name for task in choose(args.tasks)] if args.tasks else None
    return records_of(read_records(args.results), args.models, tasks)


def report(args: argparse.Namespace) -> int:
    """Write the report."""
    from lisa_backbone.leaderboard.costs import read_benchmarks
    from lisa_backbone.leaderboard.report import report as write
    from lisa_backbone.paths import check_folder
    from lisa_backbone.records import read_records

    _require(args.results or ())
    check_folder(args.out, '--out')
    records = read_records(args.results or REPO / 'results')
    for path in write(records, args.out, read_benchmarks(args.benchmarks, REPO / 'results')):
        print(path)
    return 0


def draw(args: argparse.Namespace) -> int:
    """Draw files of results."""
    from lisa_backbone.figures import check_figure
    from lisa_backbone.leaderboard.costs import read_benchmarks
    from lisa_backbone.leaderboard.plot import draw_results

    check_figure(args.out, '--out')
    rows = read_benchmarks(args.benchmarks, REPO / 'results')
    draw_results(_records(args), args.out, args.against, rows, controls=args.tasks is not None)
    print(args.out)
    return 0


def _require(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise UserError(f'{path} does not exist; name files of records that do')


def compare(args: argparse.Namespace) -> int:
    """Compare two tests."""
    from lisa_backbone.leaderboard import bootstrap

    names = (str(args.first), str(args.second))
    found = bootstrap.compare(
        *names, args.metric, names=('the first', 'the second'), resamples=args.resamples, method=args.method
    )
    print(found.sentence())
    return 0


def add(args: argparse.Namespace) -> int:
    """Add the records of runs."""
    from lisa_backbone.leaderboard import add as adding

    for line in adding.add(args.work_dirs, REPO, args.results):
        print(line)
    return 0


def lint(args: argparse.Namespace) -> int:
    """Check what is published."""
    from lisa_backbone.leaderboard import lint as linter

    return linter.print_problems(linter.lint(REPO, args.mend))


def reproduce(args: argparse.Namespace) -> int:
    """Print what makes a row, or make it."""
    from lisa_backbone.leaderboard import reproduce as again
    from lisa_backbone.records import read_records

    _require(args.results or [])
    records = read_records(args.results or REPO / 'results')
    os.chdir(REPO)
    return again.reproduce(
        records,
        args.task,
        args.model,
        args.seed,
        gpus=args.gpus,
        iterations=args.iteration_seconds,
        run=args.run,
    )


def main() -> int:
    """Do what was asked for."""
    args = parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as batch systems end a job: like Ctrl-C
    compat.apply()
    return ACTIONS[args.action](args)


ACTIONS = {
    'run': run,
    'table': table,
    'report': report,
    'draw': draw,
    'compare': compare,
    'add': add,
    'lint': lint,
    'reproduce': reproduce,
}

if __name__ == '__main__':
    exit_with_sentence(main)
