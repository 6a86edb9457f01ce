"""What there is of COCO, ADE20K and ImageNet-1K, against the official counts. Nothing is downloaded or written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .checks import check_detection_data

__all__ = ['ImageSplit', 'check_ade20k', 'check_coco', 'check_imagenet']

_COCO = {'train': (118287, 860001), 'val': (5000, 36781)}
_COCO_CATEGORIES = 80
_COCO_SOURCE = 'https://cocodataset.org/#download has the 2017 train and val images and annotations'
_ADE20K = {'training': 20210, 'validation': 2000}
_ADE20K_CLASSES = 150
_ADE20K_SOURCE = 'ADEChallengeData2016.zip is at http://sceneparsing.csail.mit.edu'
_IMAGENET = {'train': 1281167, 'val': 50000}
_IMAGENET_CLASSES = 1000
_IMAGENET_SOURCE = 'the archives of ILSVRC 2012 are given on request at https://image-net.org/download-images'
_IMAGE_SUFFIXES = ('.jpeg', '.jpg', '.png')


@dataclass(frozen=True)
class ImageSplit:
    """What there is of one split.

    Attributes:
        name: ``'train'``, ``'val'`` or as the set has it.
        found: Its counts, that it is missing, or the first fault in it.
        faulty: Whether it is there and cannot be used.
    """

    name: str
    found: str
    faulty: bool = False

    def __str__(self) -> str:
        """One line."""
        return f'{self.name}: {"cannot be used: " if self.faulty else ""}{self.found}'


def check_coco(root: str | Path, *, check: str = 'sample') -> list[ImageSplit]:
    """Check what there is of COCO 2017.

    Args:
        root: The folder of ``annotations/``, ``train2017/`` and ``val2017/``.
        check: Which images to decode: ``'sample'`` (512), ``'all'`` or ``'none'``.

    Returns:
        What there is of each split.

    Raises:
        UserError: No split can be used.
    """
    root = _require_root(root, _COCO_SOURCE)

    def describe(split: str) -> str:
        images, objects = _COCO[split]
        ann_file = root / 'annotations' / f'instances_{split}2017.json'
        if not ann_file.is_file():
            raise _MissingError(f'{ann_file} is missing; {_COCO_SOURCE}')
        report = check_detection_data(ann_file, root / f'{split}2017', decode=check, need_masks=True)
        line = (
            f'{_of(report.images, images)} images, {_of(report.annotations, objects)} objects, '
            f'{_of(len(report.categories), _COCO_CATEGORIES)} categories; {report.decoded} images decoded'
        )
        return '; '.join([line, *report.notes])

    return _each(_COCO, describe, f'{root} holds no annotations/instances_train2017.json', _COCO_SOURCE)


def check_ade20k(root: str | Path, *, check: str = 'sample') -> list[ImageSplit]:
    """Check what there is of ADE20K's scene parsing challenge.

    Args:
        root: The folder of ``images/`` and ``annotations/``, each with ``training/`` and ``validation/``.
        check: Which pairs to decode: ``'sample'`` (512), ``'all'`` or ``'none'``.

    Returns:
        What there is of each split.

    Raises:
        UserError: No split can be used.
    """
    from .checks_seg import check_segmentation_data

    root = _require_root(root, _ADE20K_SOURCE)
    if not (root / 'images').is_dir() and (root / 'ADEChallengeData2016' / 'images').is_dir():
        root = root / 'ADEChallengeData2016'

    def describe(split: str) -> str:
        img_dir = root / 'images' / split
        if not img_dir.is_dir():
            raise _MissingError(f'{img_dir} is missing; {_ADE20K_SOURCE}')
        report = check_segmentation_data(
            img_dir, root / 'annotations' / split, classes=_ADE20K_CLASSES, reduce_zero_label=True, decode=check
        )
        line = f'{_of(report.images, _ADE20K[split])} images, each with its label map; {report.decoded} decoded'
        return '; '.join([line, *report.notes])

    return _each(_ADE20K, describe, f'{root} holds no images/training', _ADE20K_SOURCE)


def check_imagenet(root: str | Path, *, check: str = 'sample') -> list[ImageSplit]:
    """Check what there is of ImageNet-1K.

    Args:
        root: The folder of ``train/``, with a folder for each class, and ``val/``, likewise or flat with
            ``meta/val.txt``.
        check: Which images to decode: ``'sample'`` (512), ``'all'`` or ``'none'``.

    Returns:
        What there is of each split.

    Raises:
        UserError: No split can be used.
    """
    from .checks_cls import check_classification_data

    root = _require_root(root, _IMAGENET_SOURCE)

    def describe(split: str) -> str:
        folder = root / split
        if not folder.is_dir():
            raise _MissingError(f'{folder} is missing; {_IMAGENET_SOURCE}')
        ann_file = root / 'meta' / f'{split}.txt'
        has_folders = any(entry.is_dir() for entry in os.scandir(folder))
        if not ann_file.is_file() and not has_folders:
            raise UserError(
                f'the images of {folder} are in no class folders and there is no {ann_file} with lines '
                f"'FILE LABEL'; sort them into a folder for each class, or write that file"
            )
        report = check_classification_data(
            folder,
            ann_file if ann_file.is_file() else None,
            classes=_IMAGENET_CLASSES if ann_file.is_file() else None,
            suffixes=_IMAGE_SUFFIXES,
            decode=check,
        )
        line = (
            f'{_of(report.images, _IMAGENET[split])} images, {_of(report.classes, _IMAGENET_CLASSES)} classes; '
            f'{report.decoded} images decoded'
        )
        return '; '.join([line, *report.notes])

    return _each(_IMAGENET, describe, f'{root} holds no train', _IMAGENET_SOURCE)


class _MissingError(UserError):
    """A split is not there at all."""


def _each(splits: Iterable[str], describe: Callable[[str], str], nothing: str, source: str) -> list[ImageSplit]:
    """Each split; the first fault is raised only if no split can be used."""
    found, usable = [], False
    for split in splits:
        try:
            found.append(ImageSplit(split, describe(split)))
            usable = True
        except _MissingError as error:
            found.append(ImageSplit(split, str(error)))
        except UserError as error:
            found.append(ImageSplit(split, str(error), faulty=True))
    if usable:
        return found
    if fault := next((split for split in found if split.faulty), None):
        raise UserError(f'{fault.name}: {fault.found}')
    raise UserError(f'{nothing}, nor another split; {source}')


def _of(count: int, official: int) -> str:
    """The count, beside the official one where it is another."""
    return f'{count:,}' if count == official else f'{count:,} of {official:,}'


def _require_root(root: str | Path, source: str) -> Path:
    if not Path(root).is_dir():
        raise UserError(f'there is no folder {root}; name the root of the set with --root ({source})')
    return Path(root)
