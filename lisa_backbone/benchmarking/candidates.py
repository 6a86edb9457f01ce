"""What is benchmarked: attention operators, backbones and whole models, named in one line each.

Frameworks are imported when a candidate of theirs is built; an operator needs torch alone.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import split_pairs
from ..attention import ATTENTION, build_attention
from ..attention.precision import at_autocast
from ..errors import UserError
from ..provenance import show_path
from .passes import is_out_of_memory

__all__ = ['Candidate', 'check_candidates', 'parse_pairs']

FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain', 'mmaction')
FLOOR = 'Floor'


@dataclass(frozen=True)
class Candidate:
    """One thing to benchmark.

    Attributes:
        spec: ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``. The name is that of an attention operator
            (``LiSAttention``), ``Floor`` (q, k and v read and y written once, which no operator can do without), a
            registered backbone (``LiSA``, ``mmdet.SwinTransformer``), a timm model (``timm.resnet50``) or a config
            file, whose backbone it is; options are arguments of the class, or overrides of the config.
        whole: Take the whole model of a config and not its backbone.
        dim: Channels of an operator.
        heads: Heads of an operator.
    """

    spec: str
    whole: bool = False
    dim: int = 64
    heads: int = 2

    @property
    def name(self) -> str:
        """The name without options."""
        return self.spec.partition(':')[0]

    @property
    def label(self) -> str:
        """The spec, the path of a config being that within the checkout."""
        return show_path(self.name) + self.spec[len(self.name) :] if self.name.endswith('.py') else self.spec

    @property
    def kind(self) -> str:
        """``'operator'``, ``'backbone'``, ``'model'`` (the whole of a config's) or ``'timm'``."""
        if self.name in ATTENTION or self.name == FLOOR:
            return 'operator'
        if self.name.startswith('timm.'):
            return 'timm'
        return 'model' if self.whole else 'backbone'

    def input_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of one input, without the batch: (L, C) for an operator, else (3, H, W) or (3, T, H, W).

        Args:
            shape: (H, W) or (T, H, W), in tokens for an operator and in pixels and frames otherwise.
        """
        return (prod(shape), self.dim) if self.kind == 'operator' else (3, *shape)

    def build(self, shape: Sequence[int]) -> nn.Module:
        """Build it at random, on the CPU, as a module of one tensor.

        Args:
            shape: As for :meth:`input_shape`.

        Raises:
            UserError: It cannot be built.
        """
        try:
            return self._build(shape)
        except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:  # of a framework or of torch
            if is_out_of_memory(error):  # which is a result
                raise
            said = (str(error).splitlines() or [''])[0] or type(error).__name__
            raise UserError(f'candidate {self.spec!r} cannot be built ({said}); mend its options') from error

    def _build(self, shape: Sequence[int]) -> nn.Module:
        options = parse_pairs(self.spec)
        if self.name == FLOOR:
            if options:
                raise UserError(f'{FLOOR} has no options, and {self.spec!r} gives some; leave them out')
            return _Floor()
        if self.kind == 'operator':
            return _OnGrid(build_attention({**_nested(options), 'type': self.name}, self.dim, self.heads), shape)
        from .. import compat

        compat.apply()
        if self.kind == 'timm':
            return _build_timm(self.name.removeprefix('timm.'), options)
        if self.name.endswith('.py'):
            model = _build_of_config(self.name, options, self.whole, len(shape) > 2)
        elif self.whole:
            raise UserError(f'--whole takes config files, and {self.name!r} is a class; leave it out, or name a config')
        else:
            model = _build_registered(self.name, _nested(options))
        from mmengine.model import revert_sync_batchnorm

        return revert_sync_batchnorm(model)  # which needs several GPUs


def check_candidates(candidates: Sequence[Candidate]) -> None:
    """Raise a UserError unless the candidates differ from each other and take the same kind of input."""
    for candidate in candidates:
        if sum(candidate.label == other.label for other in candidates) > 1:
            raise UserError(f'candidate {candidate.spec!r} is named twice; name each once')
    operators = [c.spec for c in candidates if c.kind == 'operator']
    others = [c.spec for c in candidates if c.kind != 'operator']
    if operators and others:
        raise UserError(
            f'{operators[0]!r} is an operator on tokens and {others[0]!r} takes images; benchmark them in runs of '
            'their own'
        )


def parse_pairs(spec: str) -> dict[str, Any]:
    """Options of ``NAME:OPTION=VALUE,OPTION=VALUE``: values are Python literals, else strings.

    Raises:
        UserError: A pair has no ``=``.
    """
    options = {}
    for pair in split_pairs(spec):
        key, _, value = pair.partition('=')
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as dicts in dicts."""
    nested: dict[str, Any] = {}
    for key, value in options.items():
        *above, last = key.split('.')
        node = nested
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return nested


# ------------------------------------------------------------------------------------------------------------- building


def _build_timm(name: str, options: dict[str, Any]) -> nn.Module:
    from ..config import nearest

    try:
        import timm
    except ImportError as error:
        raise UserError(f'timm.{name} needs timm, which is not installed; install it with pip install timm') from error
    if not timm.is_model(name):
        raise UserError(f'timm {timm.__version__} has no model {name!r}{nearest(name, timm.list_models())}')
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        raise UserError(f'timm.{name} cannot be built with {options}: {error}') from error


def _build_registered(name: str, options: dict[str, Any]) -> nn.Module:
    import lisa_backbone.backbone  # noqa: F401  (registers it)

    from ..config import nearest
    from ..preflight import build_model

    if _registered(name) is None:
        others = [f'{framework}.{name.rpartition(".")[2]}' for framework in FRAMEWORKS]
        known = [*ATTENTION, FLOOR, 'LiSA', *(other for other in others if _registered(other) is not None)]
        raise UserError(
            f'candidate {name!r} is unknown{nearest(name, known, 0.4)}; name an attention operator, a registered class '
            'such as mmdet.SwinTransformer, timm.MODEL or a config file (.py)'
        )
    return build_model({**options, 'type': name})


def _registered(name: str) -> Any:
    from mmengine.registry import MODELS

    scope, dot, cls = name.rpartition('.')
    if not dot:
        return MODELS.get(name)
    try:
        if find_spec(f'{scope}.registry') is None:
            return None
    except ImportError:
        return None
    with MODELS.switch_scope_and_registry(scope) as registry:
        return registry.get(cls) if registry.scope == scope else None  # of an unknown scope it is the root registry


def _build_of_config(path: str, options: dict[str, Any], whole: bool, is_video: bool) -> nn.Module:
    from ..config import load_config
    from ..preflight import build_model

    cfg = load_config(path, options)
    model = cfg.get('model')
    if not isinstance(model, dict):
        raise UserError(f'config {path} has no model, so there is nothing to benchmark; name one with a model')
    kind = str(getattr(model.get('type'), '__name__', model.get('type'))).rpartition('.')[2]
    if kind.startswith('Recognizer') and not is_video:
        raise UserError(f'config {path} is for videos ({kind}); add --frames')
    if whole:
        return _Whole(build_model(model, cfg.get('data_preprocessor')), kind)
    if not isinstance(model.get('backbone'), dict):
        raise UserError(f'config {path} has no model.backbone; add --whole to take its whole model')
    backbone = build_model(model.backbone)
    return _OnFrames(backbone) if kind == 'Recognizer2D' else backbone


class _OnGrid(nn.Module):
    """An operator on a fixed grid."""

    def __init__(self, operator: nn.Module, grid: Sequence[int]) -> None:
        super().__init__()
        self.operator, self.grid = operator, tuple(grid)

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x, self.grid)


