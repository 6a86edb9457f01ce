"""What a weight file does to a model: read without running anything in it, and counted key by key.

The frameworks load with ``strict=False``: a file that fits nothing leaves a model at random initialisation and a
warning in the log. Here the frameworks still do the loading; a recorder counts what they filled, and a file
that fills too little stops the run with the reason.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint_to_model
from torch import Tensor, nn

from .compat import load_checkpoint
from .early_fusion import EarlyFusion
from .errors import UserError

__all__ = [
    'FitReport',
    'backbone_state_of',
    'check_checkpoint',
    'check_load_from',
    'check_pretrained',
    'check_resumable',
    'fit',
    'quiet',
    'read_checkpoint',
    'record_loading',
    'state_dict_of',
]

PRETRAINED_MIN_FIT = 0.9
_REVISE = ((r'^module\.', ''),)  # what mmengine's Runner.load_checkpoint strips
_CONTAINERS = ('model', 'model_state', 'model_ema', 'module', 'params', 'weights')


@dataclass
class FitReport:
    """How far a weight file fills a module.

    Attributes:
        source: The weight file.
        target: Dotted path of the module, ``'model'`` for the whole.
        keys: Number of tensors in the module's state, counters of batch norms aside.
        filled: How many of them the file filled.
        params: Number of scalar parameters in the module.
        params_filled: How many of them the file filled.
        missing: Keys of the module that the file did not fill.
        wrong_shape: Keys whose tensor has another shape, with the shape in the file and in the module.
        unused: Number of the file's tensors that went nowhere.
        advice: What to change, where the reason is recognised.
    """

    source: str
    target: str
    keys: int = 0
    filled: int = 0
    params: int = 0
    params_filled: int = 0
    missing: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    unused: int = 0
    advice: str = ''

    @property
    def share(self) -> float:
        """Share of the module's parameters that the file fills, 0 to 1."""
        return self.params_filled / self.params if self.params else 1.0

    def fits(self, min_fit: float) -> bool:
        """Whether the share reaches ``min_fit``; at 1.0 every key, buffers included, must be filled."""
        return self.share >= min_fit and (min_fit < 1 or self.filled == self.keys)

    def line(self) -> str:
        """The report in one line, for the log."""
        return (
            f'weights: {self.source} fills {self.filled} of {self.keys} keys ({self.share:.1%} of '
            f'{self.params / 1e6:.2f}M parameters) of {self.target}; {self.unused} of its own keys are not used'
        )

    def record(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            'source': self.source,
            'target': self.target,
            'keys': self.keys,
            'keys_filled': self.filled,
            'parameters': self.params,
            'parameters_filled': self.params_filled,
            'unused_keys': self.unused,
            'missing': self.missing[:20],
            'wrong_shape': [list(entry) for entry in self.wrong_shape[:20]],
        }

    def require(self, min_fit: float, allow: bool = True) -> None:
        """Stop if the file fills less than ``min_fit``.

        Args:
            min_fit: The least share.
            allow: Whether ``--min-fit`` can allow less.

        Raises:
            UserError: It does; the sentence counts keys and names the mend.
        """
        if self.fits(min_fit):
            return
        parts = [
            f'weight file {self.source} fills {self.filled} of the {self.keys} keys of {self.target} '
            f'({self.share:.1%} of its parameters; {min_fit:.0%} is asked for)'
        ]
        if self.wrong_shape:
            key, theirs, ours = self.wrong_shape[0]
            parts.append(
                f'{len(self.wrong_shape)} keys have another shape, such as {key}, {theirs} in the file and {ours} in '
                f'the model'
            )
        shown = [key for key in self.missing if key not in {entry[0] for entry in self.wrong_shape}]
        if shown:
            parts.append(f'{len(shown)} are not in the file, such as {shown[0]}')
        mend = self.advice or 'give weights of this very model'
        raise UserError(f'{"; ".join(parts)}: {mend}{f", or allow it with --min-fit {_below(self.share)}" * allow}')


