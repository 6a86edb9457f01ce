"""What a training keeps while it runs and carries through its stops: metrics, seconds, weights of its start, code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from .collect import discard_record, plain_metrics

__all__ = ['MetricsHook']

_SECONDS, _WEIGHTS, _CODE = 'train_seconds', 'initial_weights', 'code'  # in the meta of a checkpoint
_MOVING = {'last_step', 'base_values', 'verbose', 'best', 'num_bad_epochs', 'cooldown_counter'}  # of a scheduler


class MetricsHook(Hook):
    """Keep the metrics of every validation in memory, and carry what a record tells of a training through its stops.

    Each checkpoint holds the seconds that led to it, those before a resumption included, so that what was lost between
    the last checkpoint and an interruption does not count, the weights that the training started from, and the code of
    each of its parts.

    Args:
        weights: The weights that the training starts from, as a record names them.
        code: The code that it is trained with, from :func:`lisa_backbone.provenance.code_state`.
    """

    priority = 'VERY_LOW'

    def __init__(self, weights: list[dict[str, str | None]] | None = None, code: dict[str, Any] | None = None) -> None:
        self.val: list[tuple[int, dict[str, float]]] = []
        self.weights = weights or []
        self.code = code or {}
        self._wanted: dict[str, Any] = {}
        self.was_finished = False
        self._start = time.perf_counter()
        self._before: float | None = 0.0

    @property
    def seconds(self) -> float | None:
        """Seconds of training so far; ``None`` if it goes on from a checkpoint that does not tell them."""
        return None if self._before is None else self._before + time.perf_counter() - self._start

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the seconds and the weights of before a resumption, and leave the best checkpoints of others alone.

        mmengine removes the best checkpoint once there is a better one, by the path noted at its saving: of a work
        directory that was copied since, that is the original's. Without the file there is no score to beat either.
        """
        if not runner._resume:
            return
        meta = checkpoint.get('meta', {})
        meta.pop('config', None)  # which mmengine would run as code
        self._before = meta.get(_SECONDS)
        self.weights = meta.get(_WEIGHTS, self.weights)
        parts = [part for part in meta.get(_CODE, ()) if part != self.code]
        if parts and self.code:
            self.code = {**self.code, 'earlier': parts}
        noted = checkpoint.get('message_hub', {}).get('runtime_info', {})
        for key in [key for key in noted if key.startswith('best_ckpt')]:
            own = Path(runner.work_dir, Path(str(noted[key])).name)
            if own.is_file():
                noted[key] = str(own)
            else:
                del noted[key]
                noted.pop(key.replace('best_ckpt', 'best_score', 1), None)

    def before_run(self, runner: Runner) -> None:
        """Note the rates and schedules of the config: those of a checkpoint to be resumed take their place."""
        self._wanted = dict(_settings(runner))

    def before_train(self, runner: Runner) -> None:
        """See whether anything is left to train; then the record of an earlier training here no longer holds."""
        self.was_finished = runner.iter >= runner.max_iters
        if runner._resume and not self.was_finished:
            self._compare_settings(runner)
        if runner.rank == 0 and not self.was_finished:
            discard_record(Path(runner.work_dir))

    def _compare_settings(self, runner: Runner) -> None:
        """Say which rates and schedules of the config have no effect (mmengine#1565)."""
        kept = dict(_settings(runner))
        others = [
            f'{name} {kept[name]}, not {value}'
            for name, value in self._wanted.items()
            if name in kept and kept[name] != value
        ]
        if kept.keys() != self._wanted.keys():
            others.append('schedules of other kinds')
        if others:
            more = f' and {len(others) - 3} more' if len(others) > 3 else ''
            runner.logger.warning(
                f'a resumed training keeps what its checkpoint says: {"; ".join(others[:3])}{more}; for what the '
                f'config says start a new training from its weights: --cfg-options load_from=CHECKPOINT, not --resume'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the seconds so far, the weights of the start and the code of each part into a checkpoint."""
        checkpoint['meta'] |= {_SECONDS: self.seconds, _WEIGHTS: self.weights}
        if self.code:
            now = {key: value for key, value in self.code.items() if key != 'earlier'}
            checkpoint['meta'][_CODE] = [*self.code.get('earlier', ()), now]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics with the iteration they belong to."""
        self.val.append((runner.iter, plain_metrics(metrics)))


def _settings(runner: Runner) -> Iterator[tuple[str, Any]]:
    """What stays as it is while a training goes on: rates of its optimizers, fields of its schedules."""
    groups, schedules = runner.optim_wrapper.param_groups, runner.param_schedulers or []
    if isinstance(groups, dict):  # several optimizers
        groups = [one for each in groups.values() for one in each]
    if isinstance(schedules, dict):
        schedules = [one for each in schedules.values() for one in each]
    for number, group in enumerate(groups):
        of = f' of parameter group {number}' if len(groups) > 1 else ''
        for key, name in (('lr', 'learning rate'), ('weight_decay', 'weight decay')):
            if key in group:
                yield name + of, group.get(f'initial_{key}', group[key])
    for number, schedule in enumerate(schedules):
        for key, value in schedule.state_dict().items():
            if not key.startswith('_') and key not in _MOVING:
                yield f'{key} of {type(schedule).__name__} ({number})', value
