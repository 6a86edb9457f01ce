"""Print parameters and MACs of the LiSA archs as a Markdown table; FFTs and attention are counted.

python tools/get_flops.py --shape 224 224
"""

import argparse

import torch

from lisa_backbone import LiSA
from lisa_backbone.complexity import count_macs, count_parameters
from lisa_backbone.errors import UserError, exit_with_sentence


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description='Parameters and MACs of the LiSA archs.')
    parser.add_argument('--shape', type=int, nargs=2, default=(224, 224), metavar=('H', 'W'), help='image size')
    args = parser.parse_args()
    height, width = args.shape
    if min(height, width) < 1:
        raise UserError(f'--shape {height} {width} must hold two positive sizes')
    print(f'| arch | parameters | MACs at {height} x {width} |\n|---|---:|---:|')
    for arch in LiSA.arch_zoo:
        with torch.device('meta'):
            model = LiSA(arch)
        parameters, macs = count_parameters(model), count_macs(model, (1, 3, height, width))
        print(f'| {arch} | {parameters / 1e6:.1f} M | {macs / 1e9:.2f} G |')


if __name__ == '__main__':
    exit_with_sentence(main)
