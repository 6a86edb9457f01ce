"""Mini COCO: a detection and instance segmentation set of handwritten digits in true COCO layout and JSON.

The set is a function of its parameters: every image is drawn from a generator of its own, seeded by the set's seed,
the split and the image's number, so that order and interruptions leave no trace.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..errors import UserError
from .digits import DIGIT_NAMES, SPLITS
from .scenes import Rendered, Scene, SceneStyle, draw_scene, render, scene_rng

__all__ = ['GENERATOR_VERSION', 'MiniCocoParams', 'annotate', 'encode_image', 'fingerprint', 'make_mini_coco']

GENERATOR_VERSION = 1  # to be raised whenever the same parameters give other pixels or annotations
JPEG_QUALITY = 95
RECORD = 'mini.json'


@dataclass(frozen=True)
class MiniCocoParams:
    """All that a mini COCO depends on.

    Attributes:
        seed: Seed of the set.
        train: Images in train2017.
        val: Images in val2017.
        size: Side of the square images, in pixels.
        style: What the scenes look like.
    """

    seed: int = 0
    train: int = 400
    val: int = 100
    size: int = 160
    style: SceneStyle = field(default_factory=SceneStyle)

    def record(self) -> dict:
        """The parameters as they are written to mini.json, the generator's version included."""
        return json.loads(json.dumps({'generator': GENERATOR_VERSION, **asdict(self)}))


def make_mini_coco(out: str | Path, params: MiniCocoParams | None = None, *, overwrite: bool = False) -> dict:
    """Make a mini COCO, unless the same one is there already.

    It is written to a sibling folder and moved into place when complete; a run that is stopped leaves what was there.

    Args:
        out: Root of the set: train2017/, val2017/ and annotations/ are made in it.
        params: What to make.
        overwrite: Whether to replace a mini COCO that is there, whatever its parameters. Nothing else is ever replaced.

    Returns:
        The record in mini.json, with 'made' added: False if the set was there already.

    Raises:
        UserError: If ``out`` holds something else, or the parameters make no sense.
    """
    out, params = Path(out), params or MiniCocoParams()
    _check_params(params)
    _clear_up(out)
    standing = _standing(out)
    if standing is not None and not overwrite:
        if standing['parameters'] == params.record() and _is_whole(out, params):
            return {**standing, 'made': False}
        raise UserError(
            f'{out} holds a mini COCO that is incomplete or was made with other parameters; add --overwrite to replace '
            'it, or name another folder with --out'
        )
    with _into_place(out) as folder:
        record = _write_set(folder, params)
    return {**record, 'made': True}


def _check_params(params: MiniCocoParams) -> None:
    if params.train < 1 or params.val < 1:
        raise UserError(f'--train and --val must be at least 1, not {params.train} and {params.val}')
    if params.seed < 0:
        raise UserError(f'--seed must not be negative, and {params.seed} is')
    least = 2 * params.style.size[0]
    if params.size < least:
        raise UserError(f'--size must be at least {least:.0f} to hold digits of {params.style.size[0]:.0f} pixels')


def _standing(out: Path) -> dict | None:
    """The record of the mini set at ``out``; None if nothing is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record = json.loads((out / RECORD).read_text())
        record['parameters'], record['fingerprint'] = record['parameters'], record['fingerprint']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{out} exists and is not a mini set (no readable {RECORD} in it), so it is left alone; name another '
            'folder with --out, or move it away'
        ) from error
    return record


def _is_whole(out: Path, params: MiniCocoParams) -> bool:
    if not all((out / 'annotations' / f'instances_{split}2017.json').is_file() for split in SPLITS):
        return False
    folders = {out / 'train2017': params.train, out / 'val2017': params.val}
    return all(folder.is_dir() and len(os.listdir(folder)) == count for folder, count in folders.items())


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


def _write_set(root: Path, params: MiniCocoParams) -> dict:
    from tqdm import tqdm

    (root / 'annotations').mkdir()
    with tqdm(total=params.train + params.val, desc='mini COCO', unit='image') as bar:
        for split, count in zip(SPLITS, (params.train, params.val), strict=True):
            folder = root / f'{split}2017'
            folder.mkdir()
            entries, annotations = [], []
            for number in range(1, count + 1):
                scene = draw_scene(scene_rng(params.seed, split, number), (params.size,) * 2, split, params.style)
                rendered = render(scene)
                name = f'{number:012d}.jpg'
                (folder / name).write_bytes(encode_image(rendered.image))
                entries.append({'id': number, 'file_name': name, 'height': params.size, 'width': params.size,
                                'license': 1})  # fmt: skip
                annotations += annotate(scene, rendered, number, len(annotations) + 1)
                bar.update()
            data = _frame(params) | {'images': entries, 'annotations': annotations}
            (root / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(data))
    record = {
        'set': 'mini COCO',
        'parameters': params.record(),
        'fingerprint': fingerprint(root),
        'versions': _versions(),
    }
    (root / RECORD).write_text(json.dumps(record, indent=2) + '\n')
    return record


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
        'categories': [
            {'id': number, 'name': name, 'supercategory': 'digit'} for number, name in enumerate(DIGIT_NAMES, 1)
        ],
    }


def encode_image(image: np.ndarray) -> bytes:
    """A JPEG of an RGB image, at the quality of the set."""
    done, data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError('OpenCV could not encode a JPEG')
    return data.tobytes()


def annotate(scene: Scene, rendered: Rendered, image_id: int, first_id: int) -> list[dict]:
    """The COCO annotations of a rendered scene.

    Args:
        scene: The scene.
        rendered: The scene as pixels.
        image_id: Id of the image.
        first_id: Id of the first annotation.

    Returns:
        One annotation for each digit, back to front: category ``digit + 1``, the visible mask as compressed RLE, its
        area in pixels and its box (x, y, width, height).
    """
    annotations = []
    for number, sprite in enumerate(scene.sprites, 1):
        rle = coco_mask.encode(np.asfortranarray(rendered.instances == number, dtype=np.uint8))
        annotations.append(
            {
                'id': first_id + number - 1,
                'image_id': image_id,
                'category_id': sprite.label + 1,
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


def _versions() -> dict[str, str]:
    import scipy
    import sklearn

    return {
        'numpy': np.__version__,
        'scipy': scipy.__version__,
        'opencv': cv2.__version__,
        'scikit-learn': sklearn.__version__,
    }
