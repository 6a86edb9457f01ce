"""The registry of attention operators, by class name, and the checks every operator shares."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from ..errors import UserError

ATTENTION: dict[str, type[nn.Module]] = {}

COSTS = ('N', 'N log N', 'N sqrt(N)', 'N^2')
SYMMETRIES = ('', 'permutation', 'cyclic shift')


@dataclass(frozen=True)
class About:
    """What an operator says of itself: for docs/operators.md, and for the tests that hold it to that.

    It stands in the class as ``about``.

    Attributes:
        source: The paper: authors, title, year, where to find it, and the equation if it has a number.
        equation: What it computes, in plain text.
        cost: Growth of time and memory with the number N of tokens, one of ``COSTS``; below ``'N^2'`` no tensor of
            N x N elements is made, forward or backward.
        left_out: What of the paper it lacks or does otherwise, and why; empty for nothing.
        axes: Numbers of grid axes it takes: 3 for videos, 2 for images, 1 for sequences.
        inflates: Whether on a clip of identical frames every frame gets what the image gets, so that the weights of an
            image model make the same maps of it. On a clip of one frame every operator that takes videos does so.
        frames_alike: Whether on such a clip all frames get the same; to be said where it does not inflate, else they
            do anyway.
        not_inflated: Why it does not inflate, of an operator that takes videos.
        symmetry: ``'permutation'`` if a permutation of the tokens permutes the outputs alike, ``'cyclic shift'`` if
            a shift of the grid that wraps around does; of the operator with its default options.
    """

    source: str
    equation: str
    cost: str
    left_out: str = ''
    axes: tuple[int, ...] = (1, 2, 3)
    inflates: bool = False
    frames_alike: bool = False
    not_inflated: str = ''
    symmetry: str = ''

    def __post_init__(self) -> None:
        """Refuse what is not one of the known words."""
        check_choice('cost', self.cost, COSTS)
        check_choice('symmetry', self.symmetry, SYMMETRIES)


def register_attention(cls: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: put an operator into :data:`ATTENTION` under its class name.

    Raises:
        KeyError: Another class has that name.
    """
    if ATTENTION.setdefault(cls.__name__, cls) is not cls:
        raise KeyError(f'an attention operator named {cls.__name__} is registered already')
    return cls


def find_attention(name: str) -> type[nn.Module]:
    """The class of an operator.

    Args:
        name: That of a registered operator, or the path of one of another package: ``'my_package.module.MyAttention'``.

    Raises:
        UserError: It is unknown, its module cannot be imported, or it is no module of torch.
    """
    if name in ATTENTION:
        return ATTENTION[name]
    package, _, cls = str(name).rpartition('.')
    if not (package and all(part.isidentifier() for part in str(name).split('.'))):
        known = ', '.join(sorted(ATTENTION))
        raise UserError(f'attention type {name!r} is unknown{_nearest(name, ATTENTION)}; registered are {known}')
    try:
        found = getattr(importlib.import_module(package), cls)
    except ImportError as error:
        raise UserError(
            f'attention type {name!r} cannot be imported ({error}); install its package or put its folder on PYTHONPATH'
        ) from error
    except AttributeError as error:
        raise UserError(f'attention type {name!r} is not in that module ({error}); mend the name') from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f'attention type {name!r} is not a class of torch.nn.Module; name one')
    return found


def build_attention(cfg: dict | str, dim: int, num_heads: int) -> nn.Module:
    """Build an operator from its config.

    Args:
        cfg: ``dict(type='LiSAttention', **options)``, or the name alone; see :func:`find_attention`.
        dim: Number of channels.
        num_heads: Number of heads; must divide ``dim``.

    Raises:
        UserError: The type or an option is unknown, or the heads do not divide the channels.

    Examples:
        >>> from lisa_backbone.attention import build_attention
        >>> attention = build_attention(dict(type='LiSAttention', num_patterns=2), dim=32, num_heads=4)
        >>> attention.num_patterns
        2
    """
    options = {'type': cfg} if isinstance(cfg, str) else dict(cfg)
    name = options.pop('type', None)
    operator = find_attention(name)
    known = set(inspect.signature(operator).parameters) - {'dim', 'num_heads'}
    for key in options:
        if key not in known:
            hint = f'{_nearest(key, known)}; it takes {", ".join(sorted(known))}'
            raise UserError(f'attention option {key!r} is unknown to {name}{hint}')
    return operator(dim, num_heads, **options)


def check_heads(dim: int, num_heads: int) -> int:
    """Channels per head.

    Raises:
        UserError: ``num_heads`` does not divide ``dim``.
    """
    if num_heads < 1 or dim % num_heads:
        raise UserError(f'dim={dim} cannot be split into num_heads={num_heads}; take a number of heads that divides it')
    return dim // num_heads


def check_choice(option: str, value: str, known: Iterable[str]) -> None:
    """Check that an option has one of its known values.

    Raises:
        UserError: It has not.
    """
    if value not in known:
        raise UserError(f'{option} {value!r} is unknown; take one of {", ".join(known)}')


def check_tokens(x: Tensor, grid: tuple[int, ...], dim: int, axes: tuple[int, ...] = (1, 2, 3)) -> None:
    """Check that ``x`` is (B, L, C) with C = ``dim`` and L the product of as many grid sizes as the operator takes.

    Args:
        x: The tokens.
        grid: The grid.
        dim: Channels of the operator.
        axes: Numbers of grid axes that the operator takes, as in :class:`About`.

    Raises:
        UserError: It is not, or there are no samples (B = 0), of which FFTs cannot be taken.
    """
    if len(grid) not in axes or min(grid) < 1:
        counts = ' or '.join([', '.join(map(str, axes[:-1])), str(axes[-1])] if len(axes) > 1 else map(str, axes))
        what = '; this operator has no form for videos, take another' if len(grid) == 3 and 3 not in axes else ''
        raise UserError(f'grid={tuple(grid)} must hold {counts} positive sizes{what}')
    if x.dim() != 3 or x.shape[1] != prod(grid) or x.shape[2] != dim:
        raise UserError(
            f'tokens of shape {tuple(x.shape)} do not fit (B, {prod(grid)}, {dim}), as grid={tuple(grid)} asks'
        )
    if not len(x):
        raise UserError(f'tokens of shape {tuple(x.shape)} hold no samples; leave empty batches out')


def without_single_frame(grid: tuple[int, ...]) -> tuple[int, ...]:
    """The grid, and of a clip of one frame that of the image, for operators that depend on the number of axes."""
    return grid[1:] if len(grid) == 3 and grid[0] == 1 else grid


def _nearest(name: object, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(name), list(known), n=1)
    return f' (did you mean {match[0]!r}?)' if match else ''
