"""One candidate in a process of its own: parameters, MACs, peak memory, and whether it fits and how long it takes.

Memory is that of the whole process, so nothing else may run in it; and where the system kills what takes too much
memory, it kills this process and not the benchmark.

On CUDA the peak is ``torch.cuda.max_memory_allocated``: weights, input and all that the pass allocates. On the CPU it
is the bytes of weights and input plus what the pass adds to the resident set at its highest, read from the kernel
(``VmHWM``, reset before the pass). Unlike the allocations that torch's profiler lists, this holds the buffers of the
FFT, matrix product and convolution libraries as well. Three things make it true: free memory is given back before;
every block of 64 KiB or more is mapped by itself, so that it leaves with its tensor (``MALLOC_MMAP_THRESHOLD_`` of
glibc); and pages of program files are left out, which are all there in the second pass, whose peak is taken.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import math
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import timer

from ..complexity import Count, count, count_parameters
from ..errors import UserError
from .candidates import Candidate
from .passes import OutOfMemory, is_out_of_memory, make_pass, precision, use_device

__all__ = ['Job', 'TooSlow', 'probe', 'probe_apart', 'resident_peak']

_OUT_OF_MEMORY, _TOO_SLOW = 77, 78  # exit statuses
_FIRST_PASS = 120  # seconds beyond the limit
_MALLOC = 'MALLOC_MMAP_THRESHOLD_'
# On the CPU it is forked from a process that has done nothing but import packages. Some of them look for a GPU when
# they are imported, and CUDA does not work in what is forked after that.
_START = {'cpu': 'forkserver', 'cuda': 'spawn'}
_LARGE = ('mmdet.models', 'mmseg.models', 'mmaction.models', 'mmpretrain.models', 'timm')
_CLEAR = Path('/proc/self/clear_refs')  # 5 resets the high-water mark


class TooSlow(Exception):
    """One pass takes longer than the limit."""


@dataclass(frozen=True)
class Job:
    """What to probe.

    Attributes:
        candidate: The candidate.
        shape: (H, W) or (T, H, W), as for :meth:`Candidate.input_shape`.
        batch: Inputs in a batch.
        mode: As for :func:`make_pass`, like the next two.
        dtype: See there.
        device: See there.
        threads: Processor threads.
        limit: Seconds that a pass may take.
        compiled: As for :func:`make_pass`, like the next.
        graph: See there; whether it can be recorded is tried at the end.
    """

    candidate: Candidate
    shape: tuple[int, ...]
    batch: int
    mode: str
    dtype: str
    device: str
    threads: int
    limit: float
    compiled: bool = False
    graph: bool = False


def probe_apart(job: Job) -> dict[str, Any]:
    """Probe in a process of its own.

    Args:
        job: What to probe.

    Returns:
        ``parameters``, ``macs`` of one input, ``uncounted``, ``weights`` and ``peak`` in bytes, the ``method`` of the
        latter, and ``seconds`` of the pass.

    Raises:
        OutOfMemory: Memory ran out, on the device or in the process. What was found before is its argument.
        TooSlow: The pass took longer than the limit. What was found before is its argument.
        UserError: The candidate cannot be built or does not take the input.
    """
    context = multiprocessing.get_context(_START[job.device.partition(':')[0]])
    # The benchmark has built the candidates, so what they need is imported here; counting imports torch._dynamo.
    needed = [name for name in _LARGE if name in sys.modules]
    context.set_forkserver_preload([__name__, f'{__package__}.preload', 'torch._dynamo', *needed])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, _mapping_blocks():
        log = Path(folder) / 'log.txt'
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_probe_and_send, args=(job, send, log), daemon=True)
        process.start()
        send.close()
        try:
            with suppress(EOFError):
                while True:
                    found = receive.recv()
            process.join()
        finally:
            process.kill()
            process.join()
        told = log.read_text(errors='replace')[-2000:] if log.exists() else ''
    status = process.exitcode
    if 'error' in found:
        raise UserError(found['error'])
    if status in (_OUT_OF_MEMORY, -signal.SIGKILL):
        raise OutOfMemory(found)
    if status == _TOO_SLOW:
        raise TooSlow(found)
    if status:
        raise RuntimeError(f'the probe of {job.candidate.spec!r} ended with status {status}: {told}')
    return found


def _probe_and_send(job: Job, pipe: Connection, log: Path) -> None:
    """What the process of a probe does."""
    os.setsid()  # Ctrl-C is for the benchmark, which ends this process
    with log.open('wb') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    with suppress(OSError):
        Path('/proc/self/oom_score_adj').write_text('1000')  # what takes the memory is what is to be killed
    try:
        pipe.send(probe(job, pipe.send))
    except UserError as error:
        pipe.send({'error': str(error)})
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(_OUT_OF_MEMORY)


@contextmanager
def _mapping_blocks() -> Iterator[None]:
    """Let processes that are started map every block of 64 KiB or more by itself."""
    before = os.environ.get(_MALLOC)
    os.environ[_MALLOC] = '65536'
    try:
        yield
    finally:
        del os.environ[_MALLOC]
        if before is not None:
            os.environ[_MALLOC] = before


def probe(job: Job, note: Callable[[dict[str, Any]], None] = lambda found: None) -> dict[str, Any]:
    """Probe in this process, which must be fresh.

    Args:
        job: What to probe.
        note: Called with what is known before the pass.

    Returns:
        As :func:`probe_apart`.

    Raises:
        UserError: As there.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    use_device(job.device)
    candidate, input_shape = job.candidate, job.candidate.input_shape(job.shape)
    model = candidate.build(job.shape)
    tensors = [*model.parameters(), *model.buffers()]
    found = {'parameters': count_parameters(model), 'weights': sum(t.numel() * t.element_size() for t in tensors)}
    counted = _count_on_meta(model, (1, *input_shape))
    found |= _macs(counted)
    note(found)
    with precision(job.dtype), _explained(job):
        run = make_pass(model, input_shape, job.batch, job.mode, job.dtype, job.device, job.compiled)
        if job.compiled:
            run()  # compiles, which is no part of the time or the memory of a pass

        # On a GPU the first pass loads libraries and compiles the kernels of Triton.
        extra = [_FIRST_PASS] if job.device.startswith('cuda') else []

        def limited() -> None:
            start = timer()
            with _within(job.limit + (extra.pop() if extra else 0)):
                run()
                found['seconds'] = timer() - start

        if job.device.startswith('cuda'):
            found['peak'], found['method'] = _peak_on_cuda(limited)
        else:
            added, found['method'] = resident_peak(limited)
            found['peak'] = added + found['weights'] + 4 * job.batch * math.prod(input_shape)
        if job.graph:
            make_pass(model, input_shape, job.batch, job.mode, job.dtype, job.device, graph=True)
    if counted is None:
        model.zero_grad(set_to_none=True)
        found |= _macs(count(model, (1, *input_shape)))
    return found


