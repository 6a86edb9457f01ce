"""What the datasets of a config name is looked at before a run, in depth for the kinds that the benchmarks use."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from .config import leaf_datasets, walk_dicts
from .errors import UserError

__all__ = ['check_data']

_HEADS = ('decode_head', 'cls_head', 'head')


def check_data(cfg: Config, loaders: Sequence[str], check_images: str = 'sample') -> list[str]:
    """Check the datasets of the given loaders: that their files exist, and what is in them.

    In depth for COCO-format detection, mmseg's ``BaseSegDataset``, mmaction2's ``VideoDataset`` and mmpretrain's
    ``CustomDataset``, and for classes derived from them; of others, that the paths exist.

    Args:
        cfg: The config.
        loaders: Names such as ``'train_dataloader'``; those the config lacks are passed over.
        check_images: Which images and videos to decode: ``'sample'``, ``'all'`` or ``'none'``.

    Returns:
        Notes on what is odd and yet trains.

    Raises:
        UserError: Something is missing or broken.
    """
    seen, notes = set(), []
    head = _head_classes(cfg)
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset')
        evaluators = cfg.get(loader.replace('dataloader', 'evaluator')) or []
        evaluators = [e for e in (evaluators if isinstance(evaluators, list | tuple) else [evaluators]) if e]
        labelled = not any(e.get('format_only') for e in evaluators if isinstance(e, dict))
        for path, leaf in leaf_datasets(dataset, f'{loader}.dataset') if isinstance(dataset, dict) else ():
            cls = _dataset_class(leaf)
            kind = None if _is_remote(leaf) else _kind(cls)
            if kind is None:
                _check_paths(path, leaf)
                continue
            check, options = kind(path, leaf, cls, head, labelled)
            if kind is _detection:
                _check_detection_heads(cfg, path, options['classes'])
            if (job := (check.__name__, *options.values())) not in seen:
                seen.add(job)
                notes += _run(path, check, check_images, options)
        for evaluator in evaluators:
            ann_file = evaluator.get('ann_file') if isinstance(evaluator, dict) else None
            if ann_file and '://' not in ann_file and not Path(ann_file).is_file():
                name = loader.replace('dataloader', 'evaluator')
                raise UserError(f'{name}.ann_file: {ann_file} does not exist; mend the path in the config')
    return notes


def _run(path: str, check: Callable, check_images: str, options: dict) -> list[str]:
    try:
        report = check(decode=check_images, **options)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    return [f'note: {note}' for note in report.notes]


# ---------------------------------------------------------------------------------------------------------------------
# kinds of datasets: each gives its check and what to check
# ---------------------------------------------------------------------------------------------------------------------
def _kind(cls: Any) -> Callable | None:
    """The function that knows the kind of a dataset class, or ``None``."""
    for base in getattr(cls, '__mro__', ()):
        for framework, name, kind in _KINDS:
            if base.__name__ == name and base.__module__.startswith(framework):
                return kind
    return None


def _detection(path: str, leaf: dict, cls: type, head: int | None, labelled: bool) -> tuple[Callable, dict]:
    from .data.checks import check_detection_data

    metainfo = {**getattr(cls, 'METAINFO', {}), **(leaf.get('metainfo') or {})}
    return check_detection_data, {
        'ann_file': _join(leaf, leaf.get('ann_file')),
        'img_dir': _join(leaf, (leaf.get('data_prefix') or {}).get('img')) or leaf.get('data_root') or '.',
        'need_masks': any(node.get('with_mask') for _, node in walk_dicts(leaf.get('pipeline'))),
        'need_annotations': labelled,
        'classes': tuple(metainfo.get('classes') or ()) or None,
    }


def _check_detection_heads(cfg: Config, path: str, classes: tuple[str, ...] | None) -> None:
    """Stop if a head has fewer classes than the data: RetinaNet would learn the next one as background."""
    for name, node in walk_dicts(cfg.get('model'), 'model'):
        found = node.get('num_classes')
        if not re.search(r'(bbox|mask)_head(\.\d+)?$', name) or type(found) is not int or node.get('class_agnostic'):
            continue
        if classes and len(classes) > found:
            raise UserError(
                f'{path} has {len(classes)} classes and {name}.num_classes={found}; set num_classes={len(classes)}'
            )


def _segmentation(path: str, leaf: dict, cls: type, head: int | None, labelled: bool) -> tuple[Callable, dict]:
    from .data.checks_seg import check_segmentation_data

    _check_paths(path, leaf)
    prefix = leaf.get('data_prefix') or {}
    needs_labels = any(node.get('type') == 'LoadAnnotations' for _, node in walk_dicts(leaf.get('pipeline')))
    labels = _join(leaf, prefix.get('seg_map_path')) if needs_labels else ''
    ann_file = _join(leaf, leaf.get('ann_file'))
    original = (getattr(cls, 'METAINFO', None) or {}).get('classes')
    chosen = (leaf.get('metainfo') or {}).get('classes') or original
    if head and chosen and len(chosen) != head:
        raise UserError(
            f'{path} has {len(chosen)} classes and model.decode_head.num_classes={head}; set num_classes={len(chosen)}'
        )
    names = original or chosen  # a choice of classes leaves the numbers in the files as they are
    return check_segmentation_data, {
        'img_dir': _join(leaf, prefix.get('img_path')) or leaf.get('data_root') or '.',
        'ann_dir': labels or None,
        'ann_file': ann_file if ann_file and Path(ann_file).is_file() else None,
        'img_suffix': _value(leaf, cls, 'img_suffix', '.jpg'),
        'seg_map_suffix': _value(leaf, cls, 'seg_map_suffix', '.png'),
        'classes': len(names) if names else head,
        'reduce_zero_label': bool(_value(leaf, cls, 'reduce_zero_label', False)),
    }


def _video(path: str, leaf: dict, cls: type, head: int | None, labelled: bool) -> tuple[Callable, dict]:
    from .data.checks_video import check_video_data

    _check_paths(path, leaf)
    steps = [node for _, node in walk_dicts(leaf.get('pipeline'))]
    return check_video_data, {
        'ann_file': _join(leaf, leaf.get('ann_file')),
        'folder': _join(leaf, (leaf.get('data_prefix') or {}).get('video')) or leaf.get('data_root') or '.',
        'delimiter': _value(leaf, cls, 'delimiter', ' '),
        'multi_class': bool(leaf.get('multi_class')),
        'need_labels': labelled,
        'classes': head,
        'span': max((_span(step) for step in steps), default=1),
        'reads_header': any(step.get('type') == 'PyAVInit' for step in steps),
    }


def _classification(path: str, leaf: dict, cls: type, head: int | None, labelled: bool) -> tuple[Callable, dict]:
    from .data.checks_cls import check_classification_data

    _check_paths(path, leaf)
    split = leaf.get('split') or ''
    prefix = leaf.get('data_prefix') or split
    prefix = prefix.get('img_path') if isinstance(prefix, dict) else prefix
    ann_file = _join(leaf, leaf.get('ann_file'))
    if split and not ann_file and Path(listed := _join(leaf, f'meta/{split}.txt')).is_file():
        ann_file = listed
    names = {**(getattr(cls, 'METAINFO', None) or {}), **(leaf.get('metainfo') or {})}.get('classes')
    suffixes = _value(leaf, cls, 'extensions', None) or getattr(cls, 'IMG_EXTENSIONS', None)
    options = {
        'img_dir': _join(leaf, prefix) or leaf.get('data_root') or '.',
        'ann_file': ann_file or None,
        'names': tuple(names) if names and not isinstance(names, str) else None,
        'classes': head,
        'with_label': labelled and leaf.get('with_label', split != 'test'),
    }
    return check_classification_data, {**options, 'suffixes': tuple(suffixes)} if suffixes else options


_KINDS = (
    ('mmdet', 'CocoDataset', _detection),
    ('mmseg', 'BaseSegDataset', _segmentation),
    ('mmaction', 'VideoDataset', _video),
    ('mmpretrain', 'CustomDataset', _classification),
)


def _span(step: dict) -> int:
    """Frames from the first to the last that a sampling transform of mmaction2 takes in one clip."""
    if step.get('type') == 'SampleFrames':
        return (step.get('clip_len', 1) - 1) * step.get('frame_interval', 1) + 1
    return step.get('clip_len', 1) if step.get('type') == 'UniformSample' else 1


def _head_classes(cfg: Config) -> int | None:
    """Number of classes of the model's head."""
    model = cfg.get('model') or {}
    for name in _HEADS:
        head = model.get(name)
        head = head[-1] if isinstance(head, list | tuple) and head else head
        if isinstance(head, dict) and isinstance(head.get('num_classes'), int):
            return head['num_classes']
    return None


