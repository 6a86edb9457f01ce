"""Errors of a run whose cause is recognised, told in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config

from .errors import UserError
from .preflight import check_data, explain_build_error

__all__ = ['explained']

_BROKEN = {
    'an image': r'image file is truncated|cannot identify image file|broken data stream',
    'a video': r'Invalid data found when processing input|av\.error\.|DECORDError',
}
# of the workers' batches; kernels for GPUs have a memory of that name too
_SHARED_MEMORY = r'Bus error|out of shared memory|shared memory (object|file)|insufficient shared memory'
_LABEL_ON_GPU = r'device-side assert triggered|Class values must be smaller than num_classes'


@contextmanager
def explained(cfg: Config, loader: str = 'train_dataloader', again: str = 'go on with --resume') -> Iterator[None]:
    """Turn errors of a run whose cause is recognised into a :class:`UserError`; others keep their traceback.

    Args:
        cfg: The config.
        loader: Its loader that the run takes its batches from.
        again: What to do once the cause is gone.
    """
    try:
        yield
    except UserError as error:
        worker = re.match(r'Caught UserError in .*^\S*UserError: ([^\n]*)', str(error), re.S | re.M)
        if worker is None:
            raise
        raise UserError(f'{worker[1]}; then {again}') from error  # without the worker's traceback
    except Exception as error:
        sentence = _explain(error, cfg, loader, again)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _explain(error: Exception, cfg: Config, loader: str, again: str) -> str | None:
    """The cause of an error during a run in one sentence, or ``None`` where it is not recognised."""
    text = str(error)
    batch = (cfg.get(loader) or {}).get('batch_size')
    if isinstance(error, torch.cuda.OutOfMemoryError):
        mend = 'lower it, or take a GPU with more memory'
        if loader == 'train_dataloader':
            mend = 'lower it (and add --auto-scale-lr), train with --amp, or set model.backbone.with_cp=True'
        return f'GPU memory ran out at {loader}.batch_size={batch}; {mend}'
    if re.search(_SHARED_MEMORY, text):
        return f'a data worker ran out of shared memory; enlarge /dev/shm, or set {loader}.num_workers=0'
    if isinstance(error, OSError) and error.errno == 28:
        return f'the disk of {cfg.work_dir} is full; free some space and {again}'
    head = (cfg.get('model') or {}).get('cls_head')  # that of videos, through which nothing is passed beforehand
    widths = re.search(r'mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)', text)
    if widths and isinstance(head, dict) and widths[2] == str(head.get('in_channels')):
        return f'model.cls_head takes {widths[2]} channels and is given {widths[1]}; set in_channels={widths[1]} of it'
    file = _broken_file(error, cfg) or _bad_label(error, cfg)
    if file:
        return f'{file}; then {again}'
    if isinstance(error, FileNotFoundError):
        path = error.filename or (re.findall(r"No such file or directory: '([^']+)'", text) or [None])[-1]
        if path and '/' in str(path):  # not a program that is missing
            return f'file {path} does not exist; mend the data or the path, then {again}'
    return explain_build_error(error)


def _broken_file(error: Exception, cfg: Config) -> str | None:
    """What is wrong with the image or video that an error is about, which the error itself may not name."""
    from .data.checks import explain_image_failure

    text = str(error)
    named = re.search(r'failed to load image: (\S+)', text)
    if named:
        return explain_image_failure(named[1]) or f'the image {named[1]} cannot be decoded; fetch it again'
    kind = next((kind for kind, pattern in _BROKEN.items() if re.search(pattern, text)), None)
    if kind is None:
        return None
    return _sought(cfg, f'{kind} cannot be decoded') or f'{kind} of the data cannot be decoded; fetch it again'


def _bad_label(error: Exception, cfg: Config) -> str | None:
    """Which label the head has no class for, if that is what an error of the loss is about."""
    text = str(error)
    target = re.search(r'Target (-?\d+) is out of bounds', text)
    if target is None and not re.search(_LABEL_ON_GPU, text):
        return None
    found = _sought(cfg, f'a label is out of range ({target[0]})' if target else 'a label may be out of range')
    if found or target is None:  # other faults end in an assert on the GPU as well
        return found
    return f'the label {target[1]} is no class of the head; correct num_classes of the head, or the data'


def _sought(cfg: Config, what: str) -> str | None:
    """What a check of all data finds."""
    print(f'{what}; looking for it', flush=True)
    try:
        check_data(cfg, ['train_dataloader', 'val_dataloader', 'test_dataloader'], check_images='all')
    except UserError as found:
        return str(found)
    return None
