"""What is installed here, what of it is as pinned, what was patched, and whether each task can run.

Nothing is taken for granted from a version number: operators are run on values that are known, frameworks are imported,
their registries are asked for the classes that the configs name, and the backbone is run once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from . import compat
from .errors import UserError

__all__ = ['TASKS', 'Finding', 'Report', 'examine', 'main']

REPAIR = 'run `python3 tools/bootstrap.py setup --repair`'
STACKS = {
    'onedl': {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmdet': 'onedl-mmdetection'}
    | {'mmseg': 'onedl-mmsegmentation', 'mmpretrain': 'onedl-mmpretrain', 'mmaction': 'mmaction2'},
    'openmmlab': {'mmengine': 'mmengine', 'mmcv': 'mmcv', 'mmdet': 'mmdet'}
    | {'mmseg': 'mmsegmentation', 'mmpretrain': 'mmpretrain', 'mmaction': 'mmaction2'},
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: What was looked at.
        good: Whether it is as it should be.
        detail: What was found.
        mend: What to do about it; empty where it is good.
    """

    what: str
    good: bool
    detail: str
    mend: str = ''


@dataclass
class Report:
    """What :func:`examine` found.

    Attributes:
        machine: Name and value of what the environment consists of.
        packages: The pinned packages, each with whether the installed version is the pinned one.
        patches: What became of each workaround.
        tasks: For each task examined, what it needs and whether that works.
    """

    machine: dict[str, str] = field(default_factory=dict)
    packages: list[Finding] = field(default_factory=list)
    patches: list[compat.Patch] = field(default_factory=list)
    tasks: dict[str, list[Finding]] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """Tasks that cannot run."""
        return [task for task, findings in self.tasks.items() if not all(one.good for one in findings)]

    def as_dict(self) -> dict[str, Any]:
        """Return plain containers, with ``broken`` among them, for JSON."""
        return {**asdict(self), 'broken': self.broken}

    def as_text(self) -> str:
        """Return the report for a reader."""
        lines = [f'{name:<12}{value}' for name, value in self.machine.items()]
        differing = [one for one in self.packages if not one.good]
        lines += ['', f'pinned packages: {len(self.packages) - len(differing)} of {len(self.packages)} as pinned']
        lines += [f'  {one.what}: {one.detail}; {one.mend}' for one in differing]
        lines += ['', 'workarounds']
        for patch in self.patches:
            mark = 'applied   ' if patch.applied else 'FAILED    ' if patch.needed else 'not needed'
            lines.append(f'  {mark}  {patch.name}: {patch.detail}' + (f' ({patch.thread})' if patch.needed else ''))
        lines += ['', 'tasks']
        for task, findings in self.tasks.items():
            lines.append(f'  {task:<9} {"CANNOT RUN" if task in self.broken else "can run"}')
            lines += [f'    {"ok " if one.good else "BAD"} {one.what}: {one.detail}' for one in findings]
            lines += [f'        -> {one.mend}' for one in findings if not one.good]
        return '\n'.join(lines)


# ------------------------------------------------------------------------------------------------ machine and packages


def _requirements() -> Path | None:
    """Return the folder with the pinned requirements, or ``None`` where the package lies outside a checkout."""
    folder = Path(__file__).resolve().parent.parent / 'requirements'
    return folder if folder.is_dir() else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_stack() -> str:
    """Tell which frameworks are installed: ``onedl``, ``openmmlab``, ``both`` (which spoils both) or ``none``."""
    found = [name for name, stack in STACKS.items() if _version(stack['mmengine']) or _version(stack['mmcv'])]
    return 'both' if len(found) == 2 else found[0] if found else 'none'


