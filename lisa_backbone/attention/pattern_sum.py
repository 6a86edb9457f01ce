"""The mean of values under a kernel that is a sum over patterns, by correlations on the grid.

For features phi^m and psi^m of the tokens, values v and positive functions r^m of the offset,

    y_i = sum_m phi^m_i sum_j r^m_{j-i} psi^m_j v_j  /  sum_m phi^m_i sum_j r^m_{j-i} psi^m_j .

Small grids take products with the matrices of r (:func:`~lisa_backbone.attention.correlation.correlate_by_matrix`), all
others FFTs. These make M times as many values as v has, complex ones besides; so they are made a block of channels at a
time, which stays in the cache, and made again in the backward pass: what is kept is phi, psi, v and r. Two channels go
through one complex transform, as its real and imaginary part: r is real, so they do not mix, and a complex transform
is faster than two real ones.

On CUDA fused kernels do the same where there is Triton (:mod:`~lisa_backbone.attention.pattern_kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import correlation
from .correlation import correlate, fft_sizes, spread_offsets
from .pattern_plan import Plan, as_complex, as_real, blocks
from .precision import at_least_float32

# Real values of one block, for each thread of a processor: 1 MiB in float32, so that a block and its spectrum stay in
# the second-level cache. On other devices blocks only bound the memory.
BLOCK_VALUES = 2**18
DEVICE_BLOCK_VALUES = 2**26

_plain = False


def average_patterns(phi: Tensor, psi: Tensor, value: Tensor, r: Tensor, grid: tuple[int, ...], wrap: bool) -> Tensor:
    """The mean of the values under the kernel K_ij = sum_m phi^m_i psi^m_j r^m_{j-i}.

    Args:
        phi: Features of the queries, (B, H, M, L), not negative, float32 or float64 as all others but the values.
        psi: Features of the keys, (B, H, M, L), not negative.
        value: Values (B, L, C), the C channels in H heads; may be of half precision.
        r: Positive values at the offsets of :func:`~lisa_backbone.attention.correlation.axis_offsets`,
            (H, M, *periods).
        grid: The grid of L positions.
        wrap: Whether ``r`` holds wrapped offsets (circular) or all of them (padded).

    Returns:
        (B, L, C), of the dtype of the values. On all but small grids it can be differentiated once.
    """
    average = _by_matrices if math.prod(grid) <= correlation.MATRIX_LIMIT else _in_blocks
    return average(phi, psi, value, r, grid, wrap)


def _by_matrices(phi: Tensor, psi: Tensor, value: Tensor, r: Tensor, grid: tuple[int, ...], wrap: bool) -> Tensor:
    tokens = at_least_float32(value).unflatten(-1, (phi.shape[1], -1))
    # A channel of ones turns the denominator into one more numerator.
    signal = F.pad(tokens.permute(0, 2, 3, 1), (0, 0, 0, 1), value=1.0)
    weighted = (psi.unsqueeze(3) * signal.unsqueeze(2)).unflatten(-1, grid)
    terms = correlate(weighted, r.unsqueeze(2), grid, wrap).flatten(-len(grid))
    total = (phi.unsqueeze(3) * terms).sum(dim=2)
    return (total[:, :, :-1] / _not_zero(total[:, :, -1:])).flatten(1, 2).transpose(1, 2).to(value.dtype)


# torch.compile fails on the views as complex numbers (torch 2.13), and would leave the FFTs to their library anyway.
@torch.compiler.disable
def _in_blocks(phi: Tensor, psi: Tensor, value: Tensor, r: Tensor, grid: tuple[int, ...], wrap: bool) -> Tensor:
    heads = phi.shape[1]
    tokens = value.unflatten(-1, (heads, -1))
    channels = tokens.shape[-1]
    offsets, plan = r if wrap else spread_offsets(r, grid), Plan(grid, fft_sizes(grid, wrap))
    kernels = fused(phi)
    if kernels and not channels % 2:
        return kernels.FusedAverage.apply(phi, psi, tokens, offsets, plan).flatten(-2)
    tokens = at_least_float32(tokens)
    if channels % 2:
        tokens = F.pad(tokens, (0, 1))
    weight = (phi * correlate(psi.unflatten(-1, grid), r, grid, wrap).flatten(-len(grid))).sum(dim=2, keepdim=True)
    # The few features are divided, not the many sums: a pass over these less, and training does not keep them.
    mean = _PatternSum.apply(phi / _not_zero(weight), psi, tokens, offsets, plan)[..., :channels]
    return mean.flatten(-2).to(value.dtype)


def fused(x: Tensor) -> ModuleType | None:
    """The module of fused kernels: on CUDA with Triton, for all but float64, and not within :func:`plain_torch`."""
    return _kernels() if x.is_cuda and x.dtype != torch.float64 and not _plain else None


@contextmanager
def plain_torch() -> Iterator[None]:
    """No fused kernels within: what they compute is not seen by what watches the operations of torch."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