class _Floor(nn.Module):
    """q, k and v read and y written once, of the shape and precision of the tokens, which are not read themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self.qkv:
            self.qkv = tuple(torch.randn_like(at_autocast(x.detach())) for _ in range(3))
        return torch.addcmul(*self.qkv)


class _OnFrames(nn.Module):
    """A backbone of images on videos (N, C, T, H, W), frames in the batch as mmaction2's Recognizer2D puts them."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Any:
        return self.backbone(x.transpose(1, 2).flatten(0, 1))


class _Whole(nn.Module):
    """A whole model in its ``tensor`` mode: all of the network, without decoding its outputs or computing losses."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == 'Recognizer2D':
            return self.model(x.transpose(1, 2), stage='head', mode='tensor')
        if self.kind.startswith('Recognizer'):
            return self.model(x.unsqueeze(1), stage='head', mode='tensor')
        if type(self.model).__module__.startswith('mmdet'):
            return self.model(x, self._samples(x), mode='tensor')
        return self.model(x, mode='tensor')

    @staticmethod
    def _samples(x: Tensor) -> list:
        """What two-stage detectors ask of each image to place their proposals."""
        from mmdet.structures import DetDataSample

        size = tuple(x.shape[2:])
        meta = dict(img_shape=size, batch_input_shape=size, pad_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        return [DetDataSample(metainfo=meta) for _ in x]
