"""A rehearsal: any config, its model untouched, through a few samples, steps, a validation, a test and a checkpoint.

It finds broken paths and crashes in minutes, before a cluster job is queued, and reports what would be trained.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import Runner, find_latest_checkpoint

from .checkpoints import check_resumable
from .collect import plain_metrics, write_json
from .config import in_full_precision, walk_dicts
from .errors import UserError
from .jobs import duration
from .preflight import Preflight, build_model, preflight
from .provenance import peak_mib
from .run_errors import explained
from .runner import RunOptions, build_runner, prepare, require_training, total_batch, versions

__all__ = ['FewOf', 'check_scale', 'rehearse', 'shrink']

BATCH, STEPS, VAL_IMAGES = 2, 4, 4
LEAST_SIDE = 64  # two pixels at stride 32, enough for the heads that pool
_SIZE_KEYS = ('scale', 'scales', 'crop_size', 'size', 'img_scale')


class FewOf:
    """A few samples of a dataset, spread evenly over it; else it behaves as the dataset itself.

    Args:
        dataset: Any dataset.
        count: Number of samples, or fewer if it has fewer.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset = dataset
        count = min(count, len(dataset))
        self.picked = [i * len(dataset) // count for i in range(count)]

    def __len__(self) -> int:
        return len(self.picked)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.picked[index]]

    def get_data_info(self, index: int) -> dict:
        """As in mmengine's BaseDataset."""
        return self.dataset.get_data_info(self.picked[index])

    def get_cat_ids(self, index: int) -> list[int]:
        """As in mmengine's BaseDataset."""
        return self.dataset.get_cat_ids(self.picked[index])

    def __getattr__(self, name: str) -> Any:
        if name in ('dataset', 'picked') or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __deepcopy__(self, memo: dict) -> FewOf:
        return self  # mmengine copies the config that holds it


class _Watch(Hook):
    """Times of the steps, losses, and the parameters that got a gradient."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[dict[str, float]] = []
        self.metrics: dict[str, Any] = {}
        self.with_gradient: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Note every parameter that a backward pass reaches."""
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, name=name: self.with_gradient.add(name))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        _wait()
        self._start = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop the clock and keep the losses."""
        _wait()
        self.seconds.append(time.perf_counter() - self._start)
        self.losses.append(
            {k: v.item() for k, v in (outputs or {}).items() if isinstance(v, torch.Tensor) and v.numel() == 1}
        )
        words = ', '.join(f'{name} {value:.3f}' for name, value in self.losses[-1].items() if 'loss' in name)
        print(f'step {runner.iter + 1}: {self.seconds[-1]:.2f} s, {words}', flush=True)
        bad = [name for name, value in self.losses[-1].items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f'{bad[0]} is not finite at step {runner.iter + 1} of the rehearsal; look at the learning rate and data'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics."""
        self.metrics = dict(metrics or {})


def rehearse(options: RunOptions, scale: float = 1.0) -> dict[str, Any]:
    """Rehearse the training of a config.

    Args:
        options: The config and what the command line changes in it.
        scale: Factor on the image sizes of the pipelines, 0 to 1.

    Returns:
        The report that is written to rehearse.json in ``<work dir>/rehearsal``.

    Raises:
        UserError: The training would not run.
    """
    if options.launcher != 'none' or options.resume:
        raise UserError('--rehearse starts one process from the beginning; leave out --launcher and --resume')
    check_scale(scale)
    cfg = prepare(options)
    require_training(cfg)
    real = copy.deepcopy(cfg)
    cfg.work_dir = str(Path(cfg.work_dir) / 'rehearsal')
    changes = shrink(cfg, scale)
    loaders = [f'{kind}_dataloader' for kind in ('train', 'val', 'test') if cfg.get(f'{kind}_dataloader')]
    found = preflight(cfg, 'train', None, options.min_fit, loaders, options.check_images)
    _say('what would be trained', found.lines())
    start, watch = time.perf_counter(), _Watch()
    with explained(cfg, again='rehearse again'):
        runner = build_runner(cfg)
        lengths = {'train': _take_few(runner, '_train_dataloader', STEPS * cfg.train_dataloader.batch_size)}
        if cfg.get('val_dataloader'):
            lengths['val'] = _take_few(runner, '_val_dataloader', VAL_IMAGES)
        runner.register_hook(watch, 'VERY_LOW')
        runner.train()
        if _tests_otherwise(cfg):
            lengths['test'] = _take_few(runner, '_test_dataloader', 1)
            runner.test()
    saved = _check_saved(cfg, runner)
    report = _report(real, runner, watch, found, lengths, changes, time.perf_counter() - start)
    report['checkpoint'] = saved
    write_json(Path(cfg.work_dir) / 'rehearse.json', report)
    _say('rehearsal passed', _lines(report, Path(cfg.work_dir) / 'rehearse.json'))
    return report


