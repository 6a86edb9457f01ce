"""Reading a config, and finding in it what its reader would silently ignore.

mmengine accepts any key anywhere: ``--cfg-options optim_wraper.optimizer.lr=1`` changes nothing and says nothing.
:func:`load_config` reads the file and applies overrides as mmengine does, but stops at a key that nothing reads.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config, DictAction
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from .errors import UserError

__all__ = [
    'RUNNER_KEYS',
    'apply_options',
    'config_digest',
    'in_full_precision',
    'leaf_datasets',
    'load_config',
    'nearest',
    'null_empty_pretrained',
    'own_weights',
    'parse_options',
    'walk_dicts',
]

# What mmengine's Runner takes by name, and what it and the frameworks' tools look up in the config besides.
RUNNER_KEYS = frozenset(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | {
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'gpu_ids',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
_STARTS = ('load_from', 'resume')  # misspelt, a training would begin at random
_LOADER_KEYS = frozenset(inspect.signature(DataLoader.__init__).parameters) - {'self'} | {'num_batch_per_epoch'}
# Keys that mmengine itself takes out of a dict before its class is called.
_BUILD_KEYS = frozenset({'type', '_scope_', '_delete_', 'init_cfg', 'priority', 'convert_to_iter_based'})
_OPTIM_WRAPPER_KEYS = frozenset({'constructor', 'paramwise_cfg'})


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and apply overrides to it.

    Args:
        path: The file.
        options: Overrides, dotted keys to values, as mmengine's ``DictAction`` makes them of ``--cfg-options``.

    Returns:
        The config, its ``custom_imports`` done.

    Raises:
        UserError: The file is missing or cannot be run, a base or an import is missing, a top-level key looks like a
            misspelt one, or an override would have no effect.
    """
    path = Path(path)
    if not os.path.isfile(path):
        siblings = [str(p) for p in path.parent.glob('*.py')] if os.path.isdir(path.parent) else []
        raise UserError(f'config {path} does not exist{nearest(str(path), siblings)}')
    try:
        cfg = Config.fromfile(path)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f'config {path} is not valid Python ({error}); mend that line') from error
    except FileNotFoundError as error:
        raise UserError(f'config {path} names a base that does not exist: {error}') from error
    except ModuleNotFoundError as error:
        raise UserError(
            f'config {path} needs a package that is not installed ({error}); tools/doctor.py says what to install'
        ) from error
    except ImportError as error:
        raise UserError(f'custom_imports of config {path} cannot be imported: {error}') from error
    except Exception as error:  # whatever its lines, or mmengine's reader of them, raise
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    _check_top_level(cfg, path)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if options:
        apply_options(cfg, options)
    return cfg


