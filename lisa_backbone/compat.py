"""Every workaround of a framework's fault, each with its upstream thread, and safe loading of checkpoints.

:func:`apply` is called first by every command line. Each workaround looks whether its fault is there, and leaves the
framework alone where it is not; nothing is written to an installed package. No framework is needed to import this
module, and one that is absent is passed over.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import importlib.util
import os
import pickle
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .errors import UserError

__all__ = ['Patch', 'apply', 'load_checkpoint', 'refusal', 'safe_globals']


@dataclass(frozen=True)
class Patch:
    """What became of one workaround.

    Attributes:
        name: What it is about.
        needed: Whether the fault is there with what is installed.
        applied: Whether the workaround is in force.
        thread: The upstream thread that tells of the fault.
        detail: What was found, or done.
    """

    name: str
    needed: bool
    applied: bool
    thread: str
    detail: str


def apply() -> list[Patch]:
    """Put every workaround in force that is needed here; calling it again changes nothing.

    Must run before ``torchvision``, ``mmdet``, ``mmseg`` or ``mmaction`` is imported.

    Returns:
        One entry for each workaround, needed or not.
    """
    return [
        _weights_only(),
        _mmengine_loader(),
        _pkg_resources(),
        _config_scopes(),
        _torchvision_schemas(),
        *(_version_assertion(name, thread) for name, thread in _ASSERTING.items()),
        _mmaction_drn(),
    ]


def _installed(module: str) -> bool:
    """Tell whether a top-level module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # hidden, or in sys.modules without a spec
        return module in sys.modules


# ---------------------------------------------------------------------------------------------- loading of checkpoints

WEIGHTS_ONLY_THREAD = 'https://github.com/open-mmlab/mmengine/issues/1655'
_STATISTICS = ('current', 'max', 'mean', 'min')


def _history_method(owner: Any, name: str) -> Callable:
    """Stand for ``getattr`` in a checkpoint, giving nothing but the four statistics of mmengine's history buffer.

    Checkpoints written by early mmengine hold them as bound names. The real ``getattr`` would let a file reach from any
    allowed class to the functions of its module.
    """
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f'Unsupported global: GLOBAL builtins.getattr on {owner!r} was not an allowed global'
        )
    return getattr(owner, name)


def safe_globals() -> list:
    """List what a checkpoint may name beside tensors and plain containers: data types alone, no function that acts.

    NumPy's arrays and scalars of numbers (under the module names of NumPy 1 and 2), mmengine's history buffer where
    mmengine is installed, and ``argparse.Namespace``, in which DeiT and its followers keep the arguments of training.

    Returns:
        Entries as :func:`torch.serialization.add_safe_globals` takes them.
    """
    import numpy as np

    core = importlib.import_module('numpy._core.multiarray' if hasattr(np, '_core') else 'numpy.core.multiarray')
    entries: list[Any] = [np.ndarray, np.dtype, argparse.Namespace]
    entries += sorted({type(np.dtype(code)) for code in '?bBhHiIlLqQefdgFDGU'}, key=repr)
    for package in ('numpy.core', 'numpy._core'):
        entries += [(getattr(core, name), f'{package}.multiarray.{name}') for name in ('_reconstruct', 'scalar')]
    if _installed('mmengine'):
        from mmengine.logging import HistoryBuffer

        entries += [HistoryBuffer, (_history_method, '__builtin__.getattr'), (_history_method, 'builtins.getattr')]
    return entries


def _weights_only() -> Patch:
    """Make every ``torch.load`` of this process, whatever its call says, one that runs nothing from the file."""
    name = 'checkpoints are loaded with weights only, from an allow-list'
    told = os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    torch.serialization.add_safe_globals(safe_globals())
    detail = 'torch.load never unpickles freely; mmengine checkpoints resume'
    if told:
        detail += '; TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD was set and is ignored'
    return Patch(name, True, True, WEIGHTS_ONLY_THREAD, detail)


