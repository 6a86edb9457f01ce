"""The mini sets by the names that tools/make_mini_data.py has for them."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from ..errors import UserError
from ..paths import replacing
from .mini import COMMANDS, RECORD, MiniSet, content_digest, remake_command

__all__ = ['mini_set', 'standing_record']


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


def standing_record(root: Path) -> dict:
    """The record of the mini set at a place, if the set still is what was made.

    A set that was made before records had the digest of its files is compared by its fingerprint, once: then the digest
    is added, if the record can be written.

    Args:
        root: Root of the set.

    Raises:
        UserError: A file of it was changed, added or lost since, or the record cannot be read.
    """
    path = root / RECORD
    try:
        record = json.loads(path.read_text())
        kind = mini_set(record['set'].removeprefix('mini ').lower())
        noted, made = record.get('sha256'), record['fingerprint']
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is no record of a mini set ({error}); name another folder') from error
    found = content_digest(root)
    same = noted == found if noted else made == _fingerprint(kind, root)
    if not same:
        raise UserError(f'the files of {root} are not those that were made; make it anew with `{remake_command(root)}`')
    if not noted:
        with suppress(OSError), replacing(path) as draft:  # the set may be one that is only read
            draft.write_text(json.dumps({**record, 'sha256': found}, indent=2) + '\n')
    return record


def _fingerprint(kind: MiniSet, root: Path) -> str | None:
    """The fingerprint of a set; ``None`` where a file is lost or cannot be decoded."""
    try:
        return kind.fingerprint(root)
    except Exception as error:  # of one of several decoders
        print(f'{root} cannot be read as a {kind.name}: {error}', flush=True)
        return None
