"""What the checks of all kinds of data sets have in common: findings, samples, and images that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from .mini import remake_command

if TYPE_CHECKING:
    from PIL import Image

__all__ = ['SAMPLE', 'Findings', 'displayed_size', 'inspect_image', 'remedy', 'spread', 'strict_decoding']

SAMPLE = 512  # images decoded by decode='sample': all of a mini set, a few seconds of COCO
_JPEG_SCAN, _JPEG_END = b'\xff\xda', b'\xff\xd9'
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on it swaps width and height


@dataclass
class Findings:
    """Problems and notes by kind: the first of each kind in words, the others counted."""

    remedy: Callable[[str], str]
    problems: dict[str, list] = field(default_factory=dict)
    notes: dict[str, list] = field(default_factory=dict)

    def problem(self, kind: str, sentence: str, mend: str) -> None:
        self.problems.setdefault(kind, [f'{sentence}; {self.remedy(mend)}', 0])[1] += 1

    def note(self, kind: str, sentence: str) -> None:
        self.notes.setdefault(kind, [sentence, 0])[1] += 1

    def close(self) -> tuple[str, ...]:
        """The notes; raises the first problem if there is one."""
        if self.problems:
            (sentence, count), *others = self.problems.values()
            also = [f'{count - 1} more like it'] if count > 1 else []
            also += [f'{sum(other[1] for other in others)} of other kinds'] if others else []
            raise UserError(f'{sentence} ({", ".join(also)})' if also else sentence)
        return tuple(f'{text} ({count} in all)' for text, count in self.notes.values())


def remedy(root: Path, otherwise: str) -> str:
    """What to do about a fault: a mini set is made anew, or what else may be wrong is corrected, as elsewhere."""
    command = remake_command(root)
    if not command or '--overwrite' not in command:
        return otherwise
    _, correct, what = otherwise.partition('correct ')
    return f'make the set anew with `{command}`' + (f', or {correct}{what}' if what else '')


def spread(items: list, decode: str) -> list:
    """The items to decode: up to 512, evenly spaced, for ``'sample'``, ``'all'`` or ``'none'`` of them."""
    if decode not in ('sample', 'all', 'none'):
        raise ValueError(f"decode must be 'sample', 'all' or 'none', not {decode!r}")
    if decode == 'none':
        return []
    if decode == 'all' or len(items) <= SAMPLE:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, SAMPLE).round().astype(int)]


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Have Pillow refuse truncated files, whatever the process has asked of it."""
    from PIL import ImageFile

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """(Width, height) of an open image as a framework reads it, turned as its EXIF data say; from the header alone."""
    told = image.format != 'PNG' or 'exif' in image.info  # else Pillow would decode the whole PNG to look behind it
    turned = told and image.getexif().get(_ORIENTATION, 1) >= 5
    return image.size[::-1] if turned else image.size


def inspect_image(path: Path) -> tuple[str, str, tuple[int, int] | None]:
    """What is wrong with an image file, the mend, and its (width, height) as a framework reads it."""
    from PIL import Image

    try:
        data = path.read_bytes()
    except OSError as error:
        return f'cannot read the image {path}: {error.strerror}', 'put it there or correct the image folder', None
    again = 'fetch it again'
    if not data:
        return f'the image {path} is empty', again, None
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            size = displayed_size(image)
            # a download with zeros for the part that never came is decoded to the end, with a warning at most
            cut = image.format == 'JPEG' and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    except Image.UnidentifiedImageError:
        return f'{path} is no image that can be read', again, None
    except Exception as error:  # on a broken file a decoder may raise nearly anything
        if 'truncated' not in str(error).lower():
            return f'the image {path} cannot be decoded ({error})', again, None
        cut = True
    return (f'the image {path} is truncated', again, None) if cut else ('', '', size)