def read_checkpoint(path: str | Path) -> Any:
    """Read a weight file with weights only: tensors and plain data, no code.

    Args:
        path: A path, or a URL or scheme that mmengine knows (``https://``, ``torchvision://``, ...).

    Returns:
        What the file holds, on the CPU.

    Raises:
        UserError: The file is missing, empty, cut off, no checkpoint, or carries anything that loading would run.
    """
    name = str(path)
    with quiet():
        if '://' not in name:
            file = Path(name).expanduser()
            if file.is_file() and file.stat().st_size == 0:
                raise UserError(f'checkpoint {name} is empty (0 bytes); fetch or save it again')
            return load_checkpoint(file)
        try:
            return CheckpointLoader.load_checkpoint(name, map_location='cpu')
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                f'checkpoint {name} cannot be fetched ({type(error).__name__}: {error}); fetch it yourself and '
                f'give its path'
            ) from error


def state_dict_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The weights in what :func:`read_checkpoint` returned, found as mmengine finds them.

    Args:
        content: What the file holds.
        path: Its name, for the message.

    Returns:
        Keys to tensors.

    Raises:
        UserError: There are no weights.
    """
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    odd = next((key for key in tensors if not isinstance(key, str)), None)
    if odd is not None:
        raise UserError(f'checkpoint {path} has tensors without names (key {odd!r}); give a file with a state_dict')
    if tensors:
        return tensors
    if isinstance(content, dict):
        for name in _CONTAINERS:
            if isinstance(content.get(name), dict) and any(isinstance(v, Tensor) for v in content[name].values()):
                raise UserError(
                    f'checkpoint {path} keeps its weights under {name!r}, where mmengine does not look: save '
                    f'dict(state_dict=checkpoint[{name!r}]) into a new file'
                )
    raise UserError(f'checkpoint {path} holds no weights ({type(content).__name__}); give a file with a state_dict')


class _Recorder:
    """What was copied into which parameter or buffer while :func:`record_loading` is active."""

    def __init__(self) -> None:
        self.filled: set[int] = set()
        self.wrong: dict[int, tuple[int, ...]] = {}

    def note(self, module: nn.Module, state: dict, prefix: str) -> None:
        """Note which tensors of a module ``state`` fills, and which it holds in another shape."""
        own = chain(module._parameters.items(), module._buffers.items())
        for name, tensor in own:
            given = state.get(prefix + name) if tensor is not None else None
            if not isinstance(given, Tensor):
                continue
            if given.shape == tensor.shape or (given.numel() == tensor.numel() == 1):
                self.filled.add(id(tensor))
            else:
                self.wrong[id(tensor)] = tuple(given.shape)


@contextlib.contextmanager
def record_loading() -> Iterator[_Recorder]:
    """Record every tensor that any loader copies into any module inside the block.

    Both ``torch.nn.Module.load_state_dict`` and mmengine's ``load_state_dict`` end in
    ``Module._load_from_state_dict``, after every hook that renames or resizes keys; there it is counted.
    """
    recorder = _Recorder()
    original = nn.Module._load_from_state_dict

    def recorded(self: nn.Module, state: dict, prefix: str, *args: Any) -> None:
        original(self, state, prefix, *args)
        recorder.note(self, state, prefix)

    nn.Module._load_from_state_dict = recorded
    try:
        yield recorder
    finally:
        nn.Module._load_from_state_dict = original


def fit(module: nn.Module, recorder: _Recorder, source: str, target: str, file_keys: int) -> FitReport:
    """Count what a recorder saw in a module.

    Args:
        module: The module.
        recorder: From :func:`record_loading`.
        source: Name of the weight file.
        target: Name of the module.
        file_keys: Number of tensors in the file.
    """
    report = FitReport(source, target)
    parameters = {id(p) for p in module.parameters()}
    for key, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or key.endswith('num_batches_tracked'):
            continue
        size = tensor.numel() if id(tensor) in parameters else 0
        report.keys += 1
        report.params += size
        if id(tensor) in recorder.filled:
            report.filled += 1
            report.params_filled += size
        else:
            report.missing.append(key)
            if id(tensor) in recorder.wrong:
                report.wrong_shape.append((key, recorder.wrong[id(tensor)], tuple(tensor.shape)))
    report.unused = max(file_keys - report.filled, 0)
    return report


def check_pretrained(model: nn.Module, min_fit: float | None = None) -> list[FitReport]:
    """Load what every ``init_cfg`` of type Pretrained names, or ``pretrained`` of a backbone of mmaction2, and count.

    Args:
        model: A model that was built and not initialised; its modules with pretrained weights are initialised.
        min_fit: Share of a module's parameters to be filled, 0.9 by default.

    Returns:
        One report for each such module.

    Raises:
        UserError: A file cannot be read or fits too little.
    """
    min_fit = PRETRAINED_MIN_FIT if min_fit is None else min_fit
    reports = []
    for name, module in model.named_modules():
        configs = getattr(module, 'init_cfg', None)
        for cfg in configs if isinstance(configs, list | tuple) else [configs]:
            if not isinstance(cfg, dict) or getattr(cfg.get('type'), '__name__', cfg.get('type')) not in (
                'Pretrained',
                'PretrainedInit',
            ):
                continue
            path, target = str(cfg.get('checkpoint')), f'model.{name}' if name else 'model'
            state = backbone_state_of(read_checkpoint(path), path)
            with record_loading() as recorder, quiet(), contextlib.suppress(AssertionError, RuntimeError, KeyError):
                module.init_weights()
            report = fit(module, recorder, path, target, len(state))
            if not report.fits(min_fit):
                around = model.get_submodule(name.rpartition('.')[0])
                wrapped = isinstance(around, EarlyFusion)  # which hands its own init_cfg on
                key = target.rpartition('.')[0] if wrapped else target
                report.advice = _advise_prefix(module, state, key, cfg.get('prefix'))
            report.require(min_fit)
            reports.append(report)
    backbone = getattr(model, 'backbone', None)
    if isinstance(getattr(backbone, 'pretrained', None), str) and not reports:
        reports.append(_check_own_loading(backbone, backbone.pretrained, min_fit))
    return reports


def _check_own_loading(backbone: nn.Module, source: str, min_fit: float) -> FitReport:
    """Count what a backbone fills that loads weights by code of its own, which passes over what does not fit."""
    try:
        with record_loading() as recorder, quiet():
            backbone.init_weights()
    except Exception as error:  # whatever that code does with a name that it does not know
        raise UserError(
            f'model.backbone.pretrained={source} cannot be loaded ({type(error).__name__}: {error}); name weights that '
            f'{type(backbone).__name__} takes'
        ) from error
    report = fit(backbone, recorder, source, 'model.backbone', 0)
    report.require(min_fit)
    return report


def check_load_from(model: nn.Module, path: str, min_fit: float | None = None) -> list[FitReport]:
    """Load a file as ``load_from`` does, and count: its backbone, where the model has one, must be filled.

    Heads may differ, as they do when a detector is fine-tuned on other classes; how much of the whole is filled is in
    the second report.

    Args:
        model: The model, changed in place.
        path: The file.
        min_fit: Share of the backbone's parameters (without a backbone, of the model's) to be filled, 0.9 by default.

    Returns:
        A report of the backbone, if there is one, and of the whole.

    Raises:
        UserError: The file cannot be read or fits too little.
    """
    content = read_checkpoint(path)
    state = state_dict_of(content, path)
    recorder = _load(model, content)
    reports = [fit(model, recorder, path, 'model', len(state))]
    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, nn.Module):
        reports.insert(0, fit(backbone, recorder, path, 'model.backbone', len(state)))
        reports[0].unused = reports[1].unused
    if not reports[0].fits(PRETRAINED_MIN_FIT if min_fit is None else min_fit):
        reports[0].advice = _advise_whole(model, state)
    reports[0].require(PRETRAINED_MIN_FIT if min_fit is None else min_fit)
    return reports


def check_checkpoint(model: nn.Module, path: str, min_fit: float | None = None) -> FitReport:
    """Load the file that a model is to be tested with, and count: all keys must be filled.

    Args:
        model: The model, changed in place.
        path: The file.
        min_fit: Share of the model's parameters that is enough; 1.0, which asks for every key, by default.

    Returns:
        The report.

    Raises:
        UserError: The file cannot be read or fits too little.
    """
    return _check_all(model, read_checkpoint(path), path, 1.0 if min_fit is None else min_fit)


def _check_all(model: nn.Module, content: Any, path: str, min_fit: float, allow: bool = True) -> FitReport:
    state = state_dict_of(content, path)
    report = fit(model, _load(model, content), path, 'model', len(state))
    if not report.fits(1.0):
        report.advice = _advise_whole(model, state)
    report.require(min_fit, allow)
    return report


def check_resumable(model: nn.Module, path: str) -> FitReport:
    """Load a file as a resumed run does: every key must be filled, and its progress and optimizer be there.

    Args:
        model: The model, changed in place.
        path: The file.

    Returns:
        The report.

    Raises:
        UserError: The file cannot be read, belongs to another model, holds weights only, or a config that would be run.
    """
    content = read_checkpoint(path)
    report = _check_all(model, content, path, 1.0, allow=False)
    lacking = [key for key in ('meta', 'optimizer', 'message_hub') if not isinstance(content.get(key), dict)]
    if lacking or 'iter' not in content['meta']:
        what = lacking[0] if lacking else 'iteration count'
        raise UserError(
            f'checkpoint {path} has no {what} and cannot be resumed; to start a new run from its weights, give it as '
            f'--cfg-options load_from={path}'
        )
    if 'config' in content['meta']:  # of mmcv 1; Runner.resume would execute it as a config file
        raise UserError(
            f'{path} was refused because resuming would run its meta.config as code; to start a new run from its '
            f'weights, give it as --cfg-options load_from={path}'
        )
    return report


def backbone_state_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """As :func:`state_dict_of`, and also from the containers that some backbones look into by themselves."""
    if isinstance(content, dict) and 'state_dict' not in content:
        for name in _CONTAINERS:
            if isinstance(content.get(name), dict):
                return {k: v for k, v in content[name].items() if isinstance(v, Tensor)}
    return state_dict_of(content, path)


def _load(model: nn.Module, content: Any) -> _Recorder:
    with record_loading() as recorder, quiet():
        _load_checkpoint_to_model(
            model.module if is_model_wrapper(model) else model, content, strict=False, revise_keys=list(_REVISE)
        )
    return recorder


def _match(state: dict[str, Tensor], shapes: dict[str, torch.Size], strip: str = '', add: str = '') -> int:
    """Number of the file's tensors that fit after a prefix is stripped and another added."""
    return sum(
        shapes.get(add + key[len(strip) :]) == tensor.shape for key, tensor in state.items() if key.startswith(strip)
    )


