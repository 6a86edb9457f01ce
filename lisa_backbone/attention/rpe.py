"""Relative position embeddings (RPEs): learned functions of the offset between two tokens, for any grid.

Each maps a grid to values of shape (num_rpes, *periods) at the offsets of
:func:`~lisa_backbone.attention.correlation.axis_offsets`. Offsets are counted in tokens, over the axes (T, H, W); a
1-D grid is W alone and a 2-D grid is (H, W), so one set of parameters serves grids of 1, 2 and 3 axes.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .correlation import axis_offsets, periods
from .pattern_sum import fused
from .precision import at_least_float32
from .registry import check_choice


class ContinuousRPE(nn.Module):
    """A small MLP of log-spaced offsets plus a learned power-law decay.

    The value at offset o is MLP(l(o)) - slope * log(1 + |o|), with l(o) = sign(o) log(1 + |o|) on each of the three
    axes and |o| the Euclidean length in space, in tokens. Log spacing follows Swin Transformer V2 (Liu et al., 2022,
    Eq. 4). It is defined at every offset: a larger grid extends the function, a smaller one cuts it, nothing is
    stretched.
    The temporal weights start at zero: an image model does not train them, and a video model starts out ignoring time.

    Args:
        num_rpes: Number of functions.
        hidden: Width of the MLP.
        slopes: Initial decay exponents, repeated over the functions; ``None`` for no decay term.
    """

    def __init__(
        self, num_rpes: int, hidden: int = 32, slopes: tuple[float, ...] | None = (0.0, 0.5, 1.0, 2.0)
    ) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, hidden), nn.Linear(hidden, num_rpes)
        self.ignore_time()
        self.slope = None
        if slopes is not None:
            self.slope = nn.Parameter(torch.tensor(slopes).repeat(math.ceil(num_rpes / len(slopes)))[:num_rpes])

    def ignore_time(self) -> None:
        """Set the temporal weights to zero: the values no longer depend on an offset in time."""
        nn.init.zeros_(self.hidden.weight[:, 0])

    def forward(self, grid: tuple[int, ...], wrap: bool) -> Tensor:
        """Values at the offsets of ``grid``, (num_rpes, *periods)."""
        weight, bias, out_weight, out_bias, slope = self._weights()
        places, lengths = _log_offsets(grid, wrap, weight)
        hidden = F.linear(places, weight, bias).relu()
        values = torch.addmm(out_bias.unsqueeze(1), out_weight, hidden.T)
        if slope is not None:
            values = torch.addr(values, slope, lengths, alpha=-1)
        return values.unflatten(1, periods(grid, wrap))

    def distribution(self, grid: tuple[int, ...], wrap: bool) -> Tensor:
        """See :func:`distribution`; without gradients on CUDA it takes two launches."""
        kernels = fused(self.hidden.weight)
        if kernels is None or torch.is_grad_enabled():
            return _softmax(self(grid, wrap))
        weights = self._weights()
        values = kernels.distribution(*_log_offsets(grid, wrap, weights[0]), *weights)
        return values.unflatten(1, periods(grid, wrap))

    def _weights(self) -> list[Tensor | None]:
        """All parameters in at least float32: half precision cannot tell large offsets apart."""
        weights = self.hidden.weight, self.hidden.bias, self.out.weight, self.out.bias, self.slope
        return [None if w is None else at_least_float32(w) for w in weights]


# Offsets depend on the grid alone, so all layers and passes share them: many small operations less in each.
_OFFSETS: OrderedDict[tuple, tuple[Tensor, Tensor]] = OrderedDict()
_OFFSETS_KEPT = 64  # grids, for training at many scales


def _log_offsets(grid: tuple[int, ...], wrap: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Log-spaced offsets (N, 3), and log(1 + length in space) of each."""
    key = (tuple(grid), wrap, like.device, like.dtype)
    real = type(like) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
    if not real or key not in _OFFSETS:
        axes = [axis_offsets(n, wrap, like.device).to(like.dtype) for n in grid]
        offsets = torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).flatten(0, -2)
        offsets = F.pad(offsets, (3 - len(grid), 0))
        # Time is left out of the length, so that a clip of identical frames is treated like the image.
        found = offsets.sign() * offsets.abs().log1p(), offsets[:, 1:].norm(dim=-1).log1p()
        # Tensors of a tracer or of inference mode are of no use to others.
        if not real or type(found[0]) is not Tensor or found[0].is_inference():
            return found
        _OFFSETS[key] = found
        if len(_OFFSETS) > _OFFSETS_KEPT:
            _OFFSETS.popitem(last=False)
    return _OFFSETS[key]


