"""What a benchmark measures, and under which conditions."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import UserError
from ..paths import check_folder
from .candidates import Candidate, check_candidates
from .passes import DTYPES, MODES, check_device

__all__ = ['Group', 'Settings', 'sizes']


@dataclass(frozen=True)
class Group:
    """One shape, mode and batch, at which the candidates are timed together.

    Attributes:
        shape: As in :attr:`Settings.shapes`.
        mode: One of :data:`MODES`.
        batch: Inputs in a batch, to begin with.
        path: The CSV file for its rows.
    """

    shape: tuple[int, ...]
    mode: str
    batch: int
    path: Path

    @property
    def positions(self) -> int:
        """Pixels or tokens of an input, over all frames."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f'{sizes(self.shape)}, {self.mode}, batch {self.batch}'


@dataclass(frozen=True)
class Settings:
    """What a benchmark measures, and how.

    Attributes:
        candidates: The candidates; ratios are to the first.
        shapes: (H, W) or (T, H, W) each, in tokens for operators and in pixels and frames otherwise.
        out: Folder of the CSV files.
        modes: Of :data:`MODES`.
        batches: Batch sizes to begin with.
        dtype: One of :data:`DTYPES`.
        device: ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.
        threads: Processor threads.
        views: Inputs that make up one prediction, such as the clips and crops of a video.
        rounds: Rounds that are timed.
        warmup: Rounds before them.
        seconds: Time for the rounds of a group: where it is short there are fewer, though never below three.
        limit: Seconds that one pass may take.
        sweep: Whether the shapes are a sweep: one file, and a candidate that stops at a size is left out above it.
        compiled: Whether torch.compile compiles the candidates.
        graph: Whether passes are recorded as CUDA graphs.
    """

    candidates: tuple[Candidate, ...]
    shapes: tuple[tuple[int, ...], ...]
    out: Path
    modes: tuple[str, ...] = ('inference',)
    batches: tuple[int, ...] = (1,)
    dtype: str = 'fp32'
    device: str = 'cpu'
    threads: int = field(default_factory=torch.get_num_threads)
    views: int = 1
    rounds: int = 20
    warmup: int = 2
    seconds: float = 120.0
    limit: float = 60.0
    sweep: bool = False
    compiled: bool = False
    graph: bool = False

    def check(self) -> None:
        """Raise a UserError unless all of this can be used and every candidate be built."""
        check_candidates(self.candidates)
        for shape in self.shapes:
            if min(shape) < 1:
                raise UserError(f'shape {sizes(shape)} is not positive; give sizes of at least 1')
        for candidate in self.candidates:
            if candidate.dim < 1 or candidate.heads < 1:
                raise UserError(f'--dim {candidate.dim} and --heads {candidate.heads} must be positive')
        for name in ('threads', 'views', 'rounds', 'seconds', 'limit'):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f'--{name} {getattr(self, name)} is not positive; give more')
        if min(self.batches) < 1 or self.warmup < 0:
            raise UserError(f'--batch {min(self.batches)} and --warmup {self.warmup} must not be negative, nor batch 0')
        if self.dtype not in DTYPES or not set(self.modes) <= set(MODES):
            raise UserError(f'--dtype takes {", ".join(DTYPES)}, and --mode {", ".join(MODES)}')
        check_folder(self.out, '--out')
        check_device(self.device, self.dtype, self.graph)
        for candidate in self.candidates:
            candidate.build(self.shapes[0])

    def groups(self) -> list[Group]:
        """All that is to be measured, in order; the sizes of a sweep rise."""
        shapes = sorted(self.shapes, key=math.prod) if self.sweep else self.shapes
        return [
            Group(shape, mode, batch, self.file(mode, shape))
            for shape in dict.fromkeys(shapes)
            for mode in dict.fromkeys(self.modes)
            for batch in dict.fromkeys(self.batches)
        ]

    def file(self, mode: str, shape: Sequence[int]) -> Path:
        """The CSV file of a mode and, unless this is a sweep, of a shape."""
        first = self.candidates[0]
        machine = f'cpu{self.threads}' if self.device == 'cpu' else re.sub(r'[^a-z0-9]+', '-', self.machine().lower())
        parts = ['benchmark', mode, self.dtype, machine, f'torch{torch.__version__.partition("+")[0]}']
        parts.append(sizes([*shape[:-2], 'sweep'] if self.sweep else shape))
        if self.views > 1:
            parts.append(f'{self.views}views')
        if first.kind == 'operator':
            parts.append(f'dim{first.dim}-heads{first.heads}')
        elif first.whole:
            parts.append('whole')
        if self.compiled:
            parts.append('compiled')
        if self.graph:
            parts.append('graph')
        return self.out / ('-'.join(parts) + '.csv')

    def conditions(self) -> dict[str, str]:
        """The columns in which all rows of a file agree."""
        return {
            'dtype': self.dtype,
            'device': self.device.partition(':')[0],
            'device_name': self.machine(),
            'threads': str(self.threads),
            'torch': torch.__version__,
            'compiled': 'yes' if self.compiled else 'no',
            'graph': 'yes' if self.graph else 'no',
        }

    def machine(self) -> str:
        """Name of the GPU or the processor."""
        if self.device != 'cpu':
            return torch.cuda.get_device_name(self.device)
        try:
            names = re.findall(r'^model name\s*:\s*(.+)$', Path('/proc/cpuinfo').read_text(), re.M)
        except OSError:
            names = []
        return names[0] if names else platform.processor() or platform.machine()


def sizes(shape: Sequence[int | str]) -> str:
    """A shape in one word, ``'800x1280'``."""
    return 'x'.join(map(str, shape))
