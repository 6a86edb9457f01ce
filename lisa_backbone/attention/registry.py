"""The registry of attention operators, by class name, and the checks every operator shares."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from math import prod

from torch import Tensor, nn

from ..errors import UserError

ATTENTION: dict[str, type[nn.Module]] = {}


def register_attention(cls: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: put an operator into :data:`ATTENTION` under its class name.

    Raises:
        KeyError: Another class has that name.
    """
    if ATTENTION.setdefault(cls.__name__, cls) is not cls:
        raise KeyError(f'an attention operator named {cls.__name__} is registered already')
    return cls


def build_attention(cfg: dict | str, dim: int, num_heads: int) -> nn.Module:
    """Build an operator from its config.

    Args:
        cfg: ``dict(type='LiSAttention', **options)``, or the name alone.
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
    if name not in ATTENTION:
        known = ', '.join(sorted(ATTENTION))
        raise UserError(f'attention type {name!r} is unknown{_nearest(name, ATTENTION)}; registered are {known}')
    known = set(inspect.signature(ATTENTION[name]).parameters) - {'dim', 'num_heads'}
    for key in options:
        if key not in known:
            hint = f'{_nearest(key, known)}; it takes {", ".join(sorted(known))}'
            raise UserError(f'attention option {key!r} is unknown to {name}{hint}')
    return ATTENTION[name](dim, num_heads, **options)


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


def check_tokens(x: Tensor, grid: tuple[int, ...], dim: int) -> None:
    """Check that ``x`` is (B, L, C) with C = ``dim`` and L the product of 1 to 3 grid sizes.

    Raises:
        UserError: It is not.
    """
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise UserError(f'grid={tuple(grid)} must hold 1, 2 or 3 positive sizes')
    if x.dim() != 3 or x.shape[1] != prod(grid) or x.shape[2] != dim:
        raise UserError(
            f'tokens of shape {tuple(x.shape)} do not fit (B, {prod(grid)}, {dim}), as grid={tuple(grid)} asks'
        )


def _nearest(name: object, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(name), list(known), n=1)
    return f' (did you mean {match[0]!r}?)' if match else ''
