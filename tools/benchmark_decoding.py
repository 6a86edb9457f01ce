"""Compare video decoders on clips that it makes: speed relative to PyAV, exact frames, memory.

Decoders that are not installed are passed over and named; see docs/data.md.

Examples:
    python tools/benchmark_decoding.py --clips 8 --rounds 5
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_backbone.data import decoding
from lisa_backbone.errors import UserError, exit_with_sentence
from lisa_backbone.paths import check_file
from lisa_backbone.rows import read_rows

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, write the results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=Path, default=REPO / 'work_dirs' / 'decoding', help='where the clips are made')
    parser.add_argument('--clips', type=int, default=8, help='clips of each kind (default: 8)')
    parser.add_argument('--rounds', type=int, default=5, help='times that each is read by each decoder (default: 5)')
    default = REPO / 'work_dirs' / 'decoding.csv'
    parser.add_argument('--out', type=Path, default=default, help='CSV file of the results, which is replaced')
    args = parser.parse_args()
    if args.clips < 1 or args.rounds < 1:
        raise UserError('--clips and --rounds must be positive')
    check_file(args.out, '--out')
    read_rows(args.out, decoding.FIELDS)  # refuses, before anything is measured, a file that it must not replace
    rows, absent = decoding.measure(args.folder, args.clips, args.rounds)
    decoding.write(rows, args.out)
    print(decoding.table(rows))
    for name, reason in absent.items():
        print(f'\npassed over: {name} ({reason})')


if __name__ == '__main__':
    exit_with_sentence(main)
