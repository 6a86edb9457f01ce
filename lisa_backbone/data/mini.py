"""What all mini sets share: how one is written, recognised, recorded and replaced.

A mini set is a function of its parameters: every image or clip is drawn from a generator of its own, seeded by the
set's seed, the split and its number, so that order and interruptions leave no trace.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from ..errors import UserError
from .digits import SPLITS
from .scenes import SceneStyle
from .video import decode_planes
from .video_files import CACHE

__all__ = [
    'COMMANDS',
    'RECORD',
    'MiniParams',
    'MiniSet',
    'MiniVideoParams',
    'balanced_label',
    'content_digest',
    'encode_jpeg',
    'fingerprint',
    'remake_command',
]

RECORD = 'mini.json'
COMMANDS = ('coco', 'ade20k', 'kinetics', 'ssv2', 'imagenet')  # of tools/make_mini_data.py
JPEG_QUALITY = 95
_IMAGES, _VIDEOS = {'.jpg', '.jpeg', '.png'}, {'.mp4', '.webm'}


@dataclass(frozen=True)
class MiniParams:
    """All that a mini set depends on. Each set has defaults of its own.

    Attributes:
        seed: Seed of the set.
        train: Images or clips for training.
        val: Images or clips for validation.
        size: Side of the square images, in pixels.
        style: What the scenes look like.
    """

    seed: int = 0
    train: int = 400
    val: int = 100
    size: int = 64
    style: SceneStyle = field(default_factory=SceneStyle)

    generator: ClassVar[int]  # to be raised whenever the same parameters give other pixels or annotations

    def count(self, split: str) -> int:
        """Images or clips of a split."""
        return self.train if split == 'train' else self.val

    def record(self) -> dict:
        """The parameters as they are written to mini.json, the generator's version included."""
        return json.loads(json.dumps({'generator': self.generator, **asdict(self)}))

    def check(self) -> None:
        """Refuse parameters that make no sense.

        Raises:
            UserError: On the first of them.
        """
        if self.train < 1 or self.val < 1:
            raise UserError(f'--train and --val must be at least 1, not {self.train} and {self.val}')
        if self.seed < 0:
            raise UserError(f'--seed must not be negative, and {self.seed} is')
        tallest = self.style.size[0]
        if self.size < self.least_size():
            raise UserError(f'--size must be at least {self.least_size()} to hold digits of {tallest:.0f} pixels')

    def least_size(self) -> int:
        """The least side of an image, in pixels: twice the smallest digit."""
        return round(2 * self.style.size[0])


@dataclass(frozen=True)
class MiniVideoParams(MiniParams):
    """All that a mini set of clips depends on.

    Attributes:
        frames: Frames of a clip.
        rate: Frames a second.
    """

    frames: int = 16
    rate: int = 8

    def check(self) -> None:
        """As of every mini set; video frames have even sides."""
        super().check()
        if self.size % 2:
            raise UserError(f'--size must be even for clips, and {self.size} is not')

    def times(self) -> np.ndarray:
        """The time of each frame: float array (frames,) from 0 to 1, both included."""
        return np.linspace(0, 1, self.frames)


@dataclass(frozen=True)
class MiniSet:
    """One kind of mini set.

    Attributes:
        name: Its name, 'mini ' and that of the benchmark it stands for.
        about: What it is for, in a few words.
        params: The class of its parameters.
        unit: What it consists of: 'image' or 'clip'.
        write: Writes a set into an empty folder; it is given the folder, the parameters and a function to be called
            after each image or clip.
        fingerprint: The digest of what a model gets to see of a set; it is given the root.
        libraries: The distributions whose versions may change the pixels.
    """

    name: str
    about: str
    params: type[MiniParams]
    unit: str
    write: Callable[[Path, MiniParams, Callable[[], object]], None]
    fingerprint: Callable[[Path], str]
    libraries: tuple[str, ...] = ('numpy', 'scipy', 'opencv', 'scikit-learn')

    @property
    def command(self) -> str:
        """What tools/make_mini_data.py calls it."""
        return _command(self.name)

    def make(self, out: str | Path, params: MiniParams | None = None, *, overwrite: bool = False) -> dict:
        """Make a mini set, unless the same one is there already.

        It is written to a sibling folder and moved into place when complete; a run that is stopped leaves what was
        there.

        Args:
            out: Root of the set; the folders of its layout are made in it.
            params: What to make.
            overwrite: Whether to replace a set of this kind that is there, whatever its parameters. Nothing else is
                ever replaced.

        Returns:
            The record in mini.json, with 'made' added: False if the set was there already.

        Raises:
            UserError: If ``out`` holds something else, or the parameters make no sense.
        """
        out, params = Path(out), params or self.params()
        params.check()
        _clear_up(out)
        standing = _standing(out)
        if standing is not None and standing['set'] != self.name:
            raise UserError(f'{out} holds a {standing["set"]}, so it is left alone; name another folder with --out')
        if standing is not None and not overwrite:
            if standing['parameters'] == params.record() and _is_whole(out, standing):
                return {**standing, 'made': False}
            raise UserError(
                f'{out} holds a {self.name} that is incomplete or was made with other parameters; add --overwrite to '
                'replace it, or name another folder with --out'
            )
        with _into_place(out) as folder:
            record = self._write(folder, params)
        return {**record, 'made': True}

    def _write(self, root: Path, params: MiniParams) -> dict:
        from tqdm import tqdm

        with tqdm(total=params.train + params.val, desc=self.name, unit=self.unit) as bar:
            self.write(root, params, bar.update)
        record = {
            'set': self.name,
            'parameters': params.record(),
            'fingerprint': self.fingerprint(root),
            'versions': {name: _version(name) for name in self.libraries},
            'files': _count_files(root),
            'sha256': content_digest(root),
        }
        (root / RECORD).write_text(json.dumps(record, indent=2) + '\n')
        return record


