"""Mini COCO: a detection and instance segmentation set of handwritten digits in true COCO layout and JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..errors import UserError
from .digits import DIGIT_NAMES, SPLITS
from .mini import MiniParams, MiniSet, encode_jpeg
from .scenes import Rendered, Scene, draw_scene, render, scene_rng

__all__ = ['GENERATOR_VERSION', 'MINI_COCO', 'MiniCocoParams', 'annotate', 'fingerprint', 'make_mini_coco']

GENERATOR_VERSION = 1
CATEGORIES = ('digits', 'coco')
# The ids 1 to 90 of COCO that its 80 categories leave out.
_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_STAND_IN_STEP = 8  # with COCO's categories, digit d is the category of index 8 d


@dataclass(frozen=True)
class MiniCocoParams(MiniParams):
    """All that a mini COCO depends on: see :class:`~lisa_backbone.data.mini.MiniParams`.

    Attributes:
        categories: What the annotation files list: 'digits', or 'coco' for COCO's 80 categories, ten of which stand
            for the digits, so that configs for COCO run on the set.
    """

    train: int = 400
    val: int = 100
    size: int = 160
    categories: str = 'digits'

    generator: ClassVar[int] = GENERATOR_VERSION

    def record(self) -> dict:
        """As of every mini set; the usual categories go without saying, as they did before there were others."""
        record = super().record()
        if self.categories == 'digits':
            del record['categories']
        return record

    def check(self) -> None:
        """As of every mini set."""
        super().check()
        if self.categories not in CATEGORIES:
            raise UserError(f'categories must be one of {", ".join(CATEGORIES)}, not {self.categories!r}')


def _write(root: Path, params: MiniCocoParams, done: Callable[[], object]) -> None:
    (root / 'annotations').mkdir()
    categories = _categories(params.categories)
    ids = [categories[index]['id'] for index in _digit_indices(params.categories)]
    for split in SPLITS:
        folder = root / f'{split}2017'
        folder.mkdir()
        entries, annotations = [], []
        for number in range(1, params.count(split) + 1):
            scene = draw_scene(scene_rng(params.seed, split, number), (params.size,) * 2, split, params.style)
            rendered = render(scene)
            name = f'{number:012d}.jpg'
            (folder / name).write_bytes(encode_jpeg(rendered.image))
            entries.append({'id': number, 'file_name': name, 'height': params.size, 'width': params.size,
                            'license': 1})  # fmt: skip
            annotations += annotate(scene, rendered, number, len(annotations) + 1, ids)
            done()
        data = _frame(params) | {'categories': categories, 'images': entries, 'annotations': annotations}
        (root / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(data))


def _categories(which: str) -> list[dict]:
    if which == 'digits':
        return [{'id': number, 'name': name, 'supercategory': 'digit'} for number, name in enumerate(DIGIT_NAMES, 1)]
    from mmdet.datasets import CocoDataset

    ids = [number for number in range(1, 91) if number not in _UNUSED_IDS]
    names = CocoDataset.METAINFO['classes']
    return [{'id': number, 'name': name, 'supercategory': 'object'} for number, name in zip(ids, names, strict=True)]


def _digit_indices(which: str) -> range:
    """The place of each digit among the categories."""
    return range(10) if which == 'digits' else range(0, 10 * _STAND_IN_STEP, _STAND_IN_STEP)


def _frame(params: MiniCocoParams) -> dict:
    """What a COCO file holds beside its images and annotations."""
    return {
        'info': {
            'description': 'mini COCO: scenes of handwritten digits',
            'version': str(GENERATOR_VERSION),
            'contributor': 'digits: E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, via scikit-learn',
            'parameters': params.record(),
        },
        'licenses': [
            {'id': 1, 'name': 'CC BY 4.0', 'url': 'https://creativecommons.org/licenses/by/4.0/'},
        ],
    }


def annotate(
    scene: Scene, rendered: Rendered, image_id: int, first_id: int, category_ids: Sequence[int] = range(1, 11)
) -> list[dict]:
    """The COCO annotations of a rendered scene.

    Args:
        scene: The scene.
        rendered: The scene as pixels.
        image_id: Id of the image.
        first_id: Id of the first annotation.
        category_ids: The category of each digit.

    Returns:
        One annotation for each digit, back to front: its category, the visible mask as compressed RLE, its
        area in pixels and its box (x, y, width, height).
    """
    annotations = []
    for number, sprite in enumerate(scene.sprites, 1):
        rle = coco_mask.encode(np.asfortranarray(rendered.instances == number, dtype=np.uint8))
        annotations.append(
            {
                'id': first_id + number - 1,
                'image_id': image_id,
                'category_id': category_ids[sprite.label],
                'bbox': coco_mask.toBbox(rle).tolist(),
                'area': int(coco_mask.area(rle)),
                'iscrowd': 0,
                'segmentation': {'size': list(rle['size']), 'counts': rle['counts'].decode('ascii')},
            }
        )
    return annotations


def fingerprint(root: str | Path) -> str:
    """SHA-256 over the annotation files and the decoded pixels of a mini COCO: what a model gets to see.

    Args:
        root: Root of the set.

    Returns:
        The hexadecimal digest.
    """
    root, digest = Path(root), hashlib.sha256()
    for split in SPLITS:
        digest.update((root / 'annotations' / f'instances_{split}2017.json').read_bytes())
        for path in sorted((root / f'{split}2017').iterdir()):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            digest.update(path.name.encode() + image.tobytes())
    return digest.hexdigest()


MINI_COCO = MiniSet('mini COCO', 'detection and instance segmentation', MiniCocoParams, 'image', _write, fingerprint)
make_mini_coco = MINI_COCO.make