@cache
def _kernels() -> ModuleType | None:
    if find_spec('triton') is None:
        return None
    from . import pattern_kernels

    return pattern_kernels


def _not_zero(weight: Tensor) -> Tensor:
    """Below the rounding of the largest kernel entry there is nothing left to divide by."""
    return weight.clamp(min=torch.finfo(weight.dtype).eps)


class _PatternSum(torch.autograd.Function):
    """The sum over m and j, (B, L, H, D).

    For features (B, H, M, L), values (B, L, H, D), D even, and functions (H, M, *sizes).

    Two channels are one complex signal. It is handled as 2 L real values, its real and imaginary parts in turn, and the
    features are repeated to match, but in the transforms: a product with a real factor is then half the work of a
    complex one.
    """

    @staticmethod
    def forward(ctx, phi, psi, value, r, plan):
        """Keeps the inputs alone."""
        ctx.save_for_backward(phi, psi, value, r)
        ctx.plan = plan
        phi, psi, x = phi.repeat_interleave(2, -1), psi.repeat_interleave(2, -1), _signals(value)
        kernels = plan.spectra(r).conj().resolve_conj()
        limit = _block_values(x.device)
        y = torch.empty_like(x)
        for sample, heads, channels in blocks(*phi.shape[:3], x.shape[2], plan, limit):
            here = sample, heads, channels
            spectrum = plan.transform(psi[sample, heads, :, None] * x[here].unsqueeze(2))
            spectrum *= kernels[heads, :, None]
            y[here] = _weighted_sum(plan.back(spectrum), phi[sample, heads, :, None])
        return _tokens(y)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Gradients of all inputs but the plan; the spectra are made again, block by block."""
        phi, psi, value, r = ctx.saved_tensors
        plan = ctx.plan
        phi, psi, x = phi.repeat_interleave(2, -1), psi.repeat_interleave(2, -1), _signals(value)
        gradient = _signals(gradient)
        spectra = plan.spectra(r)
        kernels = spectra.conj().resolve_conj()
        of_phi, of_psi, of_x = torch.zeros_like(phi), torch.zeros_like(psi), torch.empty_like(x)
        of_kernels = torch.zeros_like(spectra)
        limit = _block_values(x.device)
        for sample, heads, channels in blocks(*phi.shape[:3], x.shape[2], plan, limit):
            here = sample, heads, channels
            signal, weight = x[here].unsqueeze(2), psi[sample, heads, :, None]
            upper = gradient[here].unsqueeze(2)
            below = plan.transform(weight * signal)
            above = plan.transform(phi[sample, heads, :, None] * upper)
            # r's gradient at an offset is the correlation of what is above with what is below.
            of_kernels[heads] += (below * above.conj()).sum((0, 3))
            below *= kernels[heads, :, None]
            of_phi[sample, heads] += plan.back(below).mul_(upper).sum(3)
            above *= spectra[heads, :, None]
            spread = plan.back(above)
            of_x[here] = _weighted_sum(spread, weight)
            of_psi[sample, heads] += spread.mul_(signal).sum(3)
        of_phi, of_psi = (z.unflatten(-1, (-1, 2)).sum(-1) for z in (of_phi, of_psi))
        return of_phi, of_psi, _tokens(of_x), torch.fft.ifftn(of_kernels, dim=plan.dims).real, None


def _signals(tokens: Tensor) -> Tensor:
    """Channels (B, L, H, D) as signals (B, H, D / 2, 2 L): two of them in turn."""
    pairs = torch.view_as_complex(tokens.contiguous().unflatten(-1, (-1, 2)))
    return as_real(pairs.permute(0, 2, 3, 1).contiguous())


def _tokens(signals: Tensor) -> Tensor:
    """The inverse of :func:`_signals`."""
    return torch.view_as_real(as_complex(signals).permute(0, 3, 1, 2).contiguous()).flatten(-2)


def _weighted_sum(terms: Tensor, weights: Tensor) -> Tensor:
    """Sum over the patterns of (B, H, M, D, N), each weighted by (B, H, M, 1, N)."""
    y = terms[:, :, 0] * weights[:, :, 0]
    for pattern in range(1, terms.shape[2]):
        y.addcmul_(terms[:, :, pattern], weights[:, :, pattern])
    return y


def _block_values(device: torch.device) -> int:
    return BLOCK_VALUES * torch.get_num_threads() if device.type == 'cpu' else DEVICE_BLOCK_VALUES
