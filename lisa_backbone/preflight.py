"""What is checked before a run creates anything: the work directory, the model, its weights, the data."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mmengine.registry
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry
from torch import nn

from .checkpoints import FitReport, check_checkpoint, check_load_from, check_pretrained, check_resumable, quiet
from .complexity import count_parameters
from .config import nearest, own_weights, walk_dicts
from .dataset_checks import check_data
from .errors import UserError
from .paths import check_folder

__all__ = [
    'Preflight',
    'build_model',
    'check_channels',
    'check_data',
    'explain_build_error',
    'preflight',
]

_IMAGE_PREPROCESSORS = ('DetDataPreprocessor', 'SegDataPreProcessor', 'ClsDataPreprocessor', 'ImgDataPreprocessor')
_NEARLY_ALL = 0.9  # of the parameters of a backbone
_LOG_LEVELS = ('CRITICAL', 'FATAL', 'ERROR', 'WARNING', 'WARN', 'INFO', 'DEBUG', 'NOTSET')  # those of logging


@dataclass
class Preflight:
    """What the checks found.

    Attributes:
        model: The model, built for the checks; its weights are not those that training starts from.
        fits: One report for each weight file.
        random_modules: Dotted paths of backbones that start at random.
        notes: What is odd about the data and yet trains.
    """

    model: nn.Module
    fits: list[FitReport] = field(default_factory=list)
    random_modules: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What to tell the user, one line for each."""
        lines = [report.line() for report in self.fits]
        lines += [
            f'TRAINING FROM RANDOM INITIALISATION: no pretrained weights given for {name} '
            f'(--cfg-options {name}.init_cfg.checkpoint=FILE)'
            for name in self.random_modules
        ]
        return lines + self.notes


def preflight(
    cfg: Config,
    mode: str,
    checkpoint: str | None = None,
    min_fit: float | None = None,
    loaders: Sequence[str] | None = None,
    check_images: str = 'sample',
) -> Preflight:
    """Check all that a run needs before it creates anything.

    Args:
        cfg: The config, complete.
        mode: ``'train'``, ``'resume'`` or ``'test'``.
        checkpoint: The file to be resumed or tested.
        min_fit: As in :mod:`lisa_backbone.checkpoints`.
        loaders: Dataloaders whose data are checked; by default those that the mode uses.
        check_images: Which images to decode: ``'sample'``, ``'all'`` or ``'none'``.

    Returns:
        What was found.

    Raises:
        UserError: Something is missing or does not fit.
    """
    if loaders is None:
        loaders = ['test_dataloader'] if mode == 'test' else ['train_dataloader', 'val_dataloader']
    check_folder(cfg.work_dir, 'work dir', '--work-dir')
    _check_values(cfg)
    _check_amp(cfg, mode)
    found = Preflight(build_model(cfg.model, cfg.get('data_preprocessor')))
    check_channels(found.model)
    if mode == 'train':
        found.fits = check_pretrained(found.model, min_fit)
        if cfg.get('load_from'):
            found.fits += check_load_from(found.model, str(cfg.load_from), min_fit)
        elif isinstance(getattr(found.model, 'backbone', None), nn.Module):
            covered = any(_covers(found.model, report.target) for report in found.fits)
            if cfg.model.get('backbone', {}).get('pretrained') is True:
                found.notes = [f'model.backbone starts from {own_weights(cfg.model.backbone)}, loaded as it is built']
            elif not covered:
                found.random_modules = ['model.backbone']
    elif mode == 'resume':
        found.fits = [check_resumable(found.model, str(checkpoint))]
    else:
        found.fits = [check_checkpoint(found.model, str(checkpoint), min_fit)]
    found.notes += check_data(cfg, loaders, check_images)
    return found