def _dataset_class(leaf: dict) -> Any:
    cls = leaf.get('type')
    if isinstance(cls, str):
        with DATASETS.switch_scope_and_registry(leaf.get('_scope_')) as registry:
            cls = registry.get(cls)
    return cls


def _value(leaf: dict, cls: type, name: str, otherwise: Any) -> Any:
    """What the config says of a parameter, else the default of the class or of the first that it is derived from."""
    if name in leaf:
        return leaf[name]
    for base in cls.__mro__:
        if '__init__' in vars(base) and name in (parameters := inspect.signature(base.__init__).parameters):
            return parameters[name].default
    return otherwise


# ---------------------------------------------------------------------------------------------------------------------
# paths
# ---------------------------------------------------------------------------------------------------------------------
def _check_paths(path: str, leaf: dict) -> None:
    """Check data_root, ann_file and data_prefix as mmengine's BaseDataset joins them."""
    if _is_remote(leaf):
        return
    root = leaf.get('data_root')
    if root and not Path(root).is_dir():
        from .data.mini import remake_command

        command = remake_command(root)
        mend = f'make it with `{command}`' if command else 'put the data there'
        raise UserError(
            f'{path}.data_root: folder {root} does not exist; {mend} or name its place with '
            f'--cfg-options data_root=FOLDER'
        )
    ann_file = _join(leaf, leaf.get('ann_file'))
    if ann_file and not Path(ann_file).exists():
        raise UserError(f'{path}.ann_file: {ann_file} does not exist; mend the path in the config')
    prefix = leaf.get('data_prefix')
    for key, value in (prefix if isinstance(prefix, dict) else {}).items():
        folder = _join(leaf, value)
        if folder and isinstance(value, str) and not Path(folder).exists():
            raise UserError(f'{path}.data_prefix.{key}: {folder} does not exist; mend the path in the config')


def _join(leaf: dict, value: Any) -> str:
    if not isinstance(value, str):
        return ''
    return value if not value or os.path.isabs(value) else os.path.join(leaf.get('data_root') or '', value)


def _is_remote(leaf: dict) -> bool:
    paths = (leaf.get('data_root'), leaf.get('ann_file'))
    return bool(leaf.get('backend_args')) or any(isinstance(p, str) and '://' in p for p in paths)
