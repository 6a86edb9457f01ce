"""mmdet's visualizer for small images: drawn at a readable size, ground truth beside prediction."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer

from .pictures import magnification

__all__ = ['UpscalingDetVisualizer']

FONT_SIZE = 16  # mmdet has 6 to 13, by the area of the box


@VISUALIZERS.register_module()
class UpscalingDetVisualizer(DetLocalVisualizer):
    """Draw images below a given size enlarged, boxes and masks with them, so that lines and labels stay readable.

    Args:
        name: Name of the instance.
        *args: As in mmdet's ``DetLocalVisualizer``.
        min_side: Images whose shorter side is below this many pixels are enlarged by the least whole factor that
            reaches it.
        **kwargs: As in mmdet's ``DetLocalVisualizer``.
    """

    def __init__(self, name: str = 'visualizer', *args: Any, min_side: int = 400, **kwargs: Any) -> None:
        super().__init__(name, *args, **kwargs)
        self.min_side = min_side

    def add_datasample(
        self, name: str, image: np.ndarray, data_sample: DetDataSample | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Draw a sample as ``DetLocalVisualizer`` does; ``image`` is (H, W, 3), RGB."""
        factor = magnification(image.shape, self.min_side)
        if factor > 1:
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            data_sample = _enlarged(data_sample, factor)
        super().add_datasample(name, image, data_sample, *args, **kwargs)

    def draw_texts(self, *args: Any, font_sizes: int | list[int] | None = None, **kwargs: Any) -> Any:
        """Write as mmdet's visualizer does, but no smaller beside small boxes than beside large ones."""
        if isinstance(font_sizes, int):
            font_sizes = max(font_sizes, FONT_SIZE)
        return super().draw_texts(*args, font_sizes=font_sizes, **kwargs)


def _enlarged(sample: DetDataSample | None, factor: int) -> DetDataSample | None:
    if sample is None:
        return None
    sample = sample.clone()  # which shares what it holds with the original
    for field in ('gt_instances', 'pred_instances'):
        instances = getattr(sample, field, None)
        if instances is None:
            continue
        instances = instances.clone()
        if 'bboxes' in instances:
            boxes = instances.bboxes
            instances.bboxes = (boxes.tensor if hasattr(boxes, 'tensor') else boxes) * factor
        if 'masks' in instances:
            instances.masks = _enlarged_masks(instances.masks, factor)
        setattr(sample, field, instances)
    return sample


def _enlarged_masks(masks: Any, factor: int) -> np.ndarray | torch.Tensor | BitmapMasks:
    if isinstance(masks, torch.Tensor):
        return masks.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    if hasattr(masks, 'to_ndarray'):
        array = masks.to_ndarray().repeat(factor, axis=-2).repeat(factor, axis=-1)
        return BitmapMasks(array, *array.shape[-2:])
    return np.asarray(masks).repeat(factor, axis=-2).repeat(factor, axis=-1)