def build_model(model: dict, data_preprocessor: dict | None = None) -> nn.Module:
    """Build a model from its config, or say which key is at fault.

    Args:
        model: Config of the model.
        data_preprocessor: Top-level config of the preprocessor, where the config file keeps it there.

    Returns:
        The model, not initialised.

    Raises:
        UserError: A class or a parameter of it is unknown, or a value is refused.
    """
    cfg = model.copy()
    if data_preprocessor is not None:
        cfg.setdefault('data_preprocessor', data_preprocessor)
    try:
        with quiet():
            return MODELS.build(cfg)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        sentence = explain_build_error(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def explain_build_error(error: Exception) -> str | None:
    """Put the commonest errors of building from a config into one sentence.

    Args:
        error: What mmengine's registry raised.

    Returns:
        The sentence, or ``None`` if the error is not recognised.
    """
    text = str(error.args[0] if error.args else error)  # str() of a KeyError adds quotes
    unknown = re.search(r'(\S+) is not in the (\S+?)::([\w ]+?) registry', text)
    if unknown:
        name, scope, registry = unknown.groups()
        known = _registered(registry, scope)
        return (
            f'config: type={name!r} is not among the {registry}s of {scope}, and no module in custom_imports registers '
            f'it{nearest(name, known) or "; mend the name or the imports"}'
        )
    extra = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text)
    if extra:
        return f'config: {extra[1]} takes no parameter {extra[2]!r}; mend or remove that key'
    lacking = re.search(r'(\w+)\.__init__\(\) missing \d+ required .*?: (.*)', text)
    if lacking:
        return f'config: {lacking[1]} needs {lacking[2]}; add it'
    return None


def _check_values(cfg: Config) -> None:
    """Stop at numbers that a framework would refuse late, or with an error about something else."""
    whole = [f'train_cfg.{key}' for key in ('max_epochs', 'max_iters', 'val_interval')]
    whole += [f'{loader}_dataloader.batch_size' for loader in ('train', 'val', 'test')]
    heads = [path for path, _ in walk_dicts(cfg.model, 'model') if re.search(r'head(\.\d+)?$', path)]
    whole += [f'{path}.num_classes' for path in heads]
    for key in whole:
        value = _at(cfg, key)
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(f'config: {key}={value!r} must be a whole number above 0; mend that key')
    for key in (f'{loader}_dataloader.num_workers' for loader in ('train', 'val', 'test')):
        value = _at(cfg, key)
        if value is not None and (type(value) is not int or value < 0):
            raise UserError(f'config: {key}={value!r} must be a whole number, or 0 for none; mend that key')
    rate = _at(cfg, 'optim_wrapper.optimizer.lr')
    if rate is not None and (isinstance(rate, bool | str) or not 0 <= rate < float('inf')):
        raise UserError(f'config: optim_wrapper.optimizer.lr={rate!r} must be a number, not below 0; mend that key')
    level = cfg.get('log_level')
    if isinstance(level, str) and level not in _LOG_LEVELS:
        raise UserError(f'config: log_level={level!r} is unknown{nearest(level, _LOG_LEVELS)}')


def _covers(model: nn.Module, target: str) -> bool:
    """Whether what was loaded into a part of a model is its backbone, or nearly all of it as in a wrapper."""
    if 'model.backbone'.startswith(target):
        return True
    if not target.startswith('model.backbone.'):
        return False
    part = model.get_submodule(target.removeprefix('model.'))
    return count_parameters(part) >= _NEARLY_ALL * count_parameters(model.backbone)


def _at(cfg: Any, key: str) -> Any:
    """The value of a dotted key, or ``None`` where there is none."""
    for part in key.split('.'):
        if isinstance(cfg, list | tuple):
            cfg = cfg[int(part)]
        else:
            cfg = cfg.get(part) if isinstance(cfg, dict | Config) else None
    return cfg


def _check_amp(cfg: Config, mode: str) -> None:
    wrapper = cfg.get('optim_wrapper') or {}
    name = getattr(wrapper.get('type'), '__name__', wrapper.get('type'))
    if mode != 'test' and name == 'AmpOptimWrapper' and not _has_accelerator():
        raise UserError(
            'optim_wrapper.type=AmpOptimWrapper trains in mixed precision, which mmengine offers on a GPU only and '
            'there is none here; take a config without amp, or --rehearse to try this one'
        )


def _has_accelerator() -> bool:
    from mmengine.device import get_device

    return get_device() not in ('cpu', 'mps')