def check_scale(scale: float) -> None:
    """Stop if a factor on image sizes cannot be used.

    Raises:
        UserError: It is not above 0 and at most 1.
    """
    if not 0 < scale <= 1:
        raise UserError(f'a rehearsal at scale {scale} is not possible; give a factor above 0 and at most 1')


def shrink(cfg: Config, scale: float = 1.0) -> list[str]:
    """Make a config small in place: its data, schedule and workers, not its model.

    Args:
        cfg: The config.
        scale: Factor on image sizes.

    Returns:
        What was changed, in words.
    """
    items = _items(cfg)
    changes = [f'{STEPS} steps of at most {BATCH} {items}, then at most {VAL_IMAGES} {items} to validate']
    if _tests_otherwise(cfg):
        changes[0] += ' and one to test'
    for name, batch in (('train_dataloader', BATCH), ('val_dataloader', 1), ('test_dataloader', 1)):
        loader = cfg.get(name)
        if not loader:
            continue
        if 'batch_size' in loader:
            loader.batch_size = min(loader.batch_size, batch)
        loader.num_workers = min(loader.get('num_workers', 0), 2)
        loader.pop('num_batch_per_epoch', None)
        if loader.num_workers == 0:
            for key in ('persistent_workers', 'prefetch_factor'):
                loader.pop(key, None)
    loop, hooks = cfg.train_cfg, cfg.get('default_hooks') or {}
    by_epoch = _by_epoch(loop)
    _keep_ends(cfg, by_epoch)
    loop.update({'max_epochs': 1} if by_epoch else {'max_iters': STEPS})
    if cfg.get('val_dataloader'):
        loop.update(val_interval=1 if by_epoch else STEPS, val_begin=1)
    loop.pop('dynamic_intervals', None)
    if hooks.get('checkpoint'):
        by_epoch_hook = hooks.checkpoint.get('by_epoch', True)
        hooks.checkpoint.update(interval=1 if by_epoch_hook else STEPS, max_keep_ckpts=1)
        hooks.checkpoint.pop('out_dir', None)
    if hooks.get('logger'):
        hooks.logger.interval = 1
    cfg.resume, cfg.log_level = False, 'WARNING'
    if scale != 1:
        changes.append(f'image sizes times {scale:g}: {_scale_sizes(cfg, scale)} settings')
    if not torch.cuda.is_available():
        changes += ['no mixed precision: there is no GPU here'] * in_full_precision(cfg)
    return changes


def _items(cfg: Config) -> str:
    """What the samples of a config are."""
    return 'videos' if cfg.get('default_scope') == 'mmaction' else 'images'


def _tests_otherwise(cfg: Config) -> bool:
    """Whether a test differs from a validation, as it does where several views of a video are averaged."""
    test, val = cfg.get('test_dataloader'), cfg.get('val_dataloader')
    return bool(test) and (not val or test.dataset != val.dataset)


def _by_epoch(loop: dict) -> bool:
    return loop.get('max_epochs') is not None and loop.get('max_iters') is None