def _said_by(*command: str) -> str:
    """Return what a command prints, or an empty string."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ''
    return (done.stdout or done.stderr).strip()


def _machine() -> dict[str, str]:
    """Describe Python, the compilers, torch, CUDA and the stack."""
    compiler = os.environ.get('CXX') or next((one for one in ('c++', 'g++', 'clang++') if shutil.which(one)), '')
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')  # sought in the order of the set-up
    nvcc = os.path.join(home, 'bin', 'nvcc') if home else shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc'
    release = re.search(r'release (\S+),', _said_by(nvcc, '--version'))
    if torch.cuda.is_available():
        devices = ', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    else:
        devices = 'no GPU usable' + ('' if torch.version.cuda else '; this torch is a CPU build')
    return {
        'python': f'{platform.python_version()} ({sys.executable})',
        'system': f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores',
        'compiler': (_said_by(*compiler.split(), '--version').split('\n')[0] if compiler else '') or 'none on the PATH',
        'torch': f'{torch.__version__}, CUDA {torch.version.cuda or "none"}',
        'gpu': devices,
        'nvcc': release.group(1) if release else 'none',
        'stack': installed_stack(),
    }


def _packages(stack: str) -> list[Finding]:
    """Compare what is installed with what is pinned for this Python."""
    folder = _requirements()
    if folder is None:
        return []
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Finding('packaging', False, 'not installed', REPAIR)]
    findings = []
    wanted = {}
    for name in ('constraints.txt', *([f'{stack}.txt'] if stack in STACKS else [])):
        for line in (folder / name).read_text(encoding='utf-8').splitlines():
            if line and not line.startswith('#'):
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate():
                    wanted[requirement.name] = requirement
    for name, requirement in sorted(wanted.items()):
        version = _version(name)
        pin = str(requirement.specifier)[2:]
        if version is None:
            findings.append(Finding(name, False, f'not installed, {pin} is pinned', REPAIR))
            continue
        good = requirement.specifier.contains(version, prereleases=True)
        findings.append(Finding(name, good, version if good else f'{version}, {pin} is pinned', '' if good else REPAIR))
    return findings


# -------------------------------------------------------------------------------------------------------------- checks


def _try(what: str, check: Callable[[], str], mend: str = REPAIR) -> Finding:
    """Run one check; what it raises is the finding."""
    try:
        return Finding(what, True, check())
    except UserError as error:
        return Finding(what, False, str(error), mend)
    except Exception as error:  # whatever a broken installation raises is what is to be reported
        return Finding(what, False, f'{type(error).__name__}: {error}'.strip().split('\n')[0][:300], mend)


def _imports(*modules: str) -> Callable[[], str]:
    """Make a check that imports modules."""

    def check() -> str:
        for module in modules:
            importlib.import_module(module)
        return 'imported'

    return check


def _registered(scope: str, *classes: str) -> Callable[[], str]:
    """Make a check that mmengine's root registry finds classes of a framework."""

    def check() -> str:
        from mmengine.registry import MODELS

        for name in classes:
            if MODELS.get(f'{scope}.{name}') is None:
                raise UserError(f'{scope}.{name} is not registered')
        return ', '.join(classes)

    return check


def _operators(device: str) -> Callable[[], str]:
    """Make a check that mmcv's compiled operators give known values on a device."""

    def check() -> str:
        from mmcv.ops import nms, roi_align

        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], device=device)
        _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), iou_threshold=0.5)
        if kept.tolist() != [0, 2]:
            raise UserError(f'nms keeps {kept.tolist()} of three boxes instead of [0, 2]')
        # On a plane that rises by one per pixel, a bin's mean is the height at its centre.
        plane = torch.arange(8.0, device=device).expand(1, 1, 8, 8).contiguous()
        bins = roi_align(plane, torch.tensor([[0.0, 2, 2, 6, 6]], device=device), (2, 2), 1.0, 2, 'avg', True)
        if not torch.allclose(bins.flatten().cpu(), torch.tensor([2.5, 4.5, 2.5, 4.5])):
            raise UserError(f'roi_align gives {bins.flatten().tolist()} instead of [2.5, 4.5, 2.5, 4.5]')
        return f'nms and roi_align give the known values on {device}'

    return check


def _backbone() -> str:
    """Build LiSA through the registry and run it once."""
    from mmengine.registry import MODELS

    import lisa_backbone  # noqa: F401  registers it

    with torch.no_grad():
        maps = MODELS.build({'type': 'LiSA', 'arch': 'pico'}).eval()(torch.zeros(1, 3, 64, 96))
    sizes = [tuple(one.shape[-2:]) for one in maps]
    if sizes != [(16, 24), (8, 12), (4, 6), (2, 3)] or not all(one.isfinite().all() for one in maps):
        raise UserError(f'LiSA gives maps of {sizes} for an image of 64x96')
    return 'LiSA pico gives four maps at strides 4 to 32'