def refusal(source: object, error: BaseException) -> UserError | None:
    """Put what :func:`torch.load` said about a file into one sentence.

    Args:
        source: The file's name.
        error: What was raised while loading it.

    Returns:
        The sentence, or ``None`` where the error is not about the file.
    """
    said = str(error)
    if isinstance(error, pickle.UnpicklingError):
        if os.path.isfile(source) and (other := _other_kind(source)):
            return UserError(f'checkpoint {source} is {other}')
        named = re.search(r'GLOBAL (\S+)|unrecognized function (<[^>]+>|\S+)|but got (<class [^>]+>)', said)
        if named:
            what = next(part for part in named.groups() if part)
            return UserError(
                f'checkpoint {source} was refused because loading it would run {what}, and only weights and plain data '
                'are loaded; take a file that holds tensors alone, or, if you made this one, save its state_dict again '
                'with torch.save(model.state_dict(), path)'
            )
        return UserError(
            f'checkpoint {source} is not a file that torch can read ({_first_line(said)}); fetch or copy it again'
        )
    if isinstance(error, EOFError):
        return UserError(f'checkpoint {source} is empty or ends too early; fetch or copy it again')
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return UserError(f'checkpoint {source} is not a file; check the path')
    if isinstance(error, PermissionError):
        return UserError(f'checkpoint {source} may not be read by you; change its permissions or copy it')
    if isinstance(error, RuntimeError) and 'TorchScript archive' in said:
        return UserError(
            f'checkpoint {source} is a TorchScript program, not weights; export its state_dict with torch.save'
        )
    if isinstance(error, RuntimeError) and re.search(r'PytorchStreamReader|zip archive|unexpected EOF|corrupt', said):
        return UserError(f'checkpoint {source} is damaged ({_first_line(said)}); fetch or copy it again')
    if isinstance(error, MemoryError) or not os.path.isfile(source):
        return None
    if other := _other_kind(source):
        return UserError(f'checkpoint {source} is {other}')
    # Bytes of another kind of file make torch raise almost anything.
    return UserError(
        f'checkpoint {source} is not a file that torch can read ({type(error).__name__}: {_first_line(said)}); fetch '
        'or copy it again'
    )


def _other_kind(path: object) -> str | None:
    """What a file is that often lies in the place of weights, with the mend."""
    with open(path, 'rb') as file:
        head = file.read(4096)
    if head.startswith(b'version https://git-lfs'):
        return 'a pointer of Git LFS and not the weights; fetch them with `git lfs pull`'
    if head.lstrip()[:9].lower().startswith((b'<!doctype', b'<html')):
        return 'a web page and not the weights; fetch them from the address of the file itself'
    if head and not head.strip(b'\0'):
        return 'filled with zeros, as after a download that was cut off; fetch or copy it again'
    return None


def _first_line(text: str) -> str:
    """Return the part of an error that tells its cause: torch puts advice before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = re.search(r'WeightsUnpickler error:\s*(.+)', text)
    said = told[1].strip() if told else (lines or ['no message'])[0]
    return said.partition('. In PyTorch 2.6')[0][:200]  # what follows is the advice to unpickle freely


def load_checkpoint(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Load a checkpoint file without running anything in it.

    Args:
        path: A local file.
        map_location: Where its tensors go, as in :func:`torch.load`.

    Returns:
        What the file holds.

    Raises:
        UserError: If the file is missing or damaged, or names anything that is not on the allow-list.
    """
    _weights_only()
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        told = refusal(path, error)
        if told is None:
            raise
        raise told from error


def _mmengine_loader() -> Patch:
    """Have mmengine's loader neither fall back to free unpickling, nor widen the allow-list, nor show a traceback."""
    name = 'mmengine refuses a checkpoint that would run code, in one sentence'
    if not _installed('mmengine'):
        return Patch(name, False, False, WEIGHTS_ONLY_THREAD, 'mmengine is not installed')
    from mmengine.runner import checkpoint

    falls_back = hasattr(checkpoint, '_safe_torch_load')
    if falls_back and not hasattr(checkpoint._safe_torch_load, 'lisa_backbone'):

        def _safe_torch_load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
            return torch.load(file, map_location=map_location, weights_only=True)

        _safe_torch_load.lisa_backbone = True
        checkpoint._safe_torch_load = _safe_torch_load

    loader = checkpoint.CheckpointLoader
    if not hasattr(loader.load_checkpoint, 'lisa_backbone'):
        original = loader.load_checkpoint.__func__

        def _load_checkpoint(cls: type, filename: Any, map_location: Any = None, logger: Any = 'current') -> Any:
            try:
                return original(cls, filename, map_location, logger)
            except Exception as error:
                told = refusal(filename, error)
                if told is None:
                    raise
                raise told from error

        _load_checkpoint.lisa_backbone = True
        loader.load_checkpoint = classmethod(_load_checkpoint)
    detail = 'its fallback to free unpickling is taken out' if falls_back else 'its loader is wrapped'
    return Patch(name, True, True, WEIGHTS_ONLY_THREAD, detail)


