"""Where the time of a training step goes: the parts of an iteration of a real training, and of loading a sample."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.data import Dataset

from .config import in_full_precision
from .errors import UserError
from .preflight import preflight
from .provenance import dated, machine_of
from .run_errors import explained
from .runner import RunOptions, build_runner, prepare, require_training, total_batch

__all__ = ['PARTS', 'profile_step', 'table']

# In the order of an iteration. What is left of it, mmengine's own loop and sums of losses, is 'rest'.
PARTS = ('data', 'preprocessing', 'backbone', 'neck and heads', 'backward', 'optimizer', 'hooks', 'rest')
_OWN = __name__.partition('.')[0]


class _Enough(Exception):
    """All iterations are measured."""


class _Clock:
    """Seconds of each part of the iteration under way, and of those that are over.

    Args:
        warmup: Iterations at the start that do not count.
        iterations: Iterations that do.
        device: Whose work is waited for before the clock is read.
    """

    def __init__(self, warmup: int, iterations: int, device: torch.device) -> None:
        self.warmup, self.iterations, self.device = warmup, iterations, device
        self.current: Counter[str] = Counter()
        self.done: list[dict[str, float]] = []
        self.count = 0
        self._end: float | None = None

    def now(self) -> float:
        """Seconds, once the device is idle."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def time(self, owner: Any, name: str, part: str) -> None:
        """Have the calls of a method counted as a part."""
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            try:
                return method(*args, **kwargs)
            finally:
                self.current[part] += self.now() - start

        setattr(owner, name, timed)

    def begin(self) -> None:
        """The data of an iteration are there."""
        if self._end is not None:
            self.current['data'] += self.now() - self._end

    def end(self) -> None:
        """An iteration is over.

        Raises:
            _Enough: It was the last.
        """
        now = self.now()
        if self._end is not None and self.count >= self.warmup:
            self.done.append({**self.current, 'all': now - self._end})
        self.count += 1
        self.current.clear()
        self._end = now
        if len(self.done) == self.iterations:
            raise _Enough


def profile_step(options: RunOptions, iterations: int = 30, warmup: int = 10, samples: int = 64) -> dict[str, Any]:
    """Train for some iterations and measure their parts. Nothing is kept of the training.

    Without a GPU a config in mixed precision trains in full, and the row says so in its options.

    Args:
        options: The config and what the command line changes in it; the work directory is not used.
        iterations: Iterations that are measured.
        warmup: Iterations before them, at least one.
        samples: Samples that are loaded here, twice, to see what their transforms take the second time.

    Returns:
        The row of a table: milliseconds of an iteration and of its parts, each its own median; processor milliseconds
        of loading a batch, and of those the ones in transforms of this package; conditions.

    Raises:
        UserError: The config cannot be trained, trains too few iterations, or in several processes.
    """
    if options.launcher != 'none':
        raise UserError(f'--launcher {options.launcher}: the parts of a step are measured in one process; leave it out')
    if min(iterations, warmup) < 1:
        raise UserError(f'--iterations {iterations} and --warmup {warmup} must be at least 1')
    with _scratch_folder() as folder:
        options.work_dir = folder
        cfg = prepare(options)
        cfg.experiment_name = os.path.basename(folder)  # mmengine keeps one visualizer for each name
        require_training(cfg)
        if not torch.cuda.is_available():
            in_full_precision(cfg)
        preflight(cfg, 'train', None, options.min_fit, check_images='none')
        with explained(cfg, again='measure again'):
            runner = build_runner(cfg)
            clock = _watch(runner, warmup, iterations)
            try:
                runner.train()
            except _Enough:
                pass
            else:
                raise UserError(
                    f'{options.config} trains for {clock.count} iterations and {warmup + iterations} were asked for; '
                    f'lower --iterations or --warmup'
                )
            loading, own = _loading(runner.train_dataloader.dataset, samples)
    medians = {part: 1000 * statistics.median(one.get(part, 0.0) for one in clock.done) for part in ('all', *PARTS)}
    medians['neck and heads'] = 1000 * statistics.median(one['forward'] - one['backbone'] for one in clock.done)
    medians['rest'] = medians['all'] - sum(medians[part] for part in PARTS if part != 'rest')
    batch = cfg.train_dataloader.batch_size
    return {
        **name_of(options),
        'batch': total_batch(cfg),
        'iterations': iterations,
        'ms': f'{medians["all"]:.2f}',
        **{f'{part} ms': f'{medians[part]:.2f}' for part in PARTS},
        'loading ms': f'{1000 * batch * loading:.2f}',
        'own transforms ms': f'{1000 * batch * own:.2f}',
        **{key: value for key, value in machine_of().items() if key != 'processes'},
        'torch': torch.__version__,
        **dated(),
    }