def apply_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merge overrides into a config, in place.

    An override must name a key of the config, or a parameter of the class that its dict builds. In a dict without
    ``type`` a new key is taken unless it resembles one that is there. An attention operator that is given by its name
    becomes a dict where an override gives its ``type``. ``data_root``, which config files use only while they are read,
    is replaced in every path that begins with it.

    Args:
        cfg: The config.
        options: Dotted keys to values.

    Raises:
        UserError: An override would have no effect or cannot be merged.
    """
    options = dict(options)
    if 'data_root' in options and isinstance(cfg.get('data_root'), str):
        if not cfg.data_root:
            raise UserError(
                '--cfg-options data_root: that of the config is empty; set the paths of each loader instead'
            )
        _replace_root(cfg, cfg.data_root, str(options.pop('data_root')))
    for key in options:
        _open_attention(cfg, key)
    for key in options:
        _check_option(cfg, key)
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(f'--cfg-options {_join(options)} cannot be merged into the config: {error}') from error
    for key in options:
        _complete_init(cfg, key)


def parse_options(pairs: list[str] | None) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs as mmengine's ``DictAction`` does, but leave paths with spaces or commas whole.

    Args:
        pairs: What followed ``--cfg-options``.

    Returns:
        Dotted keys to values.

    Raises:
        UserError: A pair has no ``=``, or its brackets do not match.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = {}
    for pair in pairs or []:
        key, equals, value = pair.partition('=')
        if not equals:
            raise UserError(f'--cfg-options {pair!r} is not KEY=VALUE; write it without spaces around the =')
        if _is_path(value):
            options[key] = value
            continue
        try:
            options |= parser.parse_args(['--cfg-options', pair]).cfg_options
        except AssertionError as error:
            raise UserError(f'--cfg-options {pair!r}: a bracket is not closed, or not opened; mend it') from error
    return options


def _is_path(value: str) -> bool:
    """Whether a value has a space or a comma that is of the name of a file or folder, and not of a list."""
    if value.lstrip()[:1] in ('[', '(', '"', "'"):
        return False
    return os.path.exists(value) if ',' in value else ' ' in value.strip()


def config_digest(cfg: Config, options: dict[str, Any] | None = None) -> str:
    """SHA-256 of all that a config says, bases included, and of overrides to it; not of where its file lies.

    Args:
        cfg: The config.
        options: Overrides that are not applied to it yet.

    Returns:
        The hexadecimal digest.
    """
    content = json.dumps([cfg.to_dict(), options or {}], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def walk_dicts(node: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """Yield every dict inside a config with its dotted path, the outermost first."""
    if isinstance(node, dict):
        yield path, node
        for key, value in dict.items(node):
            yield from walk_dicts(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from walk_dicts(value, f'{path}.{index}')


def own_weights(node: dict) -> str | None:
    """The weights that a backbone is told to load by itself, as those of timm and mmaction2 can be.

    Args:
        node: Config of a module.

    Returns:
        The value of its ``pretrained``, ``'timm:NAME'`` where that is True, ``None`` without one.
    """
    given = node.get('pretrained')
    return f'timm:{node.get("model_name")}' if given is True else given or None


def leaf_datasets(dataset: dict, path: str) -> Iterator[tuple[str, dict]]:
    """Yield the datasets inside wrappers such as RepeatDataset, ConcatDataset and MultiImageMixDataset.

    Args:
        dataset: Config of a dataset.
        path: Its dotted path.

    Yields:
        Dotted path and config of each dataset that wraps no other.
    """
    inner = dataset.get('dataset')
    several = dataset.get('datasets')
    if isinstance(inner, dict):
        yield from leaf_datasets(inner, f'{path}.dataset')
    elif isinstance(several, list | tuple):
        for index, child in enumerate(several):
            if isinstance(child, dict):
                yield from leaf_datasets(child, f'{path}.datasets.{index}')
    else:
        yield path, dataset


def null_empty_pretrained(cfg: Config) -> list[str]:
    """Take out every ``init_cfg`` of type Pretrained without a checkpoint, in place: the class then has its own.

    Args:
        cfg: The config.

    Returns:
        Dotted paths of the modules concerned, which will start at random.
    """
    emptied = []
    for path, node in list(walk_dicts(cfg.get('model', {}), 'model')):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained' and not init.get('checkpoint'):
            del node['init_cfg']
            emptied.append(path)
    return emptied


def in_full_precision(cfg: Config) -> bool:
    """Take mixed precision out of the training, in place, which mmengine offers on a GPU alone.

    Args:
        cfg: The config.

    Returns:
        Whether there was any.
    """
    wrapper = cfg.optim_wrapper
    if getattr(wrapper.get('type'), '__name__', wrapper.get('type')) != 'AmpOptimWrapper':
        return False
    wrapper.type = 'OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(key, None)
    return True


def nearest(word: str, known: Any, cutoff: float = 0.6) -> str:
    """The end of a sentence that proposes the known word most like ``word``, or an empty string."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=cutoff)
    return f'; did you mean {near[0]!r}?' if near else ''


def _check_top_level(cfg: Config, path: Path) -> None:
    for key in cfg:
        near = difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.92)
        near = near or difflib.get_close_matches(key, _STARTS, n=1, cutoff=0.85)
        if key in RUNNER_KEYS or not near:
            continue
        # A variable of the file may resemble a key that is set as well, but hardly with dicts as its value.
        if near[0] not in cfg or (_has_dicts(cfg[key]) and _has_dicts(cfg[near[0]])) or near[0] in _STARTS:
            raise UserError(f'config {path} sets {key!r}, which nothing reads; did you mean {near[0]!r}?')


def _has_dicts(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))


def _replace_root(cfg: Config, old: str, new: str) -> None:
    """Replace a data root in every path of the config that lies in it."""
    if old.endswith('/') and not new.endswith('/'):
        new += '/'
    inside = old if old.endswith('/') else f'{old}/'

    def swap(node: Any) -> Any:
        if isinstance(node, dict):
            for key, value in list(dict.items(node)):
                node[key] = swap(value)
            return node
        if isinstance(node, list | tuple):
            return type(node)(swap(value) for value in node)
        lies_there = isinstance(node, str) and (node == old or node.startswith(inside))
        return new + node[len(old) :] if lies_there else node

    for key in list(cfg.keys()):
        cfg[key] = swap(cfg[key])


def _open_attention(cfg: Config, key: str) -> None:
    """Put a dict in the place of an attention operator's name, if this override sets its type."""
    *above, name, last = ['', *key.split('.')]
    node: Any = cfg._cfg_dict
    for part in above[1:]:
        node = node.get(part) if isinstance(node, dict) else None
    if (name, last) == ('attention', 'type') and isinstance(node, dict) and isinstance(node.get(name), str):
        node[name] = {'type': node[name]}


def _complete_init(cfg: Config, key: str) -> None:
    """Say that weights are to be loaded, where an override names them for a module that had no ``init_cfg``.

    Raises:
        UserError: Their name is empty, as that of a shell variable that was not set.
    """
    *above, last = key.split('.')
    node: Any = cfg._cfg_dict
    for part in above:
        node = node.get(part) if isinstance(node, dict) else None
    if last != 'checkpoint' or above[-1:] != ['init_cfg'] or not isinstance(node, dict):
        return
    if node[last] == '':
        raise UserError(f'--cfg-options {key}= names no file; give one, or None to start at random')
    node.setdefault('type', 'Pretrained')


