"""Which checkpoint of a work directory is meant, also after it was moved, copied or cut off in the middle of a save."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmengine.runner import find_latest_checkpoint

from . import compat
from .errors import UserError

__all__ = ['checkpoint_to_test', 'file_in', 'latest_checkpoint']


def file_in(work_dir: str | Path, path: str) -> str | None:
    """A file by its name in a work directory, which may have been moved or copied, or by the path noted at its saving.

    Args:
        work_dir: The work directory.
        path: What was noted.

    Returns:
        The path of the file, or ``None`` if it is in neither place.
    """
    return next((str(place) for place in _places(work_dir, path) if place.is_file()), None)


def _places(work_dir: str | Path, path: str) -> tuple[Path, Path]:
    return Path(work_dir, Path(path).name), Path(path)


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that ``last_checkpoint`` names, in this work directory first: it may be moved or copied.

    mmengine writes both files in place, the checkpoint again where it is the best, so that an interrupt can leave
    either cut off: then it is the newest whole checkpoint.

    Args:
        work_dir: The work directory.

    Returns:
        The path, or ``None`` where no training saved anything.

    Raises:
        UserError: It is gone, or none can be read.
    """
    named = find_latest_checkpoint(work_dir)
    if named is None:
        return None
    folder = Path(work_dir)
    whole = _first_whole([*_places(folder, named), *_newest_first(folder, 'epoch_*.pth', 'iter_*.pth')])
    if whole is None:
        raise UserError(f'{work_dir}/last_checkpoint names {named!r}, which is gone; give a file with --resume FILE')
    return whole


def checkpoint_to_test(work_dir: str) -> str:
    """The best checkpoint of a work directory, else the latest; one that was cut off is passed over, and named.

    Args:
        work_dir: The work directory.

    Raises:
        UserError: There is none, or none can be read.
    """
    folder = Path(work_dir)
    best = _newest_first(folder, 'best_*.pth')
    whole = _first_whole([*best, *_newest_first(folder, 'epoch_*.pth', 'iter_*.pth')]) if best else None
    if whole is None and folder.is_dir():
        whole = latest_checkpoint(work_dir)
    if whole is None:
        raise UserError(f'there is no checkpoint in {work_dir}; train first, or name a checkpoint after the config')
    return whole


def _newest_first(folder: Path, *patterns: str) -> list[Path]:
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _first_whole(paths: Iterable[Path]) -> str | None:
    """The first that can be read of the files that are there; the fault of the first that cannot is told or raised."""
    refused = None
    for path in dict.fromkeys(paths):
        if not path.is_file():
            continue
        try:
            compat.load_checkpoint(path)
        except UserError as error:
            refused = refused or error
            continue
        if refused:
            print(f'{refused}; taking {path}', flush=True)
        return str(path)
    if refused:
        raise refused
    return None
