"""Colours of the lines of a figure: LiSA and softmax attention have the same ones in all figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle

__all__ = ['LISA', 'OTHERS', 'SOFTMAX', 'colours']

LISA, SOFTMAX = 'tab:red', 'tab:blue'
OTHERS = ('tab:green', 'tab:purple', 'tab:brown', 'tab:orange', 'tab:cyan', '0.35')
# The operator itself, the backbone with it, or a config of the backbone.
_IS_LISA = re.compile(r'LiSAttention|^LiSA\b(?!.*attention=)|[\b_/]lisa-\w+_')


def colours(names: Sequence[str]) -> list[str]:
    """A colour for each name of an operator, model or candidate of a benchmark; that of LiSA is given once."""
    others, found = cycle(OTHERS), []
    for name in names:
        colour = LISA if _IS_LISA.search(name) else SOFTMAX if 'SelfAttention' in name else next(others)
        found.append(next(others) if colour in found and colour in (LISA, SOFTMAX) else colour)
    return found