def _check_option(cfg: Config, key: str) -> None:
    node: Any = cfg._cfg_dict
    parts = key.split('.')
    if parts[0] in node and parts[0] not in RUNNER_KEYS:
        _refuse_variable(cfg, key)
    if parts[0] == 'data_preprocessor' and (node.get('model') or {}).get('data_preprocessor') is not None:
        raise UserError(f'--cfg-options {key}: the model of the config has its own; set model.{key} instead')
    for depth, part in enumerate(parts):
        here = '.'.join(parts[:depth])
        if isinstance(node, list | tuple):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f'--cfg-options {key}: {here} is a list of {len(node)}, so {part!r} names none of it')
            node = node[int(part)]
        elif isinstance(node, dict):
            rest = '.'.join(parts[depth:])
            whole = next((name for name in node if '.' in str(name) and f'{rest}.'.startswith(f'{name}.')), None)
            if whole is not None:
                raise UserError(
                    f'--cfg-options {key}: {here} has a key {whole!r}, with a dot in it, which no override reaches; '
                    f'set it in a config file'
                )
            if part not in node:
                _check_new_key(key, here, part, node)
                return
            node = node[part]
        else:
            raise UserError(
                f'--cfg-options {key}: {here} is {node!r} in the config and holds no {part!r}; set {here} as a whole '
                f'in a config file'
            )


def _check_new_key(key: str, here: str, part: str, node: dict) -> None:
    """Judge an override whose key is not in the config."""
    if not here:
        if part not in RUNNER_KEYS:
            raise UserError(f'--cfg-options {key}: nothing reads {part!r}{nearest(part, RUNNER_KEYS)}')
        return
    takes, is_all = _parameters(here, node)
    if part in takes:
        return
    name = node.get('type')
    name = f' ({getattr(name, "__name__", name)})' if name else ''
    hint = nearest(part, takes | set(node))
    if is_all or nearest(part, takes | set(node), cutoff=0.75):
        raise UserError(f'--cfg-options {key}: {here}{name} takes no {part!r}{hint}')


def _refuse_variable(cfg: Config, key: str) -> None:
    """Refuse to set a variable that only the config file itself reads, or a part of it."""
    name, dot, rest = key.partition('.')
    value, uses = cfg._cfg_dict[name], []
    for path, node in walk_dicts(cfg._cfg_dict):
        if not path or path.split('.')[0] == name:
            continue
        if isinstance(value, dict) and value and all(node.get(k) == v for k, v in dict.items(value)):
            uses.append(f'{path}{dot}{rest}')
        uses += [
            f'{path}.{other}{dot}{rest}'
            for other, found in dict.items(node)
            if (other == name or name.endswith(f'_{other}')) and found == value and not isinstance(found, dict)
        ]
    mend = f'set {", ".join(uses[:4])} instead' if uses else 'set the keys that were made from it instead'
    raise UserError(
        f'--cfg-options {key}: the config file used {name!r} while it was read, and setting it now changes nothing; '
        f'{mend}'
    )


def _parameters(here: str, node: dict) -> tuple[set[str], bool]:
    """The parameters of what a dict builds, and whether it takes no others."""
    if here.endswith('dataloader') and '.' not in here:
        return set(_LOADER_KEYS), True
    built = [node.get('type')] if inspect.isclass(node.get('type')) else _classes(node.get('type'), node.get('_scope_'))
    names: set[str] = set(_BUILD_KEYS)
    if here == 'optim_wrapper':
        names |= _OPTIM_WRAPPER_KEYS
    is_all = bool(built)
    for cls in built:
        closed = False
        for base in inspect.getmro(cls) if inspect.isclass(cls) else [cls]:
            if inspect.isclass(base) and '__init__' not in vars(base):
                continue
            try:
                found = inspect.signature(base.__init__ if inspect.isclass(base) else base).parameters
            except (TypeError, ValueError):  # built in C
                break
            names |= {p.name for p in found.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {'self'}
            if not any(p.kind == p.VAR_KEYWORD for p in found.values()):
                closed = True
                break
        is_all = is_all and closed
    return names, is_all


def _classes(name: Any, scope: str | None) -> list:
    """All that the registries hold under a name: one class, mostly."""
    found = []
    if isinstance(name, str):
        for registry in vars(registries).values():
            if isinstance(registry, Registry):
                with registry.switch_scope_and_registry(scope) as scoped:
                    try:
                        cls = scoped.get(name)
                    except ModuleNotFoundError:  # mmaction2's registry of functions names a module that it lacks
                        cls = None
                if cls is not None and cls not in found:
                    found.append(cls)
    return found


def _join(options: dict) -> str:
    return ' '.join(f'{key}={value}' for key, value in options.items())
