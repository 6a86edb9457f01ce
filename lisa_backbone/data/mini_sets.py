"""The mini sets by the names that tools/make_mini_data.py has for them."""

from __future__ import annotations

from importlib import import_module

from .mini import COMMANDS, MiniSet

__all__ = ['mini_set']


def mini_set(command: str) -> MiniSet:
    """A kind of mini set by its name.

    Args:
        command: One of :data:`lisa_backbone.data.mini.COMMANDS`.

    Raises:
        KeyError: There is none of that name.
    """
    if command not in COMMANDS:
        raise KeyError(command)
    return getattr(import_module(f'.mini_{command}', __package__), f'MINI_{command.upper()}')
