"""Pictures of predictions beside the truth: label maps, clips and images with their classes. Drawn with OpenCV."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

__all__ = ['PictureHook', 'draw_classes', 'draw_segmentation', 'magnification']

MIN_SIDE, MAX_SIDE = 256, 640  # pixels of a panel
FRAMES = 5  # panels of a clip
TOP = 3  # classes that are listed
_GAP, _LINE = 6, 26
_DARK, _RIGHT, _WRONG = (40, 40, 40), (0, 120, 40), (190, 30, 30)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def magnification(shape: Sequence[int], min_side: int) -> int:
    """The least whole factor by which the shorter side of an image (H, W) reaches ``min_side``."""
    return max(-(-min_side // min(shape[:2])), 1)


def draw_segmentation(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Draw an image, its true and its predicted labels side by side, with the names of the classes below.

    Args:
        image: (H, W, 3), uint8, RGB.
        truth: Labels (H, W); those that are no index of a class are not drawn. ``None`` where it is not known.
        prediction: Labels (H, W).
        classes: Name of each class.
        palette: RGB of each class, 0 to 255; distinct hues where it is not given.

    Returns:
        The picture, (H', W', 3), uint8, RGB.
    """
    maps = [labels for labels in (truth, prediction) if labels is not None]
    count = len(classes) if classes else int(max(labels.max() for labels in maps)) + 1
    colours = np.array(palette if palette is not None and len(palette) >= count else _hues(count), np.uint8)
    names = ['image', *(['ground truth'] if truth is not None else []), 'prediction']
    panels = [_fit(image)]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    for labels in maps:
        known = (labels >= 0) & (labels < count)
        drawn = image.copy()
        drawn[known] = _tinted(grey[known], colours[labels[known]])
        panels.append(_fit(drawn))
    shown = np.concatenate([labels[(labels >= 0) & (labels < count)] for labels in maps])
    found, areas = np.unique(shown, return_counts=True)
    seen = _tinted(np.full_like(colours, 128), colours)  # as over a part of the image that is neither dark nor bright
    legend = [(str(classes[c]) if classes else f'class {c}', seen[c]) for c in found[np.argsort(-areas)]]
    rows = [_row(panels, names)]
    return _stack([*rows, *_legend(legend, rows[0].shape[1])])


