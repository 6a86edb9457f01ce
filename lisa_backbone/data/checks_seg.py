"""Checks of a semantic segmentation set: pairs of image and label map."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from .checks_common import Findings, displayed_size, inspect_image, remedy, spread, strict_decoding

__all__ = ['SegmentationReport', 'check_segmentation_data']

_IGNORED = 255


@dataclass(frozen=True)
class SegmentationReport:
    """What a segmentation set holds.

    Attributes:
        img_dir: Its image folder.
        images: Images, each with a label map.
        decoded: Pairs that were decoded.
        notes: Sentences on what is odd and yet trains.
    """

    img_dir: Path
    images: int
    decoded: int
    notes: tuple[str, ...] = ()


def check_segmentation_data(
    img_dir: str | Path,
    ann_dir: str | Path | None,
    *,
    ann_file: str | Path | None = None,
    img_suffix: str = '.jpg',
    seg_map_suffix: str = '.png',
    classes: int | None = None,
    reduce_zero_label: bool = False,
    allowed: Sequence[int] = (),
    decode: str = 'sample',
) -> SegmentationReport:
    """Check a set in the layout of mmseg's ``BaseSegDataset``.

    Args:
        img_dir: Folder of the images; those in folders below it count.
        ann_dir: Folder of the label maps, named like the images; none for images alone.
        ann_file: A file with the names of the images without suffix; by default all in the folder.
        img_suffix: Suffix of the images.
        seg_map_suffix: Suffix of the label maps.
        classes: Number of classes; without it, values are not looked at.
        reduce_zero_label: Whether 0 stands for unlabelled and the classes are 1 to ``classes``.
        allowed: Further values that stand for unlabelled; 255 always does.
        decode: Which pairs to decode: ``'sample'`` (512; of the others the headers are read, for size and channels),
            ``'all'`` or ``'none'``.

    Returns:
        What the set holds.

    Raises:
        UserError: On the first problem, with the number of the others.
    """
    img_dir, ann_dir = Path(img_dir), Path(ann_dir) if ann_dir else None
    root = img_dir.parent.parent
    findings = Findings(lambda mend: remedy(root, mend))
    for folder, what in ((img_dir, 'image'), (ann_dir, 'label')):
        if folder and not folder.is_dir():
            raise UserError(f'there is no {what} folder {folder}; {remedy(root, "put it there or correct the path")}')
    names = _names(findings, img_dir, Path(ann_file) if ann_file else None, img_suffix)
    pairs = _pair(findings, img_dir, ann_dir, names, img_suffix, seg_map_suffix, whole=ann_file is None)
    chosen = spread(pairs, decode)
    values = None
    if classes is not None:
        values = {*range(classes + reduce_zero_label), _IGNORED, *allowed}
    _check_pixels(findings, chosen, values, classes, reduce_zero_label, show=decode == 'all')
    if decode == 'sample' and ann_dir:
        _check_headers(findings, sorted(set(pairs) - set(chosen)))
    return SegmentationReport(img_dir, len(pairs), len(chosen), findings.close())


def _names(findings: Findings, img_dir: Path, ann_file: Path | None, suffix: str) -> list[str]:
    """Names of the images without suffix, relative to their folder."""
    if ann_file:
        try:
            names = [line.strip() for line in ann_file.read_text(encoding='utf-8').splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'cannot read the list of images {ann_file} ({error}); mend the path') from error
        source = f'the list {ann_file} names'
    else:
        names, source = sorted(_listed(img_dir, suffix)), f'{img_dir} holds'
    if not names:
        raise UserError(
            f'{source} no image with the suffix {suffix}; {findings.remedy("correct the path or img_suffix")}'
        )
    return names


def _listed(folder: Path, suffix: str) -> set[str]:
    """Files with a suffix in a folder and those below it: relative paths without the suffix."""
    found = set()
    for path, _, names in os.walk(folder, followlinks=True):
        below = os.path.relpath(path, folder)
        for name in names:
            if name.endswith(suffix):
                found.add(os.path.normpath(os.path.join(below, name[: -len(suffix)])))
    return found


def _pair(
    findings: Findings,
    img_dir: Path,
    ann_dir: Path | None,
    names: list[str],
    img_suffix: str,
    seg_map_suffix: str,
    whole: bool,
) -> list[tuple[Path, Path | None]]:
    """The images and label maps that are there; those that lack the other are problems."""
    images = set(names) if whole else _listed(img_dir, img_suffix)
    labels = _listed(ann_dir, seg_map_suffix) if ann_dir else None
    absent = [name for name in names if name not in images]
    if absent:
        findings.problem(
            'missing',
            f'the image {img_dir / absent[0]}{img_suffix} is missing ({len(absent)} of {len(names)} are)',
            'put the images there or take them out of the list',
        )
    bare = [name for name in names if labels is not None and name not in labels]
    if bare:
        findings.problem(
            'no label',
            f'the image {img_dir / bare[0]}{img_suffix} has no label map {ann_dir / bare[0]}{seg_map_suffix} '
            f'({len(bare)} of {len(names)} have none)',
            'put the label maps there or take the images away',
        )
    lone = sorted(labels - images) if whole and labels else []
    if lone:
        findings.problem(
            'no image',
            f'the label map {ann_dir / lone[0]}{seg_map_suffix} has no image {img_dir / lone[0]}{img_suffix} '
            f'({len(lone)} of {len(labels)} have none)',
            'put the images there or take the label maps away',
        )
    there = [name for name in names if name in images and (labels is None or name in labels)]
    return [
        (img_dir / f'{name}{img_suffix}', ann_dir / f'{name}{seg_map_suffix}' if ann_dir else None) for name in there
    ]


def _check_pixels(
    findings: Findings,
    pairs: list[tuple[Path, Path | None]],
    values: set[int] | None,
    classes: int | None,
    reduce_zero_label: bool,
    show: bool,
) -> None:
    from tqdm import tqdm

    seen: set[int] = set()
    with strict_decoding(), ThreadPoolExecutor(8) as pool:
        results = tqdm(pool.map(_inspect_pair, pairs), 'decoding', len(pairs), unit='pair', disable=not show)
        for (image, label), ((fault, mend, size), problem, label_size, held) in zip(pairs, results, strict=True):
            if fault:
                findings.problem('image', fault, mend)
            _check_label(findings, image, label, problem, size, label_size)
            seen |= held
            wrong = sorted(held - values) if values is not None else []
            if wrong:
                span = f'0 (unlabelled) to {classes}' if reduce_zero_label else f'0 to {classes - 1}'
                findings.problem(
                    'range',
                    f'the label map {label} holds the value {wrong[0]}, and {classes} classes are {span}, with '
                    f'{_IGNORED} for pixels to be ignored',
                    'correct the label map, or classes and reduce_zero_label of the config',
                )
    if seen and seen <= {0, _IGNORED} and reduce_zero_label:
        findings.problem('unlabelled', 'no pixel of the label maps that were decoded has a class', 'correct them')


def _check_headers(findings: Findings, pairs: list[tuple[Path, Path]]) -> None:
    """Compare the sizes of pairs, and look at the channels of the label maps, without decoding."""
    with strict_decoding(), ThreadPoolExecutor(8) as pool:
        for (image, label), (fault, problem, size, label_size) in zip(
            pairs, pool.map(_inspect_headers, pairs), strict=True
        ):
            if fault:
                findings.problem('image', *fault)
            _check_label(findings, image, label, problem, size, label_size)


def _check_label(
    findings: Findings,
    image: Path,
    label: Path | None,
    problem: tuple[str, str, str] | None,
    size: tuple[int, int] | None,
    label_size: tuple[int, int] | None,
) -> None:
    if problem:
        findings.problem(*problem)
    elif size and label_size and size != label_size:
        findings.problem(
            'size',
            f'the label map {label} is {label_size[0]} x {label_size[1]} pixels and its image {image.name} is '
            f'{size[0]} x {size[1]}',
            'put the label map of this image there',
        )


_Size = tuple[int, int] | None


def _inspect_pair(
    pair: tuple[Path, Path | None],
) -> tuple[tuple, tuple[str, str, str] | None, _Size, set[int]]:
    """Verdict on the image; what is wrong with the label map; its (width, height) and the values in it."""
    image, label = pair
    verdict = inspect_image(image)
    if label is None:
        return verdict, None, None, set()
    fault, mend, _ = inspect_image(label)
    if fault:
        return verdict, ('label', fault.replace('image', 'label map', 1), mend), None, set()
    from PIL import Image

    with Image.open(io.BytesIO(label.read_bytes())) as opened:
        if problem := _mode_problem(label, opened.mode):
            return verdict, problem, None, set()
        pixels = np.asarray(opened)
    size = (pixels.shape[1], pixels.shape[0])
    return verdict, None, size, set(np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)).tolist())


def _inspect_headers(pair: tuple[Path, Path]) -> tuple[tuple[str, str] | None, tuple | None, _Size, _Size]:
    """What is wrong with the image and the mend; the same of the label map; the (width, height) of both."""
    from PIL import Image

    image, label = pair
    try:
        with Image.open(image) as opened:
            size = displayed_size(opened)
        with Image.open(label) as opened:
            return None, _mode_problem(label, opened.mode), size, opened.size
    except (OSError, SyntaxError, ValueError):  # as Pillow raises on broken headers; decoding finds the words
        (fault, mend, size), problem, label_size, _ = _inspect_pair(pair)
        return (fault, mend) if fault else None, problem, size, label_size


def _mode_problem(label: Path, mode: str) -> tuple[str, str, str] | None:
    """What is wrong with the kind of pixels of a label map; the framework would keep the lowest 8 bits of more."""
    from PIL import Image

    mend = 'write class numbers, as an 8-bit image of one channel'
    if (channels := Image.getmodebands(mode)) != 1:
        return 'channels', f'the label map {label} has {channels} channels (mode {mode}) and not one', mend
    if mode not in ('L', 'P'):
        return 'bits', f'the label map {label} has pixels of mode {mode} and not of 8 bits', mend
    return None
