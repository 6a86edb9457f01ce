"""Checks of a data set before a run, each failure told in one sentence that names the file and the mend.

A framework meets bad data hours into a run, in a worker process, as a traceback; some of it it never reports: boxes of
categories that are not in the file are dropped, an image of another size than stated is trained on with its boxes in
the wrong place, an RLE mask that is too short is filled up from uninitialised memory.
"""

from __future__ import annotations

import gc
import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from .checks_common import Findings, inspect_image, remedy, spread, strict_decoding
from .mini import remake_command

__all__ = ['DataReport', 'check_detection_data', 'explain_image_failure']

_IMAGE_KEYS = ('id', 'file_name', 'height', 'width')
_ANNOTATION_KEYS = ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd')


@dataclass(frozen=True)
class DataReport:
    """What a detection set holds.

    Attributes:
        ann_file: Its annotation file.
        img_dir: Its image folder.
        images: Images in the annotation file, all of them present.
        annotations: Annotated objects, crowds included.
        crowds: How many of them are crowds.
        categories: Names of the categories, in the order of the file.
        decoded: Images that were decoded.
        notes: Sentences on what is odd and yet trains: images without objects, boxes that the framework skips.
    """

    ann_file: Path
    img_dir: Path
    images: int
    annotations: int
    crowds: int
    categories: tuple[str, ...]
    decoded: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line on the set, and one on each note."""
        line = (
            f'{self.ann_file}: {self.images} images, {self.annotations} objects ({self.crowds} crowds) of '
            f'{len(self.categories)} categories; {self.decoded} images decoded without fault'
        )
        return '\n'.join([line, *(f'note: {note}' for note in self.notes)])


def check_detection_data(
    ann_file: str | Path,
    img_dir: str | Path,
    *,
    decode: Literal['sample', 'all', 'none'] = 'sample',
    need_masks: bool = False,
    need_annotations: bool = True,
    classes: Sequence[str] | None = None,
) -> DataReport:
    """Check a set in COCO format.

    It reads the whole annotation file, lists the image folder once, and decodes up to 512 images, evenly spaced in the
    file, or all of them. For a set of the size of COCO train2017 that takes some twenty seconds, mostly for the JSON.

    Args:
        ann_file: The annotation file.
        img_dir: The folder that the ``file_name`` of its images is relative to.
        decode: Which images to decode and compare with their stated size, and which images' RLE masks to add up.
        need_masks: Whether every object must have a mask; if not, masks are not looked at.
        need_annotations: Whether there must be objects; False for the image lists of a test server.
        classes: The class names of the config, if it sets them; they must be the file's, in the order of the file.

    Returns:
        What the set holds.

    Raises:
        UserError: On the first problem, with the number of the others.
    """
    ann_file, img_dir = Path(ann_file), Path(img_dir)
    root = ann_file.parent.parent if ann_file.parent.name == 'annotations' else ann_file.parent
    _require_paths(ann_file, img_dir, root)
    data = _load(ann_file, root)
    images, annotations, categories = _tables(data, ann_file, need_annotations)
    findings = Findings(lambda mend: remedy(root, mend))
    _check_categories(findings, ann_file, categories, classes)
    by_id = _check_images(findings, ann_file, images)
    present = _check_presence(findings, ann_file, img_dir, images)
    _check_annotations(findings, ann_file, annotations, by_id, {c['id'] for c in categories}, need_masks)
    chosen = spread(list(compress(images, present)), decode)
    _check_pixels(findings, img_dir, chosen, ann_file, show=decode == 'all')
    if need_masks:
        _check_runs(findings, ann_file, annotations, {image['id'] for image in chosen}, by_id)
    bare = len(by_id.keys() - {annotation['image_id'] for annotation in annotations}) if not findings.problems else 0
    notes = findings.close()
    if bare and annotations:
        notes += (f'{bare} of {len(images)} images have no object',)
    crowds = sum(bool(annotation['iscrowd']) for annotation in annotations)
    names = tuple(category['name'] for category in categories)
    return DataReport(ann_file, img_dir, len(images), len(annotations), crowds, names, len(chosen), notes)


def explain_image_failure(path: str | Path) -> str:
    """Say what is wrong with an image file.

    The file is decoded to its end. Missing bytes are found, also where a decoder would fill them in and merely warn;
    bytes that were changed in the middle of a JPEG are not, for want of a checksum in the format.

    Args:
        path: The file.

    Returns:
        One sentence with the file and the mend, or an empty string if the file reads well.
    """
    path = Path(path)
    with strict_decoding():
        fault, mend, _ = inspect_image(path)
    return f'{fault}; {remedy(path.parent.parent, mend)}' if fault else ''


# ---------------------------------------------------------------------------------------------------------------------
# files
# ---------------------------------------------------------------------------------------------------------------------
def _require_paths(ann_file: Path, img_dir: Path, root: Path) -> None:
    if command := remake_command(root):
        mend = f'make it with `{command}`'
    else:
        mend = (
            'expected are images in <root>/train2017 and <root>/val2017 and annotations in '
            '<root>/annotations/instances_{train,val}2017.json, as in docs/data.md'
        )
    if not root.is_dir():
        raise UserError(f'there is no data root {root}; {mend}')
    if not ann_file.is_file():
        raise UserError(f'there is no annotation file {ann_file}; {remedy(root, mend)}')
    if not img_dir.is_dir():
        raise UserError(f'there is no image folder {img_dir}; {remedy(root, mend)}')


def _load(ann_file: Path, root: Path) -> Any:
    mend = remedy(root, 'fetch or write it again')
    try:
        text = ann_file.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it is not text'
        raise UserError(f'cannot read the annotation file {ann_file}: {reason}; {mend}') from error
    collecting = gc.isenabled()
    gc.disable()  # a large file makes millions of objects and no garbage; half the time would go in looking for it
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith('Unterminated string')
        what = 'ends too early, as if it were cut short' if cut else f'is not JSON: {error}'
        raise UserError(f'the annotation file {ann_file} {what}; {mend}') from error
    finally:
        if collecting:
            gc.enable()


def _tables(data: Any, ann_file: Path, need_annotations: bool) -> tuple[list[dict], list[dict], list[dict]]:
    """The images, annotations and categories of a COCO file, as lists of dicts."""
    names = ('images', 'annotations', 'categories')
    if not isinstance(data, dict):
        raise UserError(f'{ann_file} holds a {type(data).__name__}, not a COCO object with the keys {", ".join(names)}')
    if not need_annotations:
        data = {'annotations': [], **data}
    for name in names:
        if name not in data:
            raise UserError(f"{ann_file} has no key '{name}'; a COCO file has {', '.join(names)}")
        rows = data[name]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"'{name}' in {ann_file} is not a list of objects, as a COCO file has it")
        if not rows and (name != 'annotations' or need_annotations):
            raise UserError(f"'{name}' in {ann_file} is empty; name an annotation file that has some")
    return tuple(data[name] for name in names)


# ---------------------------------------------------------------------------------------------------------------------
# tables
# ---------------------------------------------------------------------------------------------------------------------
def _check_categories(
    findings: Findings, ann_file: Path, categories: list[dict], classes: Sequence[str] | None
) -> None:
    for category in categories:
        if not (_is_id(category.get('id')) and isinstance(category.get('name'), str)):
            raise UserError(f"a category in {ann_file} has no 'id' or no 'name': {category}; write it again with both")
    for twice in _twice(category['id'] for category in categories):
        findings.problem('category twice', f'{ann_file} has two categories of id {twice}', 'give each an id of its own')
    if classes is None:
        return
    names = [category['name'] for category in categories]
    for name in classes:
        if name not in names:
            listed = ', '.join(map(str, names[:10])) + (', ...' if len(names) > 10 else '')
            findings.problem(
                'class unknown',
                f"the config's class '{name}' is not a category of {ann_file} ({listed})",
                'correct classes in metainfo',
            )
    kept = [name for name in names if name in classes]
    if not findings.problems and kept != list(classes):
        first = next((mine for mine, theirs in zip(classes, kept, strict=False) if mine != theirs), classes[-1])
        findings.problem(
            'class order',
            f"the config's classes are not in the order of {ann_file} from '{first}' on, and labels follow the file",
            'put them in that order',
        )


def _check_images(findings: Findings, ann_file: Path, images: list[dict]) -> dict[Any, dict]:
    for image in images:
        for key in _IMAGE_KEYS:
            if key not in image:
                which = f'image {image.get("id", "(no id)")} in {ann_file}'
                raise UserError(f"{which} has no '{key}'; write it again with it")
        if not (_is_id(image['id']) and isinstance(image['file_name'], str)):
            raise UserError(
                f'an image in {ann_file} has the id {image["id"]!r} and the file_name {image["file_name"]!r}; '
                'write it again with a number and a name'
            )
        if not (_are_numbers(sides := [image['height'], image['width']]) and min(sides) > 0):
            raise UserError(
                f'image {image["id"]} in {ann_file} is {image["width"]} x {image["height"]} pixels by its entry; '
                'correct width and height'
            )
    for twice in _twice(image['id'] for image in images):
        findings.problem('image twice', f'{ann_file} has two images of id {twice}', 'give each an id of its own')
    return {image['id']: image for image in images}


def _check_presence(findings: Findings, ann_file: Path, img_dir: Path, images: list[dict]) -> list[bool]:
    """For each image, whether its file is there; each folder is listed once, which 118,000 single looks are not."""
    listed: dict[Path, set[str]] = {}
    present = []
    for image in images:
        path = img_dir / image['file_name']
        if path.parent not in listed:
            listed[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        present.append(path.name in listed[path.parent])
    if not all(present):
        first = images[present.index(False)]['file_name']
        findings.problem(
            'missing',
            f'{ann_file} names {first}, which is not in {img_dir} '
            f'({present.count(False)} of {len(images)} images are missing)',
            'put the images there or correct the image folder',
        )
    return present


def _check_annotations(
    findings: Findings,
    ann_file: Path,
    annotations: list[dict],
    images: dict[Any, dict],
    category_ids: set,
    need_masks: bool,
) -> None:
    name = str(ann_file)
    for annotation in annotations:
        where = f'annotation {annotation.get("id", "(no id)")} in {name}'
        absent = [key for key in _ANNOTATION_KEYS if key not in annotation]
        if absent:
            findings.problem(f'no {absent[0]}', f"{where} has no '{absent[0]}'", 'write it again with it')
            continue
        image = images.get(annotation['image_id']) if _is_id(annotation['image_id']) else None
        if image is None:
            findings.problem(
                'image_id',
                f'{where} refers to image_id {annotation["image_id"]!r}, which is not in the file',
                'correct the id or remove the annotation',
            )
            continue
        if not _is_id(annotation['category_id']) or annotation['category_id'] not in category_ids:
            findings.problem(
                'category_id',
                f'{where} refers to category_id {annotation["category_id"]!r}, which is not in the file',
                'correct the id or add the category',
            )
        _check_box(findings, where, annotation, image)
        if need_masks:
            _check_mask(findings, where, annotation.get('segmentation'), image)
    for twice in _twice(annotation['id'] for annotation in annotations if _is_id(annotation.get('id'))):
        sentence = f'{ann_file} has two annotations of id {twice}'
        findings.problem('annotation twice', sentence, 'give each an id of its own')


def _check_box(findings: Findings, where: str, annotation: dict, image: dict) -> None:
    box = annotation['bbox']
    if not (isinstance(box, list) and len(box) == 4 and _are_numbers(box)):
        mend = 'write it as four numbers: x, y, width, height'
        findings.problem('bbox', f'{where} has the bbox {_brief(box)}', mend)
        return
    x, y, width, height = box
    if width < 0 or height < 0:
        mend = 'write it as x, y, width, height'
        findings.problem('bbox negative', f'{where} has the bbox {box} of negative size', mend)
    elif x > image['width'] or y > image['height'] or x + width < 0 or y + height < 0:
        findings.problem(
            'bbox outside',
            f'{where} has the bbox {box}, outside its image of {image["width"]} x {image["height"]} pixels',
            'correct the box, or width and height of the image',
        )
    elif not _are_numbers([annotation['area']]):
        findings.problem('area', f'{where} has the area {_brief(annotation["area"])}', 'write the number of its pixels')
    elif width < 1 or height < 1 or annotation['area'] <= 0:
        findings.note('bbox small', f'{where} has no pixel to speak of and is skipped in training')


def _check_mask(findings: Findings, where: str, mask: Any, image: dict) -> None:
    if not mask:
        findings.problem('mask', f"{where} has no 'segmentation'", 'add it, or train a detector without masks')
    elif isinstance(mask, dict):
        size = [image['height'], image['width']]
        if not isinstance(mask.get('counts'), (list, str)) or 'size' not in mask:
            findings.problem('rle', f'{where} has an RLE mask without counts or size', 'write the mask again')
        elif mask['size'] != size:
            findings.problem(
                'rle size',
                f'{where} has an RLE mask of [height, width] {_brief(mask["size"])} and its image has {size}',
                'write the mask again at the size of the image',
            )
    elif not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        findings.problem('polygon', f'{where} has a mask that is neither RLE nor a list of polygons', 'write it again')
    elif not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask):
        findings.note('polygon short', f'{where} has no polygon of three corners or more and is ignored in training')


def _check_runs(
    findings: Findings, ann_file: Path, annotations: list[dict], image_ids: set, images: dict[Any, dict]
) -> None:
    """Whether the runs of RLE masks add up to their images; pycocotools reads on into free memory if they do not."""
    for annotation in annotations:
        mask, image_id = annotation.get('segmentation'), annotation.get('image_id')
        if not (isinstance(mask, dict) and isinstance(mask.get('counts'), (list, str))):
            continue  # said already
        if not _is_id(image_id) or image_id not in image_ids:
            continue
        image = images[image_id]
        total = _run_total(mask['counts'])
        if total != image['height'] * image['width']:
            findings.problem(
                'rle runs',
                f'annotation {annotation.get("id")} in {ann_file} has an RLE mask whose runs add up to {total} of its '
                f"image's {image['height'] * image['width']} pixels",
                'write the mask again',
            )


def _run_total(counts: list | str) -> int | None:
    """Pixels covered by RLE counts; None if they are no counts.

    Compressed counts hold five bits to a character, 48 added, the lowest first; 32 marks that more follow, and 16 in
    the last one the sign. From the fourth on, each is the difference to the one before the last.
    """
    if isinstance(counts, list):
        return sum(counts) if all(isinstance(run, int) and run >= 0 for run in counts) else None
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return sum(runs) if shift == 0 and min(runs, default=0) >= 0 else None


# ---------------------------------------------------------------------------------------------------------------------
# pixels
# ---------------------------------------------------------------------------------------------------------------------
def _check_pixels(findings: Findings, img_dir: Path, images: list[dict], ann_file: Path, show: bool) -> None:
    from tqdm import tqdm

    paths = [img_dir / image['file_name'] for image in images]
    with (
        strict_decoding(),
        ThreadPoolExecutor(8) as pool,
    ):  # the decoder lets go of Python's lock, and network disks are slow to answer
        results = tqdm(pool.map(inspect_image, paths), 'decoding', len(paths), unit='image', disable=not show)
        for image, path, (fault, mend, size) in zip(images, paths, results, strict=True):
            stated = (image['width'], image['height'])
            if fault:
                findings.problem('image', fault, mend)
            elif size != stated:
                turned = ' (turned as its EXIF tag asks, which the framework heeds)' if size == stated[::-1] else ''
                findings.problem(
                    'size',
                    f'{path} is {size[0]} x {size[1]} pixels{turned} and {ann_file} says {stated[0]} x {stated[1]}',
                    'put the image back that was annotated, or correct its entry',
                )


# ---------------------------------------------------------------------------------------------------------------------
# values
# ---------------------------------------------------------------------------------------------------------------------
def _twice(ids: Iterable) -> list:
    """The ids that come more than once, each as often as it comes again."""
    seen: set = set()
    return [one for one in ids if one in seen or seen.add(one)]


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _are_numbers(values: list) -> bool:
    """Whether all are finite numbers; a million boxes are asked, hence no loop."""
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