class TableRPE(nn.Module):
    """A learned table over the offsets of the last two axes plus one over those of time, extended by their borders.

    The relative position bias of Swin Transformer (Liu et al., 2021) with ``radius`` in place of the window size: cut
    on small grids, extended on large. The table of time has no entry for offset 0, whose value is zero, and starts at
    zero: an image model does not train it, and a video model starts out ignoring time.

    Args:
        num_rpes: Number of functions.
        radius: Largest offset in space with an entry of its own.
        frames: Largest offset in time with an entry of its own.
    """

    def __init__(self, num_rpes: int, radius: int = 7, frames: int = 7) -> None:
        super().__init__()
        self.radius, self.frames = radius, frames
        self.table = nn.Parameter(0.02 * torch.randn(num_rpes, 2 * radius + 1, 2 * radius + 1))
        self.time = nn.Parameter(torch.zeros(num_rpes, 2 * frames))

    def forward(self, grid: tuple[int, ...], wrap: bool) -> Tensor:
        """Values at the offsets of ``grid``, (num_rpes, *periods)."""
        times, rows, columns = (axis_offsets(n, wrap, self.table.device) for n in (1, 1, *grid)[-3:])
        rows, columns = (o.clamp(-self.radius, self.radius) + self.radius for o in (rows, columns))
        space = self.table[:, rows][:, :, columns]
        past, future = self.time.split(self.frames, dim=1)
        time = torch.cat([past, past.new_zeros(len(past), 1), future], dim=1)
        return _of_space_and_time(space, time[:, times.clamp(-self.frames, self.frames) + self.frames], grid)


class SpectrumRPE(nn.Module):
    """A truncated Fourier series over the period of the last two axes plus one over time; they stretch with the grid.

    The parametrisation of global filters (GFNet, Rao et al., 2021) cut to the lowest frequencies, so that it does not
    depend on one input size. The series of time is zero at offset 0 and starts at zero: an image model does not train
    it, and a video model starts out ignoring time.

    Args:
        num_rpes: Number of functions.
        num_frequencies: Highest frequency, in cycles per period.
    """

    def __init__(self, num_rpes: int, num_frequencies: int = 4) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        size = 2 * num_frequencies + 1
        self.coefficients = nn.Parameter(0.1 * torch.randn(num_rpes, size, size))
        self.time = nn.Parameter(torch.zeros(num_rpes, 2 * num_frequencies))

    def forward(self, grid: tuple[int, ...], wrap: bool) -> Tensor:
        """Values at the offsets of ``grid``, (num_rpes, *periods)."""
        times, rows, columns = (self._basis(n, wrap) for n in (1, 1, *grid)[-3:])
        space = torch.einsum('ruv,au,bv->rab', self.coefficients, rows, columns)
        return _of_space_and_time(space, self.time @ (times - times[:1])[:, 1:].T, grid)

    def _basis(self, n: int, wrap: bool) -> Tensor:
        """Constant, cosines and sines at the offsets of an axis, that of offset 0 first: (period, functions)."""
        offsets = axis_offsets(n, wrap, self.coefficients.device).to(self.coefficients.dtype)
        phase = 2 * math.pi / len(offsets) * offsets[:, None]
        frequency = torch.arange(1, self.num_frequencies + 1, device=offsets.device, dtype=offsets.dtype)
        return torch.cat([torch.ones_like(phase), (phase * frequency).cos(), (phase * frequency).sin()], dim=1)


def distribution(rpe: nn.Module, grid: tuple[int, ...], wrap: bool) -> Tensor:
    """Positive functions of the offset that sum to one: a softmax of the values over the offsets of the grid.

    Args:
        rpe: One of :data:`RPES`.
        grid: The grid.
        wrap: As for :func:`~lisa_backbone.attention.correlation.axis_offsets`.

    Returns:
        (num_rpes, *periods), in at least float32.
    """
    return rpe.distribution(grid, wrap) if isinstance(rpe, ContinuousRPE) else _softmax(rpe(grid, wrap))


def _softmax(values: Tensor) -> Tensor:
    values = at_least_float32(values)
    return values.flatten(1).softmax(dim=1).view_as(values)


RPES = {'continuous': ContinuousRPE, 'table': TableRPE, 'spectrum': SpectrumRPE}


def build_rpe(cfg: str | dict, num_rpes: int) -> nn.Module:
    """Build an RPE from its name or ``dict(type=name, **options)``.

    Raises:
        UserError: The name is unknown.
    """
    options = {'type': cfg} if isinstance(cfg, str) else dict(cfg)
    name = options.pop('type', None)
    check_choice('rpe', name, RPES)
    return RPES[name](num_rpes, **options)


def _of_space_and_time(space: Tensor, time: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Sum of (num_rpes, periods of H, periods of W) and (num_rpes, periods of T), on the axes of ``grid``.

    The one offset in time of an image adds zero: its parameters then get a gradient, which distributed training asks
    for, and it is zero.
    """
    values = space.unsqueeze(1) + time[:, :, None, None]
    return values[(slice(None), *[0] * (3 - len(grid)))]
