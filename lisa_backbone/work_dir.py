"""Which checkpoint of a work directory is meant, also after it was moved, copied or cut off in the middle of a save."""

from __future__ import annotations

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
    saved = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    saved.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    refused = None
    for path in dict.fromkeys([*_places(folder, named), *saved]):
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
    raise UserError(f'{work_dir}/last_checkpoint names {named!r}, which is gone; give a file with --resume FILE')


def checkpoint_to_test(work_dir: str) -> str:
    """The best checkpoint of a work directory, else the latest.

    Args:
        work_dir: The work directory.

    Raises:
        UserError: There is none.
    """
    best = sorted(Path(work_dir).glob('best_*.pth'), key=lambda p: p.stat().st_mtime)
    latest = str(best[-1]) if best else latest_checkpoint(work_dir) if Path(work_dir).is_dir() else None
    if latest is None:
        raise UserError(f'there is no checkpoint in {work_dir}; train first, or name a checkpoint after the config')
    return latest