def _best_prefix(state: dict[str, Tensor], shapes: dict[str, torch.Size]) -> str:
    """The prefix to strip from the file's keys for the most matches, '' if none helps."""
    prefixes: Counter[str] = Counter()
    for key in state:
        parts = key.split('.')
        prefixes.update('.'.join(parts[:n]) + '.' for n in (1, 2, 3) if n < len(parts))
    scores = {prefix: _match(state, shapes, strip=prefix) for prefix, _ in prefixes.most_common(50)}
    best = max(scores, key=scores.get, default='')
    return best if scores.get(best, 0) > max(_match(state, shapes), 0.5 * len(shapes)) else ''


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {k: v.shape for k, v in module.state_dict().items() if isinstance(v, Tensor)}


def _advise_prefix(module: nn.Module, state: dict[str, Tensor], target: str, prefix: str | None) -> str:
    shapes = _shapes(module)
    best = _best_prefix(state, shapes)
    if best and best != prefix:
        return f'its keys begin with {best!r}, so set {target}.init_cfg.prefix={best!r}'
    if prefix and _match(state, shapes) > 0.5 * len(shapes):
        return f'its keys do not begin with {prefix!r}, so set {target}.init_cfg.prefix=None'
    return ''


def _advise_whole(model: nn.Module, state: dict[str, Tensor]) -> str:
    shapes = _shapes(model)
    best = _best_prefix(state, shapes)
    if best:
        return f'its keys begin with {best!r}: save them into a new file without it'
    for name, child in model.named_children():
        below = _shapes(child)
        inner = _best_prefix(state, below)
        if below and _match(state, below, strip=inner) > 0.5 * len(below) and inner != f'{name}.':
            return (
                f'these are weights of model.{name} alone: give them as model.{name}.init_cfg.checkpoint '
                f'with prefix={inner or None!r}'
            )
    return ''


def _below(share: float) -> str:
    """The share rounded down to two digits, so that it lets the file pass; below 1, which asks for buffers as well."""
    return f'{min(int(share * 100), 99) / 100:.2f}'


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the frameworks' lists of unmatched keys off the terminal while they are counted here."""
    logger = MMLogger.get_current_instance()
    levels = [(handler, handler.level) for handler in logger.handlers]
    for handler, _ in levels:
        handler.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for handler, level in levels:
            handler.setLevel(level)