def resident_peak(run: Callable[[], None]) -> tuple[int, str]:
    """What a function adds to the memory of this process at its highest.

    Args:
        run: The function; it is called twice.

    Returns:
        The bytes, and how they were found: by the resident set where there is ``/proc`` (Linux), else by the highest of
        the whole life of the process, which may be too low by what was free before.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        before = _resident()
        _CLEAR.write_text('')
    except OSError:
        unit = 1 if sys.platform == 'darwin' else 1024
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        run()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * unit, 'rusage maxrss over that before'
    run()
    _CLEAR.write_text('5')
    run()
    after = _resident()
    peak = after['VmHWM'] - after['RssFile'] - after['RssShmem']
    return max(peak - before['RssAnon'], 0), 'resident set over that before'


def _resident() -> dict[str, int]:
    """Bytes that the kernel tells of this process."""
    lines = (line.split() for line in Path('/proc/self/status').read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[0].startswith(('VmHWM', 'Rss'))}


def _peak_on_cuda(run: Callable[[], None]) -> tuple[int, str]:
    """The peak of the second call, weights and input included."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated(), 'torch.cuda.max_memory_allocated'


def _count_on_meta(model: nn.Module, input_shape: tuple[int, ...]) -> Count | None:
    """MACs without computing anything; None for what needs real numbers, as proposals of a detector do."""
    try:
        return count(copy.deepcopy(model).to('meta'), input_shape)
    except Exception:
        return None


def _macs(counted: Count | None) -> dict[str, Any]:
    return {'macs': counted.macs, 'uncounted': list(counted.uncounted)} if counted else {}


@contextmanager
def _within(limit: float) -> Iterator[None]:
    """End the process if something takes too long; an operation of torch would not hear of an exception."""
    watch = threading.Timer(limit, os._exit, (_TOO_SLOW,))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


@contextmanager
def _explained(job: Job) -> Iterator[None]:
    """Turn an error in the pass into a sentence, unless memory ran out."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{job.candidate.spec}: {error}') from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        shape = 'x'.join(map(str, job.candidate.input_shape(job.shape)))
        told = ' '.join(str(error).split())[:300]
        raise UserError(
            f'candidate {job.candidate.spec!r} does not take a batch of {job.batch} inputs of {shape} in {job.mode} '
            f'({type(error).__name__}: {told}); change --shape, --frames or --batch, or leave it out'
        ) from error
