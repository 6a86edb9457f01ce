"""A benchmark: every shape, mode and batch in turn, all candidates together in each.

The rows of a shape, mode and batch are written as soon as they are there; what is in the file is not measured again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..rows import append_rows, read_rows
from .candidates import Candidate
from .passes import OutOfMemory, back_off, make_pass, precision, time_in_turns, use_device
from .probe import Job, TooSlow, probe_apart
from .records import has_stopped, is_of, is_outdated, make_row, read_file, too_slow, words
from .settings import Group, Settings

__all__ = ['run_benchmark']

LEAST_ROUNDS = 3
_PROBES = 0.3  # share of the time of a group, for the progress bar

Tick = Callable[[float, str], None]
Found = dict[Candidate, dict[str, Any]]


def run_benchmark(settings: Settings) -> list[Path]:
    """Measure what is not in the files yet.

    Args:
        settings: What to measure.

    Returns:
        The files.

    Raises:
        UserError: The settings cannot be used, a candidate cannot be built or does not take an input, or a file holds
            rows of other conditions.
    """
    settings.check()
    torch.set_num_threads(settings.threads)
    use_device(settings.device)
    groups = settings.groups()
    paths = list(dict.fromkeys(group.path for group in groups))
    known = [row for path in paths for row in read_file(path, settings)]
    if known:
        made = ', '.join(sorted({row['commit'] for row in known}))
        print(f'{len(known)} rows are there (commit {made}) and are not measured again; remove the file to do so')
    retried = sum(is_outdated(row, settings.limit) for row in known)
    if retried:
        print(f'{retried} of them took too long for a smaller --limit; those asked for now are tried again')
    # By the size of the inputs, so that the time left is not that of the small ones.
    weights = {group: group.positions * group.batch * (3 if group.mode == 'training' else 1) for group in groups}
    layout = '{percentage:3.0f}% |{bar:20}| {elapsed}<{remaining} {desc}'
    with tqdm(total=sum(weights.values()), bar_format=layout) as bar:
        for group, weight in weights.items():
            with _ticking(bar, weight) as tick:
                for row in _measure(group, settings, tick):
                    bar.write(words(row))
    return paths


@contextmanager
def _ticking(bar: tqdm, weight: float) -> Iterator[Tick]:
    """Move a bar on by shares of a weight, up to all of it in the end."""
    left = 1.0

    def tick(share: float, said: str) -> None:
        nonlocal left
        share = min(share, left)
        left -= share
        bar.set_description_str(said, refresh=False)
        bar.update(min(share * weight, bar.total - bar.n))

    yield tick
    bar.update(min(left * weight, bar.total - bar.n))


def _measure(group: Group, settings: Settings, tick: Tick) -> list[dict[str, str]]:
    """Measure the candidates of a group that the file lacks, beside the first of all, and write their rows."""
    outdated, rows = [], []
    for row in read_rows(group.path):
        (outdated if is_outdated(row, settings.limit) else rows).append(row)
    there = {row['candidate']: row for row in rows if is_of(row, group, settings)}
    missing = [c for c in settings.candidates if c.label not in there]
    if settings.sweep:
        missing = [c for c in missing if not has_stopped(c, rows, group)]
    if not missing:
        return []
    found: Found = {}
    first = settings.candidates[0]
    row = there.get(first.label)
    if row and not row['status']:
        found[first] = {'batch': int(row['batch']), 'seconds': float(row['median_ms']) / 1000}
    for candidate in missing:
        tick(_PROBES / len(missing), f'{group}: {candidate.label} alone')
        found[candidate] = _probe(candidate, group, settings)
    seconds = _time(found, group, settings, tick)
    gc.collect()
    if settings.device != 'cpu':
        torch.cuda.empty_cache()  # which the next probes need
    new = [make_row(candidate, found, seconds, group, settings) for candidate in missing]
    labels = {candidate.label for candidate in missing}
    retried = [row for row in outdated if row['candidate'] in labels and is_of(row, group, settings)]
    append_rows(group.path, new, replaced=retried)
    return new


def _probe(candidate: Candidate, group: Group, settings: Settings) -> dict[str, Any]:
    """What :func:`probe_apart` finds, with the batch that fits, or the ``status`` that says why none does."""
    known: dict[str, Any] = {}

    def run(batch: int) -> dict[str, Any]:
        try:
            return probe_apart(
                Job(
                    candidate,
                    group.shape,
                    batch,
                    group.mode,
                    settings.dtype,
                    settings.device,
                    settings.threads,
                    settings.limit,
                    settings.compiled,
                    settings.graph,
                )
            )
        except OutOfMemory as error:
            known.update(error.args[0])
            raise

    try:
        fits = back_off(run, group.batch)
    except TooSlow as error:
        return {**error.args[0], 'status': too_slow(settings.limit)}
    return {**fits[1], 'batch': fits[0]} if fits else {**known, 'status': 'out of memory'}


def _time(found: Found, group: Group, settings: Settings, tick: Tick) -> dict[Candidate, list[float]]:
    """Time in turns what has no status; where memory is too short beside the others, the batch is halved further."""
    passes = {}
    if settings.compiled:
        torch._dynamo.reset()  # what was compiled for other shapes counts against the limit for one function
    with precision(settings.dtype):
        for candidate, mine in found.items():
            if mine.get('status'):
                continue
            torch.manual_seed(0)
            fits = back_off(partial(_ready, candidate.build(group.shape), candidate, group, settings), mine['batch'])
            if fits is None:
                mine['status'] = 'out of memory beside the other candidates'
                continue
            if fits[0] < mine['batch']:
                mine.pop('peak', None)  # which was of another batch
            mine['batch'], passes[candidate] = fits
        if not passes:
            return {}
        rounds = _rounds([found[candidate]['seconds'] for candidate in passes], settings)
        share = (1 - _PROBES) / (len(passes) * (rounds + settings.warmup))
        return time_in_turns(passes, rounds, settings.warmup, lambda: tick(share, f'{group}: {rounds} rounds'))


def _ready(model: nn.Module, candidate: Candidate, group: Group, settings: Settings, batch: int) -> Callable[[], None]:
    """A pass that ran once."""
    shape = candidate.input_shape(group.shape)
    run = make_pass(model, shape, batch, group.mode, settings.dtype, settings.device, settings.compiled, settings.graph)
    run()
    return run


def _rounds(seconds: Sequence[float], settings: Settings) -> int:
    """Rounds for which there is time, given the seconds of each pass."""
    return min(settings.rounds, max(int(settings.seconds / sum(seconds)), LEAST_ROUNDS))