def _tinted(grey: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return (0.35 * grey + 0.65 * colours).astype(np.uint8)


def draw_classes(
    frames: Sequence[np.ndarray], truth: Sequence[int], scores: np.ndarray, classes: Sequence[str] | None = None
) -> np.ndarray:
    """Draw an image or frames of a clip in a row; below them the true class and the likeliest three.

    Args:
        frames: Images (H, W, 3), uint8, RGB, of one size.
        truth: True classes, mostly one; none where it is not known.
        scores: Score of each class.
        classes: Name of each class.

    Returns:
        The picture, (H', W', 3), uint8, RGB.
    """

    def name(label: int) -> str:
        return str(classes[label]) if classes and label < len(classes) else f'class {label}'

    lines = [(f'truth: {", ".join(map(name, truth))}', _DARK)] if len(truth) else []
    for label in np.argsort(-scores, kind='stable')[:TOP]:
        lines.append((f'{scores[label]:.2f} {name(label)}', _RIGHT if label in truth else _WRONG))
    row = _row([_fit(frame) for frame in frames])
    width = max([row.shape[1], *(_width(text) + 2 * _GAP for text, _ in lines)])
    return _stack([row, *(_text(text, colour, width) for text, colour in lines)])


@HOOKS.register_module()
class PictureHook(Hook):
    """Write a picture of every sample of a test, named after its file.

    Samples of mmseg (a label map) and of mmaction2 and mmpretrain (scores of classes) can be drawn.

    Args:
        out_dir: Folder for the pictures.
    """

    priority = 'LOW'

    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)
        self.written: set[str] = set()

    def before_test(self, runner: Runner) -> None:
        """Make the folder."""
        self.out_dir.mkdir(parents=True, exist_ok=True)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw the samples of a batch."""
        meta = getattr(runner.visualizer, 'dataset_meta', None) or {}
        for index, sample in enumerate(outputs or ()):
            picture = _draw(sample, data_batch['inputs'], index, meta)
            if picture is not None:
                path = str(self.out_dir / f'{self._name(sample)}.jpg')
                cv2.imwrite(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])

    def after_test(self, runner: Runner) -> None:
        """Say so if nothing could be drawn."""
        if not self.written:
            runner.logger.warning('no picture was drawn: the samples hold neither label maps nor scores of classes')

    def _name(self, sample: Any) -> str:
        """A name for the picture of a sample: that of its file, and a number where it was taken before."""
        source = sample.get('img_path') or sample.get('filename')
        stem = name = Path(source).stem if source else 'sample'
        number = 2
        while name in self.written:
            name, number = f'{stem}_{number}', number + 1
        self.written.add(name)
        return name


def _draw(sample: Any, inputs: Any, index: int, meta: dict) -> np.ndarray | None:
    """The picture of one sample, or ``None`` if it is of no known kind."""
    classes = meta.get('classes')
    if 'pred_sem_seg' in sample:
        truth = sample.get('gt_sem_seg')
        labels = [None if m is None else m.data.squeeze(0).cpu().numpy() for m in (truth, sample.pred_sem_seg)]
        return draw_segmentation(_read(sample.img_path), *labels, classes, meta.get('palette'))
    if 'pred_score' in sample:
        truth = sample.gt_label.flatten().tolist() if 'gt_label' in sample else []
        frames = [_read(sample.img_path)] if 'img_path' in sample else _frames(inputs[index])
        return draw_classes(frames, truth, sample.pred_score.flatten().cpu().numpy(), classes)
    return None


def _read(path: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(get(path), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _frames(views: Any) -> list[np.ndarray]:
    """A few frames, evenly spaced, of the middle view of (views, C, T, H, W), or of Recognizer2D's (T, C, H, W)."""
    clip = views[len(views) // 2].transpose(0, 1) if views.dim() == 5 else views
    picked = np.linspace(0, len(clip) - 1, min(FRAMES, len(clip))).round().astype(int)
    return [clip[i].permute(1, 2, 0).cpu().numpy().astype(np.uint8) for i in picked]


def _hues(count: int) -> list[list[int]]:
    """So many colours, evenly spaced in hue, neighbours of different lightness."""
    return [[int(255 * v) for v in colorsys.hsv_to_rgb(i / count, 0.8, (1.0, 0.65)[i % 2])] for i in range(count)]


def _fit(image: np.ndarray) -> np.ndarray:
    """Enlarge a small image by a whole factor, or shrink a large one, to a size that can be seen."""
    factor: float = magnification(image.shape, MIN_SIDE)
    if factor == 1:
        factor = min(MAX_SIDE / max(image.shape[:2]), 1)
    if factor == 1:
        return image
    how = cv2.INTER_NEAREST if factor > 1 else cv2.INTER_AREA
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)


def _row(panels: Sequence[np.ndarray], names: Sequence[str] = ()) -> np.ndarray:
    """Panels beside each other, their names above."""
    parts = []
    for index, panel in enumerate(panels):
        if index:
            parts.append(np.full((panel.shape[0], _GAP, 3), 255, np.uint8))
        parts.append(panel)
    row = np.concatenate(parts, axis=1)
    if not names:
        return row
    head = np.full((_LINE, row.shape[1], 3), 255, np.uint8)
    for index, name in enumerate(names):
        _write(head, name, index * (panels[0].shape[1] + _GAP) + _GAP, _DARK)
    return np.concatenate([head, row])


def _legend(entries: Sequence[tuple[str, np.ndarray]], width: int) -> list[np.ndarray]:
    """Lines of coloured squares with names, as many as are needed."""
    lines: list[np.ndarray] = []
    at = width
    for name, colour in entries:
        needed = _LINE + _width(name) + 2 * _GAP
        if at + needed > width:
            lines.append(np.full((_LINE, max(width, needed + _GAP), 3), 255, np.uint8))
            at = _GAP
        cv2.rectangle(lines[-1], (at, 5), (at + 16, 21), [int(v) for v in colour], -1)
        _write(lines[-1], name, at + 22, _DARK)
        at += needed
    return lines


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows below each other, filled up with white."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _text(text: str, colour: tuple[int, int, int], width: int) -> np.ndarray:
    line = np.full((_LINE, width, 3), 255, np.uint8)
    _write(line, text, _GAP, colour)
    return line


def _write(canvas: np.ndarray, text: str, x: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(canvas, text, (x, 19), _FONT, 0.55, colour, 1, cv2.LINE_AA)


def _width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, 0.55, 1)[0][0]