def balanced_label(seed: int, split: str, number: int, classes: int = 10) -> int:
    """The class of one image or clip: each ``classes`` consecutive numbers hold every class once, in random order.

    Args:
        seed: Seed of the set.
        split: 'train' or 'val'.
        number: Number of the image or clip in its split.
        classes: Number of classes.

    Returns:
        The class, from 0 on.
    """
    block, place = divmod(number, classes)
    order = np.random.default_rng([seed, SPLITS.index(split), block, classes]).permutation(classes)
    return int(order[place])


def encode_jpeg(image: np.ndarray) -> bytes:
    """A JPEG of an RGB image, at the quality of the mini sets."""
    done, data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError('OpenCV could not encode a JPEG')
    return data.tobytes()


def fingerprint(root: str | Path) -> str:
    """SHA-256 over what the folders of a mini set hold: decoded pixels of images and videos, bytes of all else.

    Files in the root itself are left out: lists that follow from the rest, and the record.

    Args:
        root: Root of the set.

    Returns:
        The hexadecimal digest.
    """
    from tqdm import tqdm

    root, digest = Path(root), hashlib.sha256()
    files = sorted(path for folder in root.iterdir() if folder.is_dir() for path in folder.rglob('*') if path.is_file())
    for path in tqdm(files, desc='fingerprint', unit='file', leave=False):
        digest.update(path.relative_to(root).as_posix().encode() + _content(path))
    return digest.hexdigest()


def content_digest(root: str | Path) -> str:
    """SHA-256 over the names and bytes of all files of a mini set but its record, checks of videos and hidden ones.

    The fingerprint says whether two sets are the same to a model; this, in a fraction of its time, whether a set is
    still what was written.

    Args:
        root: Root of the set.

    Returns:
        The hexadecimal digest.
    """
    root, digest = Path(root), hashlib.sha256()
    for path in sorted(path for path in root.rglob('*') if path.is_file()):
        name = path.relative_to(root).as_posix()
        if name not in (RECORD, CACHE) and not path.name.startswith('.'):
            digest.update(f'{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n'.encode())
    return digest.hexdigest()


def remake_command(root: str | Path) -> str | None:
    """The command that makes the mini set at a place, or makes it anew.

    Args:
        root: Root of the set, which may be missing or damaged.

    Returns:
        The command; None if there is no mini set at ``root`` and the folder is not named like one.
    """
    root = Path(root)
    made = (root / RECORD).is_file()
    try:
        command = _command(json.loads((root / RECORD).read_text())['set'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        command = root.name.removeprefix('mini_').split('_')[0]
        if not made and not root.name.startswith('mini_'):
            return None
    if command not in COMMANDS:
        return None
    return f'python tools/make_mini_data.py {command} --out {root}' + (' --overwrite' if made else '')


def _command(name: str) -> str:
    return name.removeprefix('mini ').lower()


def _content(path: Path) -> bytes:
    suffix = path.suffix.lower()
    if suffix in _IMAGES:
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes()
    return decode_planes(path).tobytes() if suffix in _VIDEOS else path.read_bytes()


def _version(name: str) -> str:
    return cv2.__version__ if name == 'opencv' else version(name)  # OpenCV comes as any of four distributions


# ---------------------------------------------------------------------------------------------------------------------
# what stands at a place, and what takes it
# ---------------------------------------------------------------------------------------------------------------------
def _standing(out: Path) -> dict | None:
    """The record of the mini set at ``out``; None if nothing is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record = json.loads((out / RECORD).read_text())
        record = {**record, **{name: record[name] for name in ('set', 'parameters', 'fingerprint')}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{out} exists and is not a mini set (no readable {RECORD} in it), so it is left alone; name another '
            'folder with --out, or move it away'
        ) from error
    return record


def _count_files(root: Path) -> dict[str, int]:
    """The number of files in each folder of a set, the record left out."""
    files = (path for path in root.rglob('*') if path.is_file() and path != root / RECORD)
    counts = Counter(path.parent.relative_to(root).as_posix() for path in files)
    return dict(sorted(counts.items()))


def _is_whole(out: Path, record: dict) -> bool:
    """Whether no folder holds fewer files than were made; sets of before had no such count."""
    there = _count_files(out)
    return all(there.get(folder, 0) >= count for folder, count in record.get('files', {}).items())


@contextmanager
def _into_place(out: Path) -> Iterator[Path]:
    """A fresh folder beside ``out`` that takes its place when the block ends well and vanishes when it does not."""
    folder, aside = (out.parent / f'{_stem(out)}{os.getpid()}.{part}' for part in ('partial', 'replaced'))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise UserError(f'cannot write to {out.parent}: {error.strerror}; name another folder with --out') from error
    try:
        yield folder
        if out.exists():
            out.rename(aside)
        folder.rename(out)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise UserError(f'cannot write {out}: {error.strerror}; free some space or name another --out') from error
    finally:
        if not out.exists() and aside.exists():
            aside.rename(out)
        shutil.rmtree(folder, ignore_errors=True)


def _stem(out: Path) -> str:
    """How the names of the folders begin that a run keeps beside ``out``; they go on with its process."""
    return f'.{out.name}.{socket.gethostname()}-'


def _clear_up(out: Path) -> None:
    """Undo what runs that were killed outright have left on this machine."""
    for left in out.parent.glob(f'{glob.escape(_stem(out))}*'):
        if _is_running(left.name.removeprefix(_stem(out)).split('.')[0]):
            continue
        if left.name.endswith('.replaced') and not out.exists():  # killed between the two renames
            left.rename(out)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