@contextmanager
def _scratch_folder() -> Iterator[str]:
    """A folder for the time of a run, whose log mmengine's logger, which outlives the run, lets go of."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield folder
        finally:
            logger = MMLogger.get_current_instance()
            for handler in list(logger.handlers):
                if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(folder):
                    logger.removeHandler(handler)
                    handler.close()


def name_of(options: RunOptions) -> dict[str, str]:
    """The columns that tell what :func:`profile_step` measures: config, and what was changed in it.

    Args:
        options: The config and what the command line changes in it.
    """
    cfg, changed = prepare(options), dict(options.cfg_options or {})
    require_training(cfg)
    if not torch.cuda.is_available() and in_full_precision(cfg):
        changed['optim_wrapper.type'] = 'OptimWrapper'
    return {'config': options.config, 'options': ' '.join(f'{key}={value}' for key, value in changed.items())}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of :func:`profile_step` as a Markdown table: an iteration in milliseconds, its parts in percent of it."""
    names = [*PARTS, 'loading', 'own transforms']
    lines = [f'| config | batch | ms | {" | ".join(names)} |', '|---|---:|---:|' + '---:|' * len(names)]
    for row in rows:
        shares = [f'{100 * float(row[f"{name} ms"]) / float(row["ms"]):.1f} %' for name in names]
        config = f'{row["config"]} {row["options"]}'.strip()
        lines.append(f'| {config} | {row["batch"]} | {float(row["ms"]):.0f} | {" | ".join(shares)} |')
    return '\n'.join(lines)


def _watch(runner: Runner, warmup: int, iterations: int) -> _Clock:
    """A clock of the iterations of a runner."""
    model = runner.model
    clock = _Clock(warmup, iterations, next(model.parameters()).device)
    clock.time(model.data_preprocessor, 'forward', 'preprocessing')
    clock.time(model, '_run_forward', 'forward')
    clock.time(model.backbone, 'forward', 'backbone')
    call_hook: Callable = runner.call_hook

    def timed_hook(name: str, **kwargs: Any) -> None:
        if name == 'before_train_iter':
            if runner.iter == 0:  # mmengine builds the optimizer as training begins
                clock.time(runner.optim_wrapper, 'backward', 'backward')
                for method in ('step', 'zero_grad'):
                    clock.time(runner.optim_wrapper, method, 'optimizer')
            clock.begin()
        start = clock.now()
        call_hook(name, **kwargs)
        if name in ('before_train_iter', 'after_train_iter'):
            clock.current['hooks'] += clock.now() - start
        if name == 'after_train_iter':
            clock.end()

    runner.call_hook = timed_hook
    return clock


def _loading(dataset: Dataset, samples: int) -> tuple[float, float]:
    """Processor seconds of loading one sample, and of those in transforms of this package."""
    inner = dataset
    while not hasattr(inner, 'pipeline'):
        inner = inner.datasets[0] if hasattr(inner, 'datasets') else inner.dataset
    spent = 0.0

    def timed(transform: Callable) -> Callable:
        def call(results: dict) -> Any:
            nonlocal spent
            start = time.process_time()
            results = transform(results)
            spent += time.process_time() - start
            return results

        return call if type(transform).__module__.startswith(_OWN) else transform

    transforms = inner.pipeline.transforms
    inner.pipeline.transforms = [timed(transform) for transform in transforms]
    count, took = min(samples, len(dataset)), 0.0
    for _ in range(2):  # the second time counts, when what is kept in memory is there
        start, spent = time.process_time(), 0.0
        for index in range(count):
            dataset[index]
        took = time.process_time() - start
    inner.pipeline.transforms = transforms
    return took / count, spent / count