def _images() -> str:
    """Write and read a picture through mmcv: exactly as PNG, nearly as JPEG, and with its channels in order."""
    import mmcv
    import numpy as np

    ramp = np.arange(0, 240, 4, dtype=np.uint8)
    picture = np.stack([np.tile(ramp, (40, 1)), np.full((40, 60), 30, np.uint8), np.full((40, 60), 200, np.uint8)], -1)
    with tempfile.TemporaryDirectory() as folder:
        mmcv.imwrite(picture, f'{folder}/a.png')
        mmcv.imwrite(picture, f'{folder}/a.jpg')
        exact = mmcv.imread(f'{folder}/a.png')
        near = mmcv.imfrombytes(Path(folder, 'a.jpg').read_bytes(), channel_order='rgb')[..., ::-1]
    if not np.array_equal(exact, picture) or np.abs(near.astype(int) - picture).max() > 16:
        raise UserError('mmcv does not read back the picture that it wrote')
    return 'mmcv reads back the PNG and the JPEG that it writes'


def _one_stack() -> str:
    """Refuse an environment in which both stacks write to the same folders."""
    stack = installed_stack()
    if stack == 'both':
        raise UserError('packages of the onedl and the openmmlab stack are both installed and overwrite each other')
    if stack == 'none':
        raise UserError('neither onedl-mmengine and onedl-mmcv nor mmengine and mmcv are installed')
    return stack


def _common() -> list[Finding]:
    """Check what every task needs."""
    return [
        _try('one stack', _one_stack, 'remove the environment folder and run `python3 tools/bootstrap.py setup`'),
        _try('mmengine', _imports('mmengine.runner')),
        _try('images', _images),
        _try('backbone', _backbone),
    ]


def _detection() -> list[Finding]:
    findings = [
        _try('mmdet', _imports('mmdet.models', 'mmdet.datasets', 'mmdet.evaluation')),
        _try('models', _registered('mmdet', 'MaskRCNN', 'CascadeRCNN', 'RetinaNet')),
        _try('COCO evaluation', _imports('pycocotools.coco', 'pycocotools.mask')),
        _try('mmcv operators', _operators('cpu')),
    ]
    if torch.cuda.is_available():
        mend = f'install the CUDA {torch.version.cuda} toolkit, set CUDA_HOME to it, then {REPAIR}'
        findings.append(_try('mmcv operators on the GPU', _operators('cuda'), mend))
    return findings


def _segmentation() -> list[Finding]:
    return [
        _try('mmseg', _imports('mmseg.models', 'mmseg.datasets', 'mmseg.evaluation')),
        _try('models', _registered('mmseg', 'EncoderDecoder', 'UPerHead', 'FPNHead')),
    ]


def _action() -> list[Finding]:
    return [
        _try('mmaction', _imports('mmaction.models', 'mmaction.datasets', 'mmaction.evaluation')),
        _try('models', _registered('mmaction', 'Recognizer2D', 'Recognizer3D', 'I3DHead')),
        _try('video decoding', _imports('av')),
    ]


def _pretraining() -> list[Finding]:
    return [
        _try('mmpretrain', _imports('mmpretrain.models', 'mmpretrain.datasets', 'mmpretrain.evaluation')),
        _try('models', _registered('mmpretrain', 'ImageClassifier', 'LinearClsHead')),
    ]


TASKS: dict[str, Callable[[], list[Finding]]] = {
    'det': _detection,
    'seg': _segmentation,
    'action': _action,
    'pretrain': _pretraining,
}


def examine(tasks: list[str] | None = None) -> Report:
    """Look at the environment.

    Args:
        tasks: Keys of :data:`TASKS`; all where ``None``.

    Returns:
        What was found; never raises for what is broken.
    """
    report = Report(machine=_machine())
    report.packages = _packages(report.machine['stack'])
    try:
        report.patches = compat.apply()
        patched = Finding('workarounds', True, 'in force')
    except Exception as error:  # a framework so broken that it cannot be patched
        patched = Finding('workarounds', False, f'{type(error).__name__}: {error}', REPAIR)
    common = [patched, *_common()]
    for task in tasks or TASKS:
        report.tasks[task] = [*common, *TASKS[task]()]
    return report


def main(arguments: list[str] | None = None) -> int:
    """Print the report.

    Args:
        arguments: Command line, by default that of the process.

    Returns:
        0 where every task examined can run, otherwise 1.
    """
    parser = argparse.ArgumentParser(description='Say what is installed, what was patched and which tasks can run.')
    parser.add_argument('--task', action='append', choices=sorted(TASKS), help='examine this task alone; repeatable')
    parser.add_argument('--json', action='store_true', help='print JSON')
    options = parser.parse_args(arguments)
    with contextlib.redirect_stdout(sys.stderr):  # what frameworks print while they are imported
        report = examine(options.task)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.as_text())
    if report.broken:
        print(f'error: cannot run: {", ".join(report.broken)}; {REPAIR}, or see above', file=sys.stderr)
    return 1 if report.broken else 0