def check_channels(model: nn.Module) -> None:
    """Pass a small image of as many channels as the preprocessor has means through backbone and neck.

    Args:
        model: Any model; without an image preprocessor or a backbone it is passed over.

    Raises:
        UserError: Channels do not match.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    names = {base.__name__ for base in type(preprocessor).__mro__}
    backbone = getattr(model, 'backbone', None)
    if not names & set(_IMAGE_PREPROCESSORS) or not isinstance(backbone, nn.Module):
        return
    mean = getattr(preprocessor, 'mean', None)
    channels = mean.numel() if isinstance(mean, torch.Tensor) and mean.numel() > 1 else 3
    for image, module, name in _flow(model, torch.zeros(1, channels, 64, 64)):
        was_training = module.training
        try:
            module.eval()  # which returns nothing in some of mmpretrain's backbones
            with torch.no_grad():
                image.append(module(image[0]))
        except UserError as error:
            raise UserError(f'model.{name}: {error} (the data have {channels} channels)') from error
        except Exception as error:
            wrong = re.search(r'expected input.*? to have (\d+) channels, but got (\d+)', str(error))
            if wrong or isinstance(error, AssertionError):
                _raise_channels(model, name, image[0], wrong, channels)
            return  # not about channels: the run itself will show it
        finally:
            module.train(was_training)
        if name == 'backbone' and not isinstance(getattr(model, 'neck', None), nn.Module):
            _check_heads(model, image[1])
        if name == 'neck':
            _check_class_head(model, image[1])


def _flow(model: nn.Module, image: torch.Tensor) -> Iterator[tuple[list, nn.Module, str]]:
    state = [image]
    for name in ('backbone', 'neck'):
        module = getattr(model, name, None)
        if not isinstance(module, nn.Module):
            return
        yield state, module, name
        state = state[1:]


def _raise_channels(model: nn.Module, name: str, given: Any, wrong: re.Match | None, channels: int) -> None:
    if name == 'backbone':
        if wrong:
            raise UserError(
                f'model.backbone takes images of {wrong[1]} channels and the data have {channels}; set '
                f'model.backbone.in_channels={channels}, or mend data_preprocessor.mean and std'
            )
        return
    widths = [feature.shape[1] for feature in given] if isinstance(given, list | tuple) else []
    takes = getattr(model.neck, 'in_channels', None)
    if widths and takes is not None and list(takes if isinstance(takes, list | tuple) else [takes]) != widths:
        raise UserError(
            f'model.neck takes feature maps of {takes} channels and model.backbone gives {widths}; set '
            f'model.neck.in_channels={str(widths).replace(" ", "")}'
        )


def _check_class_head(model: nn.Module, features: Any) -> None:
    """Compare what a neck gives with what the head of a classifier takes."""
    takes = getattr(getattr(model, 'head', None), 'in_channels', None)
    last = features[-1] if isinstance(features, list | tuple) and features else features
    if not isinstance(takes, int) or not isinstance(last, torch.Tensor) or last.ndim != 2:
        return
    given = last.shape[1]
    if given != takes:
        raise UserError(f'model.head takes {takes} channels and is given {given}; set model.head.in_channels={given}')


def _check_heads(model: nn.Module, maps: Any) -> None:
    """Compare the maps of a backbone with what heads of mmseg take that have no neck before them."""
    widths = [feature.shape[1] for feature in maps] if isinstance(maps, list | tuple) else []
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        takes, index = getattr(head, 'in_channels', None), getattr(head, 'in_index', None)
        if takes is None or index is None or getattr(head, 'input_transform', None) == 'resize_concat' or not widths:
            continue
        several = isinstance(index, list | tuple)
        given = [widths[i] for i in index] if several else widths[index]
        if given != (list(takes) if several else takes):
            raise UserError(
                f'model.{name} takes feature maps of {takes} channels and model.backbone gives {given}; set '
                f'model.{name}.in_channels={str(given).replace(" ", "")}'
            )


def _registered(registry: str, scope: str) -> list[str]:
    """The classes of one of mmengine's registries, those of a framework with them."""
    names: list[str] = []
    with contextlib.suppress(Exception):
        root = next(r for r in vars(mmengine.registry).values() if isinstance(r, Registry) and r.name == registry)
        with root.switch_scope_and_registry(scope) as scoped:
            names = [*scoped._module_dict, *root._module_dict]
    return names