# -------------------------------------------------------------------------------------------------- mmengine otherwise


def _source(package: str, path: str) -> str:
    """Return the text of a file of an installed package, without importing the package; empty where it is not there."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / path).is_file():
            return (Path(folder) / path).read_text(encoding='utf-8')
    return ''


class _Distribution:
    """What mmengine asks of ``pkg_resources.get_distribution``, from the standard library.

    Args:
        name: Name of the distribution.

    Raises:
        importlib.metadata.PackageNotFoundError: If it is not installed.
    """

    def __init__(self, name: str) -> None:
        self._files = metadata.distribution(name)
        self.version = self._files.version
        self.location = str(self._files.locate_file(''))

    def has_metadata(self, name: str) -> bool:
        """Tell whether the distribution has a file of metadata of this name."""
        return self._files.read_text(name) is not None

    def get_metadata(self, name: str) -> str:
        """Return a file of its metadata."""
        return self._files.read_text(name) or ''


def _pkg_resources() -> Patch:
    """Stand in for ``pkg_resources``, which setuptools dropped in version 82, where mmengine still imports it."""
    name = 'mmengine finds installed packages without pkg_resources'
    thread = 'https://github.com/open-mmlab/mmengine/pull/1676'
    if 'pkg_resources' not in _source('mmengine', 'utils/package_utils.py') if _installed('mmengine') else True:
        return Patch(name, False, False, thread, 'no installed mmengine asks for it')
    if getattr(sys.modules.get('pkg_resources'), 'lisa_backbone', False):
        return Patch(name, True, True, thread, 'a stand-in answers from importlib.metadata')
    if _installed('pkg_resources'):
        return Patch(name, False, False, thread, 'setuptools still has it')
    stand_in = types.ModuleType('pkg_resources', 'Stand-in with what mmengine asks for.')
    stand_in.lisa_backbone = True
    stand_in.DistributionNotFound = metadata.PackageNotFoundError
    stand_in.get_distribution = _Distribution
    # mmengine reloads the module before each question, so it needs a spec whose loader changes nothing.
    stand_in.__spec__ = importlib.machinery.ModuleSpec('pkg_resources', _KeepLoader())
    sys.modules['pkg_resources'] = stand_in
    sys.meta_path.append(_StandInFinder('pkg_resources'))
    return Patch(name, True, True, thread, 'a stand-in answers from importlib.metadata')


class _KeepLoader:
    """Loader of a module that is in ``sys.modules`` already."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Return the module as it is."""
        return sys.modules.get(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Change nothing."""


class _StandInFinder:
    """Finder of one stand-in, asked after all others.

    Args:
        name: Name of the module.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for the stand-in alone."""
        return importlib.machinery.ModuleSpec(name, _KeepLoader()) if name == self.name else None


def _config_scopes() -> Patch:
    """Let ``_base_ = 'mmseg::...'`` find the configs of a fork, whose distribution is not called as mmengine thinks."""
    name = 'configs inherit through scopes such as mmseg::'
    thread = 'https://github.com/open-mmlab/mmengine/pull/1071'
    if not _installed('mmengine'):
        return Patch(name, False, False, thread, 'mmengine is not installed')
    from mmengine.config.utils import MODULE2PACKAGE

    for scope, package in list(MODULE2PACKAGE.items()):
        if scope != package and _installed(scope) and not _distributed(package):
            MODULE2PACKAGE[scope] = scope
            _RENAMED_SCOPES.add(scope)
    found = ', '.join(sorted(_RENAMED_SCOPES))
    return Patch(name, bool(found), bool(found), thread, f'found by module name: {found}' if found else 'names agree')


_RENAMED_SCOPES: set[str] = set()


def _distributed(package: str) -> bool:
    """Tell whether a distribution of this name is installed."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


# --------------------------------------------------------------------------------------------------------- torchvision

_SCHEMAS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)
_torchvision_library: torch.library.Library | None = None  # schemas live as long as this object