def _keep_ends(cfg: Config, by_epoch: bool) -> None:
    """Write out the ends of schedules that mmengine takes from the length of the training, which is cut short here."""
    for _, node in walk_dicts(cfg.get('param_scheduler') or []):
        if 'type' in node and node.get('by_epoch', True) == by_epoch:
            node.setdefault('end', cfg.train_cfg['max_epochs' if by_epoch else 'max_iters'])


def _scale_sizes(cfg: Config, scale: float) -> int:
    """Multiply every size in the pipelines and preprocessors, none below ``LEAST_SIDE``, and return how many."""
    count = 0

    def shrunk(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(shrunk(v) for v in value)
        return max(round(value * scale), min(value, LEAST_SIDE)) if isinstance(value, int) and value > 0 else value

    kinds = ('train', 'val', 'test') if _tests_otherwise(cfg) else ('train', 'val')
    places = [cfg.get(f'{kind}_dataloader') or {} for kind in kinds]
    places += [cfg.model.get('data_preprocessor') or {}, cfg.get('data_preprocessor') or {}]
    for place in places:
        for _, node in walk_dicts(place):
            for key in _SIZE_KEYS:
                if key in node and shrunk(node[key]) != node[key]:
                    node[key] = shrunk(node[key])
                    count += 1
    return count


def _take_few(runner: Runner, name: str, count: int) -> int:
    """Build the dataset of a loader, put a few of its samples in its place, and return its whole length."""
    loader = getattr(runner, name)
    dataset = DATASETS.build(loader['dataset'])
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if len(dataset) == 0:
        raise UserError(f'{name.strip("_")}: the dataset is empty once filtered; look at its classes and filter_cfg')
    setattr(runner, name, {**loader, 'dataset': FewOf(dataset, count)})
    return len(dataset)


def _check_saved(cfg: Config, runner: Runner) -> dict[str, Any]:
    """Read the checkpoint back as a resumed run would, then remove it."""
    path = find_latest_checkpoint(runner.work_dir)
    if path is None:
        return {}
    check_resumable(build_model(cfg.model, cfg.get('data_preprocessor')), path)
    saved = {'megabytes': round(Path(path).stat().st_size / 1e6, 1), 'resumable': True}
    for file in Path(runner.work_dir).glob('*.pth'):
        file.unlink()
    (Path(runner.work_dir) / 'last_checkpoint').unlink(missing_ok=True)
    return saved


def _report(
    real: Config, runner: Runner, watch: _Watch, found: Preflight, lengths: dict, changes: list[str], seconds: float
) -> dict[str, Any]:
    model = runner.model
    batch = total_batch(real)
    scale = real.get('auto_scale_lr') or {}
    factor = batch / scale['base_batch_size'] if scale.get('enable') else 1.0
    loop = real.train_cfg
    epochs = loop.get('max_epochs')
    steps = math.ceil(lengths['train'] / batch) * epochs if _by_epoch(loop) else _iterations(real)
    step = statistics.median(watch.seconds[1:] or watch.seconds)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    return {
        'config': real.filename,
        'items': _items(real),
        'model': type(model).__name__,
        'parameters': _parameters(model),
        'without_gradient': [name for name in trainable if name not in watch.with_gradient],
        'optimizer': _groups(runner.optim_wrapper, factor),
        'datasets': lengths,
        'total_batch': batch,
        'base_batch_size': scale.get('base_batch_size'),
        'auto_scale_lr': bool(scale.get('enable')),
        'epochs': epochs,
        'steps': steps,
        'seconds_per_step': round(step, 3),
        'images_per_step': real_batch(runner),
        'seconds_in_all': round(steps * step * batch / real_batch(runner)),
        'peak_memory_gib': round(peak_mib() / 2**10, 2),
        'weights': [report.record() for report in found.fits],
        'random_initialisation': found.random_modules,
        'losses': watch.losses,
        'metrics': {k: v for k, v in plain_metrics(watch.metrics).items() if v is not None},
        'changed_for_the_rehearsal': changes,
        'seconds': round(seconds, 1),
        'versions': versions(),
    }


def real_batch(runner: Runner) -> int:
    """Images in one step of the rehearsal."""
    loader = runner.train_dataloader
    return getattr(loader, 'batch_size', None) or getattr(loader.batch_sampler, 'batch_size', None) or 1


def _parameters(model: torch.nn.Module) -> dict[str, dict[str, int]]:
    counts = {}
    for name, module in [('all', model), *model.named_children()]:
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        if sizes:
            counts[name] = {'total': sum(n for n, _ in sizes), 'frozen': sum(n for n, grad in sizes if not grad)}
    return counts


def _groups(wrapper: Any, factor: float) -> list[dict[str, Any]]:
    """Parameter groups, joined where learning rate and weight decay are the same.

    The rehearsal's own batch may scale the rate otherwise than the real one's; ``factor`` is the real one's.
    """
    joined: dict[tuple, list[int]] = {}
    wrappers = dict(wrapper.items()) if hasattr(wrapper, 'items') else {'': wrapper}
    for name, one in wrappers.items():
        base = one.optimizer.defaults.get('lr')
        groups = one.optimizer.param_groups
        largest = max((g.get('initial_lr', g['lr']) for g in groups), default=None)
        for group in groups:
            ratio = group.get('initial_lr', group['lr']) / largest if largest else 1
            key = (name, type(one.optimizer).__name__, base * factor * ratio, group.get('weight_decay'))
            joined.setdefault(key, [0, 0])
            joined[key][0] += len(group['params'])
            joined[key][1] += sum(p.numel() for p in group['params'])
    keys = ('name', 'optimizer', 'lr', 'weight_decay')
    return [{**dict(zip(keys, key, strict=True)), 'tensors': n, 'parameters': m} for key, (n, m) in joined.items()]


def _lines(report: dict[str, Any], path: Path) -> list[str]:
    counts = report['parameters']
    parts = ', '.join(f'{name} {c["total"] / 1e6:.2f}M' for name, c in counts.items() if name != 'all')
    batch, base = report['total_batch'], report['base_batch_size']
    lines = [
        f'model       {report["model"]}: {counts["all"]["total"] / 1e6:.2f}M parameters ({parts}), '
        f'{counts["all"]["frozen"] / 1e6:.2f}M frozen'
    ]
    for group in report['optimizer']:
        lines.append(
            f'optimizer   {group["optimizer"]}: lr {group["lr"]:g}, weight decay {group["weight_decay"]:g}: '
            f'{group["tensors"]} tensors, {group["parameters"] / 1e6:.2f}M parameters'
        )
    lines.append(
        'data        ' + ', '.join(f'{n} {length} {report["items"]}' for n, length in report['datasets'].items())
    )
    scaled = (
        f', meant for {base}{"" if report["auto_scale_lr"] or base == batch else " (see --auto-scale-lr)"}'
        if base
        else ''
    )
    lines.append(f'schedule    {report["steps"]} steps, total batch {batch}{scaled}')
    lines.append(
        f'speed here  {report["seconds_per_step"]:.2f} s a step of {report["images_per_step"]} {report["items"]}, so '
        f'{duration(report["seconds_in_all"])} for all on this machine; peak memory {report["peak_memory_gib"]} GiB'
    )
    if report['without_gradient']:
        names = report['without_gradient']
        lines.append(
            f'WARNING     {len(names)} parameters got no gradient ({", ".join(names[:3])}, ...): distributed training '
            f'stops unless find_unused_parameters=True'
        )
    lines += [f'for this    {change}' for change in report['changed_for_the_rehearsal']]
    if report['checkpoint']:
        lines.append(f'checkpoint  {report["checkpoint"]["megabytes"]} MB, read back and resumable, removed again')
    return [*lines, f'{report["seconds"]:.0f} s; all of this is in {path}']


def _say(title: str, lines: list[str]) -> None:
    print('\n'.join([f'--- {title} ---', *lines]), flush=True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _iterations(cfg: Config) -> int:
    """Steps of the optimizer: mmengine counts each batch, also where gradients are accumulated."""
    return math.ceil(cfg.train_cfg.max_iters / int(cfg.optim_wrapper.get('accumulative_counts', 1)))
