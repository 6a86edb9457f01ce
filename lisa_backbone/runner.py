"""Training and testing of any config, on mmengine's Runner.

What is added to mmengine: the checks of :mod:`lisa_backbone.preflight` before anything is created, sentences in place
of tracebacks where the user can mend the cause, and ``metrics.json``.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from . import compat
from .allocator import keep_freed_memory
from .collect import METRICS_FILE, plain_metrics, write_json, write_record
from .complexity import count_parameters
from .config import leaf_datasets, load_config, null_empty_pretrained, walk_dicts
from .errors import UserError
from .metrics_hook import MetricsHook
from .paths import check_folder
from .predictions import keep_predictions
from .preflight import Preflight, preflight
from .provenance import (
    code_state,
    config_of,
    count_backbone_macs,
    data_of,
    file_digest,
    initial_weights,
    machine_of,
    nominal_input,
    peak_mib,
    protocol_of,
    weights_digest,
)
from .run_errors import explained
from .work_dir import checkpoint_to_test, file_in, latest_checkpoint

__all__ = [
    'RunOptions',
    'build_runner',
    'prepare',
    'record',
    'require_training',
    'run_test',
    'run_training',
    'source_of',
    'total_batch',
]

_PACKAGES = ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmaction2', 'mmpretrain')
_WORLD_SIZE = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS', 'mpi': 'OMPI_COMM_WORLD_SIZE'}
_CHECKS_TAKE = {'sample': 3600, 'all': 24 * 3600, 'none': 1800}  # seconds, at most
_RANK = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}


@dataclass
class RunOptions:
    """What the command line may change in a config.

    Attributes:
        config: The config file.
        work_dir: Where the run writes; by default the config's ``work_dir``, else ``work_dirs/<name of the config>``.
        cfg_options: Overrides, dotted keys to values.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        seed: Seed of everything random; by default the config's.
        min_fit: Share of the parameters that weight files must fill, see :mod:`lisa_backbone.checkpoints`.
        resume: ``'auto'`` for the latest checkpoint of the work directory, or a checkpoint (training).
        amp: Train in mixed precision (training).
        auto_scale_lr: Scale the learning rate to the total batch (training).
        show_dir: Folder for pictures of the predictions beside the ground truth; after training, they are those of a
            test of the best checkpoint, else the latest.
        check_images: Which images and videos to decode beforehand: ``'sample'``, ``'all'`` or ``'none'``.
        tta: Average predictions over flips and scales, the config's ``tta_pipeline`` (test).
    """

    config: str
    work_dir: str | None = None
    cfg_options: dict[str, Any] | None = None
    launcher: str = 'none'
    seed: int | None = None
    min_fit: float | None = None
    resume: str | None = None
    amp: bool = False
    auto_scale_lr: bool = False
    show_dir: str | None = None
    check_images: str = 'sample'
    tta: bool = False


def run_training(options: RunOptions) -> dict[str, Any]:
    """Train as a config says.

    Args:
        options: The config and what the command line changes in it.

    Returns:
        The record that is written to metrics.json; where a finished training was to be resumed, the one that is there.

    Raises:
        UserError: The input cannot be used; nothing was created, or, once training ran, what was saved is kept.
    """
    _check_launcher(options.launcher)
    cfg, source = prepare(options), source_of(options)
    require_training(cfg)
    if options.show_dir:  # it is told here what the test in the end could not do
        _require_test(cfg)
        _show(copy.deepcopy(cfg), options.show_dir)
    load_from = None if cfg.get('resume') else cfg.get('load_from')
    resumed = _resolve_resume(cfg, options)
    data = None
    if is_main(options.launcher):
        mode = 'resume' if resumed else 'train'
        _announce(preflight(cfg, mode, resumed, options.min_fit, check_images=options.check_images))
        data = data_of(cfg, 'train')
        if not resumed and Path(cfg.work_dir, 'last_checkpoint').is_file():
            print(f'{cfg.work_dir} holds an earlier training: it is written over (--resume goes on)', flush=True)
    start = time.perf_counter()
    hook = MetricsHook(initial_weights(cfg, load_from), source['code'])
    with explained(cfg):
        runner = build_runner(cfg)
        runner.register_hook(hook, 'VERY_LOW')
        _compare_batch(runner)
        runner.train()
    seconds = time.perf_counter() - start
    info = runner.message_hub.runtime_info
    best = info.get('best_ckpt')
    checkpoint = (best and file_in(runner.work_dir, best)) or find_latest_checkpoint(runner.work_dir)
    result = _records(runner.work_dir).get('train') or {}
    if hook.was_finished and result.get('iterations') == runner.iter:
        runner.logger.info(f'{resumed} is the end of this training: nothing was left to train')
    else:
        result = record(
            {**source, 'code': hook.code},
            checkpoint=checkpoint,
            metrics=hook.val[-1][1] if hook.val else {},
            seconds=seconds,
            seed=runner.seed,
            best=None if info.get('best_score') is None else float(info['best_score']),
            iterations=runner.iter,
            resumed_from=resumed,
            train_seconds=None if hook.seconds is None else round(hook.seconds, 1),
            weights=hook.weights,
            data=data,
            **_sizes(runner.model),
        )
        if runner.rank == 0:
            result['made'] = _checkpoints(checkpoint, find_latest_checkpoint(runner.work_dir))
            _save_record(runner.work_dir, 'train', result)
            best_words = '' if result['best'] is None else f'; best {result["best"]:.4f}'
            runner.logger.info(
                f'trained {runner.iter} iterations in {seconds:.0f} s; last validation: '
                f'{_words(result["metrics"]) or "none"}{best_words}; checkpoint {checkpoint}'
            )
    if options.show_dir:
        run_test(replace(options, work_dir=runner.work_dir, resume=None), checkpoint)
    return result


def run_test(options: RunOptions, checkpoint: str | None = None) -> dict[str, Any]:
    """Test a checkpoint as a config says.

    Args:
        options: The config and what the command line changes in it.
        checkpoint: The weights; by default the best of the work directory, else the latest.

    Returns:
        The record that is written to metrics.json.

    Raises:
        UserError: The input cannot be used; nothing was created.
    """
    _check_launcher(options.launcher)
    cfg, source = prepare(options), source_of(options)
    _require_test(cfg)
    if options.tta:
        _check_tta(cfg)
    if checkpoint == '':
        raise UserError('the name of the checkpoint is empty; give a file, or none for that of the work directory')
    checkpoint = checkpoint or checkpoint_to_test(cfg.work_dir)
    cfg.load_from, cfg.resume = checkpoint, False
    if options.show_dir:
        _show(cfg, options.show_dir)
    weights = data = None
    if is_main(options.launcher):
        _announce(preflight(cfg, 'test', checkpoint, options.min_fit, check_images=options.check_images))
        weights, data = weights_digest(checkpoint), data_of(cfg)
    protocol, shape = protocol_of(cfg, options.tta), nominal_input(cfg)
    if options.tta:
        _augment_test(cfg)
    predictions = keep_predictions(cfg, 'predictions_tta' if options.tta else 'predictions')
    start = time.perf_counter()
    with explained(cfg, 'test_dataloader', 'test again'):
        runner = build_runner(cfg)
        metrics = plain_metrics(runner.test())
    result = record(
        source,
        checkpoint=checkpoint,
        metrics=metrics,
        seconds=time.perf_counter() - start,
        seed=runner.seed,
        protocol=protocol,
    )
    if runner.rank == 0:
        result |= {
            'weights': weights,
            'data': data,
            'predictions': file_digest(predictions) if predictions and predictions.is_file() else None,
            'macs': count_backbone_macs(_plain_model(runner.model), shape),
        }
        _save_record(runner.work_dir, 'test_tta' if options.tta else 'test', result)
        if not options.tta:
            write_record(Path(runner.work_dir), cfg)
        runner.logger.info(f'tested {checkpoint} in {result["seconds"]:.0f} s: {_words(metrics) or "no metrics"}')
        if options.show_dir:
            runner.logger.info(f'pictures are in {options.show_dir}')
    return result


def prepare(options: RunOptions) -> Config:
    """Read the config and apply what the command line says.

    Args:
        options: The config and what the command line changes in it.

    Returns:
        The config, complete.

    Raises:
        UserError: A file, key or flag cannot be used.
    """
    compat.apply()
    keep_freed_memory()
    cfg = load_config(options.config, options.cfg_options)
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'config {options.config} has no model; give a whole config, whose model is a dict')
    cfg.launcher = options.launcher
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(options.config).stem)
    if options.seed is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': options.seed}
    if options.amp and cfg.get('optim_wrapper'):
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if options.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(
                f'--auto-scale-lr needs to know the total batch that the learning rate of {options.config} is meant '
                f'for; add auto_scale_lr=dict(base_batch_size=N)'
            )
        cfg.auto_scale_lr.enable = True
    if options.launcher != 'none':
        # All others wait for the first process, which looks at the data before it joins them.
        dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
        cfg.merge_from_dict({'env_cfg.dist_cfg': {'timeout': _CHECKS_TAKE[options.check_images], **dist_cfg}})
    null_empty_pretrained(cfg)
    return cfg


def require_training(cfg: Config) -> None:
    """Stop if a config says nothing about training.

    Raises:
        UserError: A key that training needs is missing.
    """
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not isinstance(cfg.get(key), dict):
            raise UserError(f'config {cfg.filename} has no {key}, so there is nothing to train; add it as a dict')


def _require_test(cfg: Config) -> None:
    if cfg.get('test_dataloader') is None:
        raise UserError(f'config {cfg.filename} has no test_dataloader; add one, with test_cfg and test_evaluator')


def _without_sync_norms(cfg: Config) -> None:
    """Put batch norms of each process in the place of those over all, which torch has for GPUs alone."""
    synchronised = [node for _, node in walk_dicts(cfg.model) if node.get('type') == 'SyncBN']
    for node in synchronised:
        node['type'] = 'BN'
    if synchronised:
        print('SyncBN needs GPUs: here each process has batch norms of its own', flush=True)


def build_runner(cfg: Config) -> Runner:
    """Build mmengine's Runner, or the ``runner_type`` of the config."""
    if cfg.get('launcher') == 'pytorch' and not torch.cuda.is_available():  # mmengine's own start-up asks for a GPU
        _without_sync_norms(cfg)
        if not torch.distributed.is_initialized():
            timeout = ((cfg.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
            torch.distributed.init_process_group('gloo', timeout=timeout and timedelta(seconds=timeout))
        cfg.setdefault(
            'model_wrapper_cfg',
            {
                'type': 'MMDistributedDataParallel',
                'device_ids': None,
                'broadcast_buffers': False,
                'find_unused_parameters': cfg.get('find_unused_parameters', False),
            },
        )
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    times = int((cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1))
    if times > 1 and (runner.auto_scale_lr or {}).get('enable'):
        # mmengine's scaling leaves out that a step sees so many batches
        runner.auto_scale_lr = copy.deepcopy(runner.auto_scale_lr)
        runner.auto_scale_lr['base_batch_size'] /= times
    return runner


def total_batch(cfg: Config, processes: int | None = None) -> int:
    """Images that one optimizer step sees: batch, times processes, times accumulated batches.

    Args:
        cfg: The config, with its overrides.
        processes: Processes that train; by default those of the launcher that this one was started by.
    """
    if processes is None:
        processes = int(os.environ.get(_WORLD_SIZE.get(cfg.get('launcher', 'none'), ''), 1))
    loader = cfg.train_dataloader
    batch = loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size') or 1
    return batch * processes * int(cfg.optim_wrapper.get('accumulative_counts', 1))


def is_main(launcher: str) -> bool:
    """Whether this process is the first of its run, told before any process group is made."""
    return int(os.environ.get(_RANK.get(launcher, ''), 0)) == 0


def source_of(options: RunOptions) -> dict[str, Any]:
    """The config and the code of a run, as its record names them.

    It is to be asked for as the run starts: by its end the files may be others.

    Args:
        options: The config and what the command line changes in it.
    """
    given, flags = options.cfg_options or {}, _flags(options)
    source = {'config': config_of(options.config, {**given, **flags}), 'code': code_state()}
    if flags:  # which a test is not given
        source['digest_without_flags'] = config_of(options.config, given)['digest']
    return source


def record(
    source: dict[str, Any], *, checkpoint: str | None, metrics: dict, seconds: float, seed: int, **more: Any
) -> dict[str, Any]:
    """One entry of metrics.json.

    Args:
        source: Config and code, from :func:`source_of`.
        checkpoint: The weights that the metrics belong to.
        metrics: Name to value.
        seconds: Wall time of the run.
        seed: The seed that was used.
        **more: Further fields.

    Returns:
        Plain data.
    """
    return {
        **source,
        'checkpoint': checkpoint,
        'metrics': metrics,
        'seconds': round(seconds, 1),
        'seed': seed,
        **more,
        'peak_mib': peak_mib(),
        'versions': versions(),
        'machine': machine_of(),
        'finished': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    }


def versions() -> dict[str, str]:
    """Versions of this package, Python, torch and the frameworks that are installed."""
    found = {'lisa_backbone': metadata.version('lisa-backbone'), 'python': platform.python_version()}
    found['torch'] = torch.__version__
    for package in _PACKAGES:
        for prefix in ('', 'onedl-'):
            try:
                found[prefix + package] = metadata.version(_DISTRIBUTIONS.get(prefix + package, prefix + package))
            except metadata.PackageNotFoundError:
                continue
    return found


def _flags(options: RunOptions) -> dict[str, Any]:
    """The flags that change what a config says, where they are set, as the overrides that they stand for."""
    flags = {}
    if options.amp:
        flags['optim_wrapper.type'] = 'AmpOptimWrapper'
    if options.auto_scale_lr:
        flags['auto_scale_lr.enable'] = True
    return flags


_DISTRIBUTIONS = {'onedl-mmdet': 'onedl-mmdetection'}


def _plain_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside those that distribute it or average its predictions."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _sizes(model: torch.nn.Module) -> dict[str, int]:
    """Parameters of a model, and of its backbone if it has one."""
    model = _plain_model(model)
    sizes = {'parameters': count_parameters(model)}
    if isinstance(getattr(model, 'backbone', None), torch.nn.Module):
        sizes['backbone_parameters'] = count_parameters(model.backbone)
    return sizes


def _check_launcher(launcher: str) -> None:
    if launcher in _RANK and _RANK[launcher] not in os.environ:
        how = {'pytorch': 'torchrun', 'slurm': 'srun', 'mpi': 'mpirun'}[launcher]
        raise UserError(f'--launcher {launcher}: start this command with {how}, or leave the option out')
    if launcher == 'mpi' and 'MASTER_ADDR' not in os.environ:
        raise UserError('--launcher mpi: MASTER_ADDR is not set; export it, as the host of the first process')


def _records(work_dir: str) -> dict[str, Any]:
    """What metrics.json of a work directory holds."""
    try:
        found = json.loads((Path(work_dir) / METRICS_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _save_record(work_dir: str, mode: str, result: dict) -> None:
    write_json(Path(work_dir) / METRICS_FILE, {**_records(work_dir), mode: result})


def _resolve_resume(cfg: Config, options: RunOptions) -> str | None:
    """Put the checkpoint to go on from into the config and return it."""
    if options.resume == '':
        raise UserError('--resume: the name of the checkpoint is empty; give a file, or --resume alone for the latest')
    wanted = options.resume or ('auto' if cfg.get('resume') and not cfg.get('load_from') else None)
    if wanted is None:
        return str(cfg.load_from) if cfg.get('resume') else None
    path = wanted
    if wanted == 'auto':
        path = latest_checkpoint(cfg.work_dir)
        if path is None:
            if is_main(options.launcher):
                print(f'nothing to resume in {cfg.work_dir}: starting from the beginning', flush=True)
            cfg.resume = False
            return None
    cfg.resume, cfg.load_from = True, path
    return path


def _checkpoints(*paths: str | None) -> list[dict[str, str]]:
    """The best and the last checkpoint of a training, each with its SHA-256."""
    return [file_digest(path) for path in dict.fromkeys(paths) if path and Path(path).is_file()]


def _announce(found: Preflight) -> None:
    for line in found.lines():
        print(line, flush=True)


def _compare_batch(runner: Runner) -> None:
    """Say once if the learning rate was meant for another total batch than this run's (mmdetection#12416)."""
    scale = runner.cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size')
    actual = total_batch(runner.cfg)
    if base and actual != base and not scale.get('enable'):
        runner.logger.warning(
            f'the learning rate is meant for a total batch of {base} and this run has {actual} '
            f'({actual / base:g} times); add --auto-scale-lr to scale it, or expect other results'
        )


def _show(cfg: Config, show_dir: str) -> None:
    """Have every sample of the test drawn into a folder: by mmdet's hook for detections, else by our own."""
    check_folder(show_dir, '--show-dir')
    show_dir = os.path.abspath(show_dir)
    if cfg.get('default_scope') != 'mmdet':
        from . import pictures  # noqa: F401  registers it

        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), {'type': 'PictureHook', 'out_dir': show_dir}]
        return
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError(
            '--show-dir: default_hooks of the config has no visualization hook; add the one of its framework'
        )
    hook.update(draw=True, test_out_dir=show_dir)
    if cfg.get('visualizer', {}).get('type') == 'DetLocalVisualizer':
        from . import visualization  # noqa: F401  registers it

        cfg.visualizer.type = 'UpscalingDetVisualizer'


def _check_tta(cfg: Config) -> None:
    for key in ('tta_model', 'tta_pipeline'):
        if cfg.get(key) is None:
            raise UserError(
                f'--tta: config {cfg.filename} has no {key}; add one, as the configs in configs/seg have it'
            )


def _augment_test(cfg: Config) -> None:
    """Have the test average predictions over flips and scales, as the frameworks' own ``tools/test.py --tta`` does."""
    _check_tta(cfg)
    for _, dataset in leaf_datasets(cfg.test_dataloader.dataset, ''):
        dataset['pipeline'] = cfg.tta_pipeline
    cfg.model = {**cfg.tta_model, 'module': cfg.model}


def _words(metrics: dict[str, float | None]) -> str:
    """The metrics in a line: means before details, at most four."""
    names = sorted(metrics, key=lambda name: (not re.search(r'(mAP|mIoU|top1|accuracy)$', name), name))[:4]
    return ', '.join(f'{name} {metrics[name]:.4f}' for name in names if metrics[name] is not None)