def _torchvision_schemas() -> Patch:
    """Let torchvision be imported where its compiled part does not load, such as a CUDA build beside a CPU torch.

    It then decorates two operators that are not there. Their schemas alone are declared; models and transforms work,
    and a call of the operators themselves says that they have no implementation.
    """
    global _torchvision_library
    name = 'torchvision imports beside a CPU build of torch'
    thread = 'https://github.com/pytorch/vision/issues/9085'
    if _torchvision_library is not None:
        return Patch(
            name, True, True, thread, 'schemas of nms and qnms are declared; its compiled operators are absent'
        )
    if not _installed('torchvision'):
        return Patch(name, False, False, thread, 'torchvision is not installed')
    if hasattr(torch.ops.torchvision, 'nms') or _compiled_part_loads():
        return Patch(name, False, False, thread, 'its compiled operators load')
    _torchvision_library = torch.library.Library('torchvision', 'DEF')
    for schema in _SCHEMAS:
        _torchvision_library.define(schema)
    return Patch(name, True, True, thread, 'schemas of nms and qnms are declared; its compiled operators are absent')


def _compiled_part_loads() -> bool:
    """Load torchvision's compiled operators as torchvision does, and tell whether that worked."""
    spec = importlib.util.find_spec('torchvision')
    for folder in spec.submodule_search_locations or ():
        for library in sorted(Path(folder).glob('_C*.so')) + sorted(Path(folder).glob('_C*.dylib')):
            try:
                torch.ops.load_library(str(library))
            except OSError:
                continue
            return hasattr(torch.ops.torchvision, 'nms')
    return False


# -------------------------------------------------------------------------------------------------- version assertions

_ASSERTING = {
    'mmdet': 'https://github.com/open-mmlab/mmdetection/issues/12312',
    'mmseg': 'https://github.com/open-mmlab/mmsegmentation/issues/3729',
    'mmaction': 'https://github.com/open-mmlab/mmaction2/issues/2852',
}
_SHIMMED: dict[str, str] = {}


def _version_assertion(framework: str, thread: str) -> Patch:
    """Import a framework that refuses the installed mmcv for its version alone, showing it an older one meanwhile."""
    name = f'{framework} accepts the installed mmcv'
    if framework in _SHIMMED:
        return Patch(name, True, True, thread, _SHIMMED[framework])
    if not _installed(framework) or not _installed('mmcv'):
        absent = framework if not _installed(framework) else 'mmcv'
        return Patch(name, False, False, thread, f'{absent} is not installed')
    if framework in sys.modules:
        return Patch(name, False, False, thread, 'it is imported already')
    bounds = re.findall(
        r"^mmcv_m(?:in|ax)imum_version = '(.+)'|^MMCV_M(?:IN|AX) = '(.+)'", _source(framework, '__init__.py'), re.M
    )
    if len(bounds) != 2:
        return Patch(name, False, False, thread, 'it does not assert a version')
    import mmcv
    from mmengine.utils import digit_version

    lowest, limit = (first or second for first, second in bounds)
    if digit_version(mmcv.__version__) < digit_version(limit):
        return Patch(name, False, False, thread, f'it accepts mmcv {mmcv.__version__}')
    real = mmcv.__version__
    mmcv.__version__ = lowest
    try:
        importlib.import_module(framework)
    finally:
        mmcv.__version__ = real
    _SHIMMED[framework] = f'it was imported with mmcv {real}, which its assertion (< {limit}) refuses'
    return Patch(name, True, True, thread, _SHIMMED[framework])


# ------------------------------------------------------------------------------------------------------------ mmaction


def _mmaction_drn() -> Patch:
    """Put a stand-in where mmaction2's wheel lacks a module that it imports."""
    name = "mmaction2's missing module localizers.drn"
    thread = 'https://github.com/open-mmlab/mmaction2/issues/2714'
    if not _installed('mmaction'):
        return Patch(name, False, False, thread, 'mmaction2 is not installed')
    needed = 'from .drn' in _source('mmaction', 'models/localizers/__init__.py') and not _source(
        'mmaction', 'models/localizers/drn/drn.py'
    )
    if not needed:
        return Patch(name, False, False, thread, 'the module is there')
    package = 'mmaction.models.localizers.drn'
    for module in (package, f'{package}.drn'):
        if module not in sys.modules:
            sys.modules[module] = types.ModuleType(module, 'Stand-in for a module that the wheel of mmaction2 lacks.')
    sys.modules[f'{package}.drn'].DRN = _MissingDRN
    return Patch(name, True, True, thread, 'its localizer DRN cannot be built; everything else can')


class _MissingDRN:
    """Stand-in for mmaction2's localizer DRN.

    Raises:
        UserError: When it is built.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UserError('DRN is missing from the installed mmaction2; install mmaction2 from its sources to use it')
