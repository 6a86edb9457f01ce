"""Where a result comes from: code, config, weights, data, test protocol, cost and machine of a run."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner.checkpoint import get_external_models, get_mmcls_models, get_torchvision_models
from torch import nn

from .complexity import count_macs
from .config import config_digest, leaf_datasets, load_config, own_weights, walk_dicts

__all__ = [
    'LOCAL_OPTIONS',
    'code_state',
    'commit_words',
    'config_of',
    'count_backbone_macs',
    'data_of',
    'dated',
    'file_digest',
    'initial_weights',
    'machine_of',
    'nominal_input',
    'peak_mib',
    'protocol_of',
    'show_path',
    'weights_digest',
]

# Where things lie on one machine; what lies there is recorded by its digest.
LOCAL_OPTIONS = ('data_root', 'work_dir', 'load_from', 'model.backbone.init_cfg.checkpoint')
# What git need not know of to be run: an operator is registered by the folder that it lies in.
_RUN = ('lisa_backbone/*.py', 'configs/*.py', 'tools/*.py')


def dated() -> dict[str, str]:
    """The last columns of a row that is measured here and now: ``date``, and ``commit`` with a word of any changes."""
    return {'date': date.today().isoformat(), 'commit': commit_words(code_state())}


def commit_words(code: dict[str, Any]) -> str:
    """What :func:`code_state` gives, in short; before it the code of earlier parts, where a record has them."""
    parts = [*code.get('earlier', ()), code]
    return ' then '.join(part['commit'][:10] + ('+changes' if part['dirty'] else '') for part in parts)


@cache
def code_state() -> dict[str, Any]:
    """Commit of the checkout that this package lies in, and whether files of it were changed since.

    Python files of the package, the configs and the tools that were never added to git count as changes.

    Returns:
        ``{'commit': 40 hex digits or 'unknown', 'dirty': bool}``; unknown where it was installed without a checkout,
        even if that is inside another project's.
    """
    root = Path(__file__).resolve().parent.parent
    try:
        top, commit, state, unknown = (
            subprocess.run(['git', '-C', root, *words], capture_output=True, text=True, check=True, timeout=60).stdout
            for words in (
                ('rev-parse', '--show-toplevel'),
                ('rev-parse', 'HEAD'),
                ('status', '--porcelain', '--untracked-files=no', '.'),
                ('ls-files', '--others', '--exclude-standard', '--', *_RUN),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return {'commit': 'unknown', 'dirty': False}
    if Path(top.rstrip('\n')).resolve() != root:
        return {'commit': 'unknown', 'dirty': False}
    # Results that a sweep has just written do not change what is run.
    changed = [line for line in state.splitlines() if not line[3:].startswith(('results/', 'docs/'))]
    return {'commit': commit.strip(), 'dirty': bool(changed or unknown)}


def config_of(path: str, options: dict[str, Any] | None) -> dict[str, Any]:
    """A config as a record names it.

    Args:
        path: The config file.
        options: Overrides; those that only say where things lie are left out.

    Returns:
        File, digest of all that it says, bases and overrides included, and the overrides.
    """
    kept = {key: value for key, value in (options or {}).items() if key not in LOCAL_OPTIONS}
    return {
        'file': show_path(path),
        'digest': config_digest(load_config(path), kept),
        'overrides': [f'{key}={value}' for key, value in kept.items()],
    }


def show_path(path: str | os.PathLike) -> str:
    """A path for a record: relative to the checkout or to the current folder, else the name of the file alone."""
    path = Path(path).resolve()
    for root in (Path(__file__).resolve().parent.parent, Path.cwd()):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name


def file_digest(path: str | os.PathLike) -> dict[str, str]:
    """Name and SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(2**20):
            digest.update(part)
    return {'file': show_path(path), 'sha256': digest.hexdigest()}


