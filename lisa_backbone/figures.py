"""What all figures have in common: the kinds of files, and the colours of LiSA and softmax attention."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .paths import check_file, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['LISA', 'OTHERS', 'SOFTMAX', 'check_figure', 'colours', 'save']

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


def check_figure(path: Path, option: str) -> None:
    """Stop, before what is drawn is measured, unless a picture can be of the kind that its name says.

    Raises:
        UserError: It is neither PNG nor SVG, or cannot be written.
    """
    if path.suffix not in ('.png', '.svg'):
        raise UserError(f'{option} {path} is neither .png nor .svg; name one of them')
    check_file(path, option)


def save(figure: Figure, path: Path) -> None:
    """Save a figure; one that was there before stays whole until the new one is.

    Args:
        figure: The figure.
        path: The file, of the kind that its name says; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110, format=path.suffix[1:])
