"""Passes of a model, what they are measured with, and what is done where memory runs out."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Measurement, TaskSpec, timer

from ..errors import UserError

__all__ = [
    'DTYPES',
    'MODES',
    'OutOfMemory',
    'back_off',
    'check_device',
    'is_out_of_memory',
    'make_pass',
    'measurement',
    'precision',
    'ratios',
    'time_in_turns',
    'use_device',
]

MODES = ('inference', 'training')
# Autocast to this type; None for none.
DTYPES: dict[str, torch.dtype | None] = {'fp32': None, 'tf32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|CUFFT_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
)

# Passes before one is recorded, as torch's notes on CUDA graphs advise.
GRAPH_WARMUP = 3

T = TypeVar('T')


class OutOfMemory(Exception):
    """Memory ran out."""


def check_device(device: str, dtype: str, graph: bool = False) -> None:
    """Raise a UserError if the device, the precision or a CUDA graph is not to be had."""
    kind = device.partition(':')[0]
    if kind not in ('cpu', 'cuda') or not re.fullmatch(r'cpu|cuda(:\d+)?', device):
        raise UserError(f'--device {device} is unknown; take cpu, cuda or cuda:N')
    if kind == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(device.partition(':')[2] or 0) >= count:
            raise UserError(
                f'--device {device}: torch {torch.__version__} sees {count} CUDA devices; take --device cpu, or a '
                'machine with a GPU and a CUDA build of torch'
            )
    if graph and kind == 'cpu':
        raise UserError('--graph records CUDA graphs; take --device cuda, or leave it out')
    if dtype == 'tf32' and kind == 'cpu':
        raise UserError('--dtype tf32 is for CUDA alone; take fp32, bf16 or fp16 on the CPU')


def use_device(device: str) -> None:
    """Make a device the current one, for the clock and for what counts memory."""
    if device != 'cpu':
        torch.cuda.set_device(torch.device(device).index or 0)


def make_pass(
    model: nn.Module,
    input_shape: Sequence[int],
    batch: int,
    mode: str,
    dtype: str,
    device: str,
    compiled: bool = False,
    graph: bool = False,
) -> Callable[[], None]:
    """A pass of a model over one random batch, which lies ready on the device.

    Args:
        model: Takes one tensor. It is moved to the device and put into the mode.
        input_shape: Shape of one input, without the batch.
        batch: Inputs in the batch.
        mode: ``'inference'``, without gradients, or ``'training'``: gradients set to none, forward, and backward from
            the mean of every output, without losses of its own, optimizer or data.
        dtype: One of :data:`DTYPES`.
        device: Where to run.
        compiled: Whether torch.compile compiles the model, for this shape alone; the first pass then takes long.
        graph: Whether the pass is recorded as a CUDA graph here, so that each call launches all of it at once.

    Returns:
        The function, which leaves no outputs behind; in training it leaves the gradients.
    """
    model.to(device).train(mode == 'training')
    if compiled:
        # All blocks of a model, and all operators of a run, are one function to the compiler. Past its limit for one,
        # which is 8 by default, it would run them as they are, with no more than a warning. (These names are those of
        # torch 2.6, which newer ones take, too.)
        torch._dynamo.config.cache_size_limit = 256
        torch._dynamo.config.fail_on_cache_limit_hit = True
        model.compile(dynamic=False)
    autocast = DTYPES[dtype]
    x = torch.randn(batch, *input_shape, device=device)
    x.requires_grad_(mode == 'training' and len(input_shape) == 2)  # tokens come from a layer before

    def forward() -> Any:
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            return model(x)

    def infer() -> None:
        with torch.no_grad():
            forward()

    def train() -> None:
        model.zero_grad(set_to_none=True)
        x.grad = None
        means = [y.float().mean() for y in _tensors(forward()) if y.requires_grad]
        if not means:
            raise UserError('no output has a gradient, so there is no training step; take --mode inference')
        torch.stack(means).sum().backward()

    run = train if mode == 'training' else infer
    return _recorded(run) if graph else run


def _recorded(run: Callable[[], None]) -> Callable[[], None]:
    """A pass as a CUDA graph: what it does without a kernel, such as choosing among them, is done once, here."""
    # Libraries must have taken their workspaces before, and on the stream that is not the default one.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(GRAPH_WARMUP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Float32 in full on CUDA unless the type is ``'tf32'``; torch's own default differs between operations."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = dtype == 'tf32'
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the CPU or a GPU."""
    if isinstance(error, OutOfMemory | MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def back_off(run: Callable[[int], T], batch: int) -> tuple[int, T] | None:
    """Halve the batch until it fits.

    Args:
        run: Does the work with a batch.
        batch: The batch to begin with.

    Returns:
        The batch that fits and what ``run`` gave for it, or ``None`` if one input is too much.
    """
    while batch:
        try:
            return batch, run(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # here, where the error and the tensors in its frames are gone
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch //= 2
    return None


def time_in_turns(
    passes: Mapping[str, Callable[[], None]], rounds: int, warmup: int, tick: Callable[[], None] | None = None
) -> dict[str, list[float]]:
    """Time passes that take turns: each once in a round, every round beginning with another.

    Args:
        passes: The passes by name.
        rounds: Rounds that are timed.
        warmup: Rounds before them that are not.
        tick: Called after each pass.

    Returns:
        Seconds of each pass in each round. The device has finished before the clock is read.
    """
    names, seconds = list(passes), {name: [] for name in passes}
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()  # as timeit does
    try:
        for r in range(-warmup, rounds):
            first = r % len(names)
            for name in names[first:] + names[:first]:
                start = timer()
                passes[name]()
                took = timer() - start
                if r >= 0:
                    seconds[name].append(took)
                if tick:
                    tick()
    finally:
        if was_enabled:
            gc.enable()
    return seconds


def measurement(seconds: Sequence[float]) -> Measurement:
    """Median and inter-quartile range of times."""
    return Measurement(1, list(seconds), TaskSpec('pass', ''))


def ratios(seconds: Sequence[float], batch: int, reference: Sequence[float], reference_batch: int) -> Measurement:
    """Ratios of the time for one input to that of a reference, round by round."""
    pairs = zip(seconds, reference, strict=True)
    return measurement([(mine / batch) / (other / reference_batch) for mine, other in pairs])


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from _tensors(list(outputs.values()))
    elif isinstance(outputs, list | tuple):
        for output in outputs:
            yield from _tensors(output)