def weights_digest(name: str) -> dict[str, str | None]:
    """A weight file as a record names it, with its SHA-256.

    Of a URL, or a name that mmengine has a URL for, it is that of the file in torch's cache, so that this is to be
    called once it was fetched; ``None`` where the file is not known, as of weights that timm fetches by itself.

    Args:
        name: Its path, or whatever else names it.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return file_digest(path)
    fetched = _fetched(name)
    return {'file': name, 'sha256': fetched and file_digest(fetched)['sha256']}


def initial_weights(cfg: Config, load_from: str | None = None) -> list[dict[str, str | None]]:
    """The files that a training starts from, as :func:`weights_digest` gives each.

    Args:
        cfg: The config, complete.
        load_from: Weights of the whole model that it starts from, unless it goes on from a checkpoint.
    """
    nodes = [node for _, node in walk_dicts(cfg.get('model', {}), 'model')]
    inits = [node.get('init_cfg') for node in nodes]
    named = [init.get('checkpoint') for init in inits if isinstance(init, dict) and init.get('type') == 'Pretrained']
    named += [own_weights(node) for node in nodes]
    return [weights_digest(name) for name in dict.fromkeys(str(name) for name in [*named, load_from] if name)]


def _fetched(name: str) -> Path | None:
    """The file that torch keeps of a URL, or of a name that mmengine has a URL for."""
    scheme, _, rest = name.partition('://')
    models = {
        'torchvision': get_torchvision_models,
        'modelzoo': get_torchvision_models,
        'open-mmlab': get_external_models,
        'openmmlab': get_external_models,
        'mmcls': get_mmcls_models,
    }
    url = name if scheme in ('http', 'https') else models[scheme]().get(rest) if scheme in models else None
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name) if url else None
    return path if path and path.is_file() else None


def data_of(cfg: Config, mode: str = 'test') -> dict[str, str]:
    """Name and fingerprint of the data that are tested on, or trained on.

    A mini set has both in its record, and is looked through for changes since. Of any other set, the fingerprint is the
    SHA-256 of the annotation files or lists; where there are none, of the names of the files in its folders, for a test
    with their sizes; where it names no folders either, of its settings.

    Args:
        cfg: The config, complete.
        mode: ``'test'`` or ``'train'``.

    Raises:
        UserError: A mini set is not what was made.
    """
    from .data.mini import RECORD
    from .data.mini_sets import standing_record

    digest, name, key = hashlib.sha256(), '', f'{mode}_dataloader'
    for _, leaf in leaf_datasets(cfg[key].dataset, f'{key}.dataset'):
        root = Path(leaf.get('data_root') or '.')
        if (root / RECORD).is_file():
            record = standing_record(root)
            return {'name': record['set'], 'fingerprint': record['fingerprint']}
        name = name or (root.name if leaf.get('data_root') else str(leaf.get('type')))
        for line in _listing(root, leaf, sizes=mode == 'test'):
            digest.update(line)
    return {'name': name, 'fingerprint': digest.hexdigest()}


def _listing(root: Path, leaf: dict, sizes: bool) -> Iterator[bytes]:
    if not any(leaf.get(key) for key in ('data_root', 'data_prefix', 'ann_file', 'split')):
        yield repr(sorted((key, str(value)) for key, value in leaf.items() if key != 'pipeline')).encode()
        return
    split = leaf.get('split')  # mmpretrain's ImageNet finds folder and list by it
    annotations = root / str(leaf.get('ann_file') or (f'meta/{split}.txt' if split else ''))
    if annotations.is_file():
        yield annotations.read_bytes()
        return
    prefix = leaf.get('data_prefix') or split or ''
    for value in sorted(map(str, prefix.values() if isinstance(prefix, dict) else [prefix])):
        folder = root / value
        base = root if folder.is_relative_to(root) else folder  # a prefix may be absolute, and lie anywhere
        for path in sorted(folder.rglob('*')):
            if path.is_file():
                yield f'{path.relative_to(base)}{f" {path.stat().st_size}" if sizes else ""}\n'.encode()


def protocol_of(cfg: Config, tta: bool = False) -> dict[str, Any]:
    """How a config tests, in words and numbers.

    Args:
        cfg: The config, complete.
        tta: Whether predictions are averaged over flips and scales, as the ``tta_pipeline`` says.

    Returns:
        ``input`` (height x width that images are scaled to, or crops have), for clips ``frames``, ``views`` and
        ``crops``, for segmentation ``mode``; ``scales`` and ``flip``.
    """
    steps = _steps(cfg, tta)
    sampling = steps.get('SampleFrames') or steps.get('UniformSample')
    found: dict[str, Any] = {'input': 'x'.join(map(str, nominal_input(cfg)[-2:]))}
    if sampling:
        found['frames'] = sampling.get('clip_len', 1)
        if 'frame_interval' in sampling:
            found['frame interval'] = sampling['frame_interval']
        found['views'] = sampling.get('num_clips', 1)
        found['crops'] = {'ThreeCrop': 3, 'TenCrop': 10}.get(
            next((n for n in steps if n in ('ThreeCrop', 'TenCrop')), ''), 1
        )
    mode = (cfg.model.get('test_cfg') or {}).get('mode')  # 'whole' or 'slide'
    if mode:
        found['mode'] = mode
    transforms = (steps.get('TestTimeAug') or {}).get('transforms') or []
    resizes = [step for group in transforms for step in group if step.get('type') in ('Resize', 'ShortestEdge')]
    found['scales'] = max(len(resizes), 1)
    found['flip'] = any(step.get('prob') for group in transforms for step in group if 'Flip' in str(step.get('type')))
    return found


def nominal_input(cfg: Config) -> tuple[int, ...]:
    """What the backbone takes of one image or one view of a clip at test, as tables of costs state it.

    That is (1, 3, H, W), (1, 3, T, H, W), or (T, 3, H, W) where frames go through a backbone of images.

    Where images keep their aspect: 1280 x 800 for detection at a short side of 800, so 1.6 to 1; else the whole scale,
    512 x 2048 for ADE20K.

    Args:
        cfg: The config, complete.
    """
    steps = _steps(cfg)
    scale: Any = 224
    for name in ('Resize', 'ResizeEdge', 'CenterCrop', 'ThreeCrop', 'TenCrop'):  # a later crop decides
        step = steps.get(name) or {}
        scale = step.get('crop_size', step.get('scale', scale))
    while isinstance(scale, list | tuple) and scale and isinstance(scale[0], list | tuple):
        scale = scale[0]  # of several scales, the first
    given = scale if isinstance(scale, list | tuple) else (scale, scale)
    sides = [int(side) for side in given if isinstance(side, int | float) and 0 < side < math.inf] or [224]
    short, long = min(sides), max(sides)
    if short != long and cfg.get('default_scope') == 'mmdet':
        long = round(1.6 * short)
    sampling = steps.get('SampleFrames') or steps.get('UniformSample')
    frames = int(sampling.get('clip_len', 1)) if sampling else 1
    if steps.get('FormatShape', {}).get('input_format') == 'NCTHW':
        return 1, 3, frames, short, long
    return frames, 3, short, long


def _steps(cfg: Config, tta: bool = False) -> dict[str, dict]:
    """The steps of the test pipeline by their types."""
    _, leaf = next(iter(leaf_datasets(cfg.test_dataloader.dataset, '')))
    pipeline = cfg.tta_pipeline if tta else leaf.get('pipeline') or []
    return {str(step.get('type')).rpartition('.')[2]: step for step in pipeline}


def count_backbone_macs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """MACs of a model's backbone for one input.

    Args:
        model: A model with a ``backbone``; it is left as it was.
        shape: The input, as :func:`nominal_input` gives it.

    Returns:
        The MACs and the shape, or ``None`` where there is no backbone or it does not take such an input.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        return None
    try:
        return {'value': count_macs(backbone, shape), 'input': list(shape)}
    except (RuntimeError, TypeError, ValueError) as error:
        print(f'MACs of the backbone for an input of {shape} are not counted: {error}', flush=True)
        return None


def peak_mib() -> float:
    """Most memory of this process so far, in MiB: allocated by torch on a GPU, else resident."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 1 if sys.platform == 'darwin' else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def machine_of() -> dict[str, Any]:
    """The device, and how many processes and processor threads of each were at work."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f'{platform.machine()}, {os.cpu_count()} cores'
    return {'device': device, 'processes': get_world_size(), 'threads': torch.get_num_threads()}
