"""What a training takes beyond its config: public weights, its batch on so many processes, and how many iterations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import UserError
from ..runner import total_batch

__all__ = ['batch_options', 'count_iterations', 'describe_batch', 'public_weights']

# Training images or videos, for the length of an epoch: COCO's with boxes, Kinetics' as of its list of 2019.
TRAINING_SAMPLES = {'coco': 117266, 'imagenet': 1281167, 'kinetics400': 240436, 'sthv2': 168913}
_COUNTED = ('begin', 'end', 'T_max', 'step_size', 'milestones')  # keys of a scheduler that are counts of iterations


def public_weights(cfg: Config) -> list[str]:
    """The overrides that start a backbone from the weights of its authors: the variable ``weights`` of its config.

    Args:
        cfg: The config.

    Raises:
        UserError: The config names none.
    """
    found = cfg.get('weights')
    if not found:
        raise UserError(
            f'{cfg.filename} names no weights and configs/pretrain has no config to make them; add '
            f"weights = ['KEY=VALUE'] to it, which are overrides such as model.backbone.init_cfg.checkpoint=FILE"
        )
    return list(found)


def batch_options(cfg: Config, processes: int) -> list[str]:
    """Overrides that keep a recipe sound on a number of processes for which it was not written.

    A schedule in epochs sees the same images on any number of processes: its learning rate is scaled to the total
    batch. One in iterations would see others: it accumulates gradients up to the batch of the recipe, and all that it
    counts in iterations is multiplied, since mmengine counts those that are accumulated.

    Args:
        cfg: The config.
        processes: Processes that train.

    Returns:
        ``KEY=VALUE`` pairs; none where the total batch is that of the recipe.

    Raises:
        UserError: The batch of the recipe is not known or cannot be had.
    """
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not base:
        raise UserError(f'{cfg.filename} does not say its total batch; add auto_scale_lr=dict(base_batch_size=N)')
    batch = total_batch(cfg, processes)
    if batch == base:
        return []
    if not cfg.train_cfg.get('max_iters'):
        # not --auto-scale-lr, which tools/test.py lacks: a test must have the overrides of its training
        return ['auto_scale_lr.enable=True']
    times, rest = divmod(base, batch)
    if rest or not times:
        raise UserError(
            f'{cfg.filename} trains for a number of iterations of {base} images, and {processes} processes of '
            f'{cfg.train_dataloader.batch_size} make {batch}, which is no part of it; give --gpus '
            f'{max(base // cfg.train_dataloader.batch_size, 1)}'
        )
    found = {f'train_cfg.{key}': cfg.train_cfg.get(key) for key in ('max_iters', 'val_interval')}
    for index, scheduler in enumerate(cfg.get('param_scheduler') or ()):
        if not scheduler.get('by_epoch', True):
            found |= {f'param_scheduler.{index}.{key}': scheduler.get(key) for key in _COUNTED}
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if not checkpoint.get('by_epoch', True):
        found['default_hooks.checkpoint.interval'] = checkpoint.get('interval')
    pairs = [f'{key}={_times(value, times)}' for key, value in found.items() if value and value != -1]
    return [f'optim_wrapper.accumulative_counts={times}', *pairs]


def describe_batch(cfg: Config, processes: int) -> str:
    """The total batch of a training and how it compares with that of its recipe, in words.

    Args:
        cfg: The config, with its overrides.
        processes: Processes that train.
    """
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    batch, each = total_batch(cfg, processes), cfg.train_dataloader.batch_size
    counts = int(cfg.optim_wrapper.get('accumulative_counts', 1))
    words = f'total batch {batch}' + (f', that of the recipe{_also(counts, processes, each)}' if batch == base else '')
    if base and batch != base:
        scaled = (cfg.get('auto_scale_lr') or {}).get('enable')
        words += f' where the recipe has {base}, learning rate {"scaled to it" if scaled else "as in the recipe"}'
    return words


def count_iterations(cfg: Config, processes: int) -> int:
    """Iterations of a training, as mmengine counts them: steps of one batch in each process.

    Args:
        cfg: The config, with its overrides.
        processes: Processes that train.

    Raises:
        UserError: It is counted in epochs of a length that is not known.
    """
    if cfg.train_cfg.get('max_iters'):
        return int(cfg.train_cfg.max_iters)
    samples = TRAINING_SAMPLES.get(Path(str(cfg.get('data_root', ''))).name)
    if samples is None:
        raise UserError(
            f'{cfg.filename} is counted in epochs of a length that is not known; leave --iteration-seconds out, and '
            f'see the log of a training'
        )
    # each process has its share of the samples, and fills its last batch
    return int(cfg.train_cfg.max_epochs) * math.ceil(math.ceil(samples / processes) / cfg.train_dataloader.batch_size)


def _times(value: Any, times: int) -> Any:
    """A count, or a list of them as a command line has it, multiplied."""
    if isinstance(value, list | tuple):
        return '[' + ','.join(str(one * times) for one in value) + ']'
    return value * times


def _also(counts: int, processes: int, each: int) -> str:
    """How accumulated gradients make up a batch; nothing where none are."""
    if counts == 1:
        return ''
    return (
        f': {counts} accumulated batches of {each} in each of {processes} processes, so that batch norms see '
        f'{processes * each} images at a time'
    )
