"""LiSA's attention with fused kernels, written in Triton: for float32, bfloat16 and float16 on CUDA.

Between the linear layers it takes a handful of launches and few passes over memory: features, RPEs, values to weighted
complex signals, their product with the spectra of the RPEs, and signals back to tokens are a kernel each. The
transforms are cuFFT's. All sums are in float32. The same in plain torch is
:mod:`~lisa_backbone.attention.pattern_sum`, where the equations are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pattern_plan import Plan, blocks

# Real values of one block, which bound the memory: 256 MiB, three times over. One head of one sample is never cut.
BLOCK_VALUES = 2**26

_PAIRS, _TOKENS = 4, 64  # of one program of the kernels on tokens
_POINTS = 128  # of one program of those on spectra and offsets


@triton.jit
def _load_pairs(tokens, token, stride, part, pair, channels, inside):
    """Pairs of channels (P, 2 N), a channel of ones following those that there are."""
    channel = 2 * pair[:, None] + part[None, :]
    x = tl.load(tokens + token[None, :] * stride + channel, inside[None, :] & (channel < channels), 0.0)
    return tl.where(channel == channels, 1.0, x.to(tl.float32))


@triton.jit
def _spread_kernel(
    features, tokens, out, length, pairs, channels, heads, f_b, f_h, f_m, t_b, t_l, t_h,
    M: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, h = row // heads, row % heads
    lane = block * 2 * N + tl.arange(0, 2 * N)
    pair = tl.program_id(2) * P + tl.arange(0, P)
    token, inside = lane // 2, lane < 2 * length
    x = _load_pairs(tokens + b * t_b + h * t_h, token, t_l, lane % 2, pair, channels, inside)
    for m in tl.static_range(M):
        f = tl.load(features + b * f_b + h * f_h + m * f_m + token, inside, 0.0)
        to = (row * M + m) * pairs + pair
        tl.store(
            out + to[:, None] * 2 * length + lane[None, :], x * f[None, :], (pair < pairs)[:, None] & inside[None, :]
        )


@triton.jit
def _gather_kernel(
    terms, features, tokens, out, weights, inner, least, length, pairs, channels, heads, patterns,
    f_b, f_h, f_m, t_b, t_l, t_h, o_b, o_l, o_h,
    M: tl.constexpr, P: tl.constexpr, N: tl.constexpr, SUM: tl.constexpr, MEAN: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, h = row // heads, row % heads
    lane = block * 2 * N + tl.arange(0, 2 * N)
    token, inside = lane // 2, lane < 2 * length
    at, m = block * N + tl.arange(0, N), tl.arange(0, M)
    some = (m < patterns)[:, None] & inside[None, :]
    f = tl.load(features + b * f_b + h * f_h + m[:, None] * f_m + token[None, :], some, 0.0)
    start = (row * patterns + m) * pairs
    weight = tl.full([N], 1.0, tl.float32)
    if MEAN:  # the last pair came from the channel of ones
        last = tl.load(terms + (start + pairs - 1)[:, None] * 2 * length + lane[None, :], some, 0.0)
        weight, _ = tl.split(tl.reshape(tl.sum(last * f, 0), [N, 2]))
        tl.store(weights + row * length + at, weight, at < length)
        weight = tl.maximum(weight, least)
    products = tl.zeros([M, 2 * N], tl.float32)
    for first in range(0, pairs, P):
        pair = first + tl.arange(0, P)
        all_three = some[:, None, :] & (pair < pairs)[None, :, None]
        place = terms + (start[:, None] + pair[None, :])[:, :, None] * 2 * length + lane[None, None, :]
        y = tl.load(place, all_three, 0.0)
        if INNER:
            x = _load_pairs(tokens + b * t_b + h * t_h, token, t_l, lane % 2, pair, channels, inside)
            products += tl.sum(y * x[None, :, :], 1)
        if SUM:  # as tokens, whose channels lie side by side
            total = tl.reshape(tl.permute(tl.reshape(tl.sum(y * f[:, None, :], 0), [P, N, 2]), [1, 0, 2]), [N, 2 * P])
            channel = 2 * first + tl.arange(0, 2 * P)
            to = out + b * o_b + h * o_h + at[:, None] * o_l + channel[None, :]
            tl.store(to, total / weight[:, None], (at < length)[:, None] & (channel < channels)[None, :])
    if INNER:
        sums = tl.sum(tl.reshape(products, [M, N, 2]), 2)
        to = inner + (row * patterns + m)[:, None] * length + at[None, :]
        tl.store(to, sums, (m < patterns)[:, None] & (at < length)[None, :])


@triton.jit
def _multiply_kernel(spectrum, kernels, scale, points, pairs, rows, P: tl.constexpr, N: tl.constexpr):
    """In place: spectrum *= scale conj(kernels)."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * 2 * N + tl.arange(0, 2 * N)
    pair = tl.program_id(2) * P + tl.arange(0, P)
    inside = lane < 2 * points
    both = (pair < pairs)[:, None] & inside[None, :]
    kernel = tl.load(kernels + 2 * (row % rows) * points + lane, inside, 0.0) * scale
    real, imaginary = tl.split(tl.reshape(kernel, [N, 2]))
    place = spectrum + 2 * (row * pairs + pair)[:, None] * points + lane[None, :]
    a, b = tl.split(tl.reshape(tl.load(place, both, 0.0), [P, N, 2]))
    tl.store(place, tl.interleave(a * real + b * imaginary, b * real - a * imaginary), both)


@triton.jit
def _multiply_both_kernel(
    below, above, kernels, cross, scale, points, pairs, samples, rows, P: tl.constexpr, N: tl.constexpr
):
    """In place: cross += sum of below conj(above) over samples and pairs, below *= conj(kernels), above *= kernels."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * 2 * N + tl.arange(0, 2 * N)
    inside = lane < 2 * points
    of = 2 * row * points + lane
    real, imaginary = tl.split(tl.reshape(tl.load(kernels + of, inside, 0.0) * scale, [N, 2]))
    sum_real, sum_imaginary = tl.zeros([N], tl.float32), tl.zeros([N], tl.float32)
    for sample in range(samples):
        for first in range(0, pairs, P):
            pair = first + tl.arange(0, P)
            both = (pair < pairs)[:, None] & inside[None, :]
            place = 2 * ((row + sample * rows) * pairs + pair)[:, None] * points + lane[None, :]
            a, b = tl.split(tl.reshape(tl.load(below + place, both, 0.0), [P, N, 2]))
            c, d = tl.split(tl.reshape(tl.load(above + place, both, 0.0), [P, N, 2]))
            sum_real += tl.sum(a * c + b * d, 0)
            sum_imaginary += tl.sum(b * c - a * d, 0)
            tl.store(below + place, tl.interleave(a * real + b * imaginary, b * real - a * imaginary), both)
            tl.store(above + place, tl.interleave(c * real - d * imaginary, d * real + c * imaginary), both)
    tl.store(cross + of, tl.load(cross + of, inside, 0.0) + tl.interleave(sum_real, sum_imaginary), inside)


def _stride(features: Tensor, tokens: Tensor) -> tuple[int, ...]:
    return *features.stride()[:3], *tokens.stride()[:3]


def _spread(features: Tensor, tokens: Tensor, pairs: int) -> Tensor:
    """Signals (B, H, M, P, 2 L): tokens (B, L, H, D), then ones, two channels in one, times features (B, H, M, L)."""
    samples, heads, patterns, length = features.shape
    out = features.new_empty(samples, heads, patterns, pairs, 2 * length)
    _spread_kernel[(samples * heads, triton.cdiv(length, _TOKENS), triton.cdiv(pairs, _PAIRS))](
        features, tokens, out, length, pairs, tokens.shape[-1], heads, *_stride(features, tokens),
        M=patterns, P=_PAIRS, N=_TOKENS,
    )  # fmt: skip
    return out


def _gather(
    terms: Tensor,
    features: Tensor,
    tokens: Tensor,
    out: Tensor | None = None,
    weights: Tensor | None = None,
    inner: Tensor | None = None,
) -> None:
    """Sums of the terms (B, H, M, P, 2 L).

    Args:
        terms: What is summed.
        features: Weights (B, H, M, L) of the sum over the patterns.
        tokens: Weights (B, L, H, D) of the sum over the channels; the next one counts as ones.
        out: Gets the sum over the patterns, (B, L, H, D).
        weights: Gets the sum of the last pair, (B, H, L), by which ``out`` is then divided.
        inner: Gets the sum over the channels, (B, H, M, L).
    """
    samples, heads, patterns, length = features.shape
    pairs, terms = terms.shape[3], terms.contiguous()  # a cut from a padded line is not
    target = tokens if out is None else out
    none = features
    _gather_kernel[(samples * heads, triton.cdiv(length, _TOKENS))](
        terms, features, tokens, target, none if weights is None else weights, none if inner is None else inner,
        torch.finfo(torch.float32).eps, length, pairs, target.shape[-1] if out is not None else tokens.shape[-1], heads,
        patterns, *_stride(features, tokens), *target.stride()[:3], M=triton.next_power_of_2(patterns), P=_PAIRS,
        N=_TOKENS, SUM=out is not None, MEAN=weights is not None, INNER=inner is not None,
    )  # fmt: skip


def _multiply(spectrum: Tensor, kernels: Tensor) -> Tensor:
    """The product of a spectrum (B, H, M, P, *sizes), which it replaces, and the conjugate of (H, M, *sizes)."""
    samples, heads, patterns, pairs = spectrum.shape[:4]
    points = math.prod(spectrum.shape[4:])
    _multiply_kernel[(samples * heads * patterns, triton.cdiv(points, _POINTS), triton.cdiv(pairs, _PAIRS))](
        torch.view_as_real(spectrum), torch.view_as_real(kernels), 1 / points, points, pairs, heads * patterns,
        P=_PAIRS, N=_POINTS,
    )  # fmt: skip
    return spectrum


def _multiply_both(below: Tensor, above: Tensor, kernels: Tensor, cross: Tensor) -> None:
    """Correlate and convolve, in place, and add their product to ``cross`` (H, M, *sizes)."""
    samples, heads, patterns, pairs = below.shape[:4]
    points = math.prod(below.shape[4:])
    _multiply_both_kernel[(heads * patterns, triton.cdiv(points, _POINTS))](
        *(torch.view_as_real(z) for z in (below, above, kernels, cross)), 1 / points, points, pairs, samples,
        heads * patterns, P=_PAIRS, N=_POINTS,
    )  # fmt: skip


class FusedAverage(torch.autograd.Function):
    """The mean (B, L, H, D) of values (B, L, H, D), D even, for features (B, H, M, L) and functions (H, M, *sizes)."""

    @staticmethod
    def forward(ctx, phi: Tensor, psi: Tensor, value: Tensor, r: Tensor, plan: Plan) -> Tensor:
        """Keeps inputs, the mean and the sums of weights, so that nothing between them needs memory."""
        phi, psi = phi.contiguous(), psi.contiguous()
        value = value if value.stride(-1) == 1 else value.contiguous()
        kernels = _spectra(r, plan)
        out = torch.empty(value.shape, dtype=value.dtype, device=value.device)
        weights = phi.new_empty(phi.shape[0], phi.shape[1], phi.shape[3])
        pairs = value.shape[-1] // 2 + 1
        for sample, heads in _blocks(phi, pairs, plan):
            tokens, here = value[sample, :, heads], (sample, slice(None), heads)
            spectrum = plan.transform(_spread(psi[sample, heads], tokens, pairs)).contiguous()
            terms = plan.back(_multiply(spectrum, kernels[heads]))
            part = torch.empty_like(weights[sample, heads], memory_format=torch.contiguous_format)
            _gather(terms, phi[sample, heads], tokens, out[here], part)
            weights[sample, heads] = part
        ctx.save_for_backward(phi, psi, value, r, out, weights)
        ctx.plan = plan
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs but the plan; the spectra are made again, block by block."""
        phi, psi, value, r, out, weights = ctx.saved_tensors
        plan, least = ctx.plan, torch.finfo(torch.float32).eps
        upper = _upper(gradient, out, weights.transpose(1, 2).unsqueeze(-1), least)
        kernels = _spectra(r, plan)
        cross = torch.zeros_like(kernels)
        of_phi, of_psi, of_value = torch.empty_like(phi), torch.empty_like(psi), torch.empty_like(value)
        pairs = value.shape[-1] // 2 + 1
        for sample, heads in _blocks(phi, pairs, plan):
            here = sample, slice(None), heads
            weight, tokens = psi[sample, heads], value[here]
            below = plan.transform(_spread(weight, tokens, pairs)).contiguous()
            above = plan.transform(_spread(phi[sample, heads], upper[here], pairs)).contiguous()
            _multiply_both(below, above, kernels[heads], cross[heads])
            inner = torch.empty_like(weight, memory_format=torch.contiguous_format)
            _gather(plan.back(below), weight, upper[here], inner=inner)
            of_phi[sample, heads] = inner
            _gather(plan.back(above), weight, tokens, of_value[here], inner=inner)
            of_psi[sample, heads] = inner
        # The gradient of r at an offset is the correlation of the gradient with the weighted values.
        return of_phi, of_psi, of_value, torch.fft.ifftn(cross, dim=plan.dims).real, None


def _upper(gradient: Tensor, out: Tensor, weights: Tensor, least: float) -> Tensor:
    """The gradient of the sums, (B, L, H, D + 2): of those of the values, of that of the ones, and zeros."""
    of_sums = gradient.float() / weights.clamp(min=least)
    of_ones = -(of_sums * out).sum(-1, keepdim=True) * (weights >= least)
    return torch.cat([of_sums, of_ones, torch.zeros_like(of_ones)], dim=-1)


def _spectra(r: Tensor, plan: Plan) -> Tensor:
    return torch.fft.fftn(r.to(torch.complex64), dim=plan.dims).contiguous()


def _blocks(phi: Tensor, pairs: int, plan: Plan) -> Iterator[tuple[slice, slice]]:
    """Parts of samples and heads with all their channels, which one kernel takes at once."""
    samples, heads, patterns, _ = phi.shape
    for sample, head, _ in blocks(samples, heads, patterns * pairs, 1, plan, BLOCK_VALUES):
        yield sample, head


# ----------------------------------------------------------------------------- without gradients: features and RPEs

MAPS = {'relu': 0, 'squared_relu': 1, 'elu': 2}


@triton.jit
def _map(x, eps, MAP: tl.constexpr):
    positive = tl.maximum(x, 0.0)
    if MAP == 1:
        positive = positive * positive
    if MAP == 2:
        positive = tl.where(x > 0, x, tl.exp(tl.minimum(x, 0.0)) - 1) + 1
    return positive + eps


@triton.jit
def _features_kernel(
    queries, keys, top, phi, psi, length, heads, patterns, eps, q_b, q_l, k_b, k_l,
    MAP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    b, h = row // heads, row % heads
    m, at = tl.arange(0, M), tl.program_id(1) * N + tl.arange(0, N)
    inside = (m < patterns)[:, None] & (at < length)[None, :]
    channel = (h * patterns + m)[:, None]
    q = tl.load(queries + b * q_b + at[None, :] * q_l + channel, inside, float('-inf')).to(tl.float32)
    k = tl.load(keys + b * k_b + at[None, :] * k_l + channel, inside, 0.0).to(tl.float32)
    to = (row * patterns + m)[:, None] * length + at[None, :]
    q = tl.where(inside, _map(q, eps, MAP), 0.0)
    most = tl.max(q, 0)
    tl.store(phi + to, q / tl.where(most > 0, most, 1.0)[None, :], inside)
    tl.store(psi + to, _map(k, eps, MAP) / _map(tl.load(top + row).to(tl.float32), eps, MAP), inside)


@torch.compiler.disable
def features(queries: Tensor, keys: Tensor, heads: int, feature_map: str, eps: float) -> tuple[Tensor, Tensor]:
    """Features phi and psi (B, H, M, L) of queries and keys (B, L, H M), each scaled to at most 1.

    Args:
        queries: Queries; those of one token lie side by side.
        keys: Keys, likewise.
        heads: Number H of heads.
        feature_map: ``'relu'``, ``'squared_relu'`` or ``'elu'``.
        eps: What the map adds.
    """
    samples, length, width = queries.shape
    patterns = width // heads
    # The maps do not fall, so the largest feature is that of the largest key.
    top = keys.unflatten(-1, (heads, patterns)).amax((1, 3)).contiguous()
    phi = torch.empty(samples, heads, patterns, length, device=queries.device)
    psi = torch.empty_like(phi)
    _features_kernel[(samples * heads, triton.cdiv(length, _POINTS))](
        queries, keys, top, phi, psi, length, heads, patterns, eps, *queries.stride()[:2], *keys.stride()[:2],
        MAP=MAPS[feature_map], M=triton.next_power_of_2(patterns), N=_POINTS,
    )  # fmt: skip
    return phi, psi


@triton.jit
def _logits_kernel(
    places, lengths, weight, bias, out_weight, out_bias, slope, logits, most, total, points, rows, hidden, blocks,
    R: tl.constexpr, K: tl.constexpr, N: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Logits of N offsets, and the largest and the sum of exponentials among these."""
    block = tl.program_id(0)
    at, k = block * N + tl.arange(0, N), tl.arange(0, K)
    row = tl.program_id(1) * R + tl.arange(0, R)
    inside, real = at < points, row < rows
    state = tl.load(bias + k, k < hidden, 0.0)[:, None]
    for axis in tl.static_range(3):
        x = tl.load(places + 3 * at + axis, inside, 0.0)
        state = state + tl.load(weight + 3 * k + axis, k < hidden, 0.0)[:, None] * x[None, :]
    state = tl.maximum(state, 0.0)
    both = real[:, None] & (k < hidden)[None, :]
    y = tl.dot(tl.load(out_weight + row[:, None] * hidden + k[None, :], both, 0.0), state, input_precision='ieee')
    y += tl.load(out_bias + row, real, 0.0)[:, None]
    if SLOPE:
        y -= tl.load(slope + row, real, 0.0)[:, None] * tl.load(lengths + at, inside, 0.0)[None, :]
    tl.store(logits + row[:, None].to(tl.int64) * points + at[None, :], y, real[:, None] & inside[None, :])
    y = tl.where(inside[None, :], y, float('-inf'))
    largest = tl.max(y, 1)
    tl.store(most + row * blocks + block, largest, real)
    tl.store(total + row * blocks + block, tl.sum(tl.exp(y - largest[:, None]), 1), real)


@triton.jit
def _softmax_kernel(logits, most, total, points, blocks, BLOCKS: tl.constexpr, N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    block, at = tl.arange(0, BLOCKS), tl.program_id(1) * N + tl.arange(0, N)
    largest = tl.load(most + row * blocks + block, block < blocks, float('-inf'))
    top = tl.max(largest, 0)
    all_of_it = tl.sum(tl.exp(largest - top) * tl.load(total + row * blocks + block, block < blocks, 0.0), 0)
    y = tl.load(logits + row * points + at, at < points, 0.0)
    tl.store(logits + row * points + at, tl.exp(y - top) / all_of_it, at < points)


@torch.compiler.disable
def distribution(
    places: Tensor,
    lengths: Tensor,
    weight: Tensor,
    bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    slope: Tensor | None,
) -> Tensor:
    """The softmax over N offsets of the values of a :class:`~lisa_backbone.attention.rpe.ContinuousRPE`, (R, N).

    Args:
        places: Log-spaced offsets, (N, 3), float32 as all others.
        lengths: Logarithms of their lengths, (N,).
        weight: Weight of the first layer, (K, 3).
        bias: Its bias.
        out_weight: Weight of the second, (R, K).
        out_bias: Its bias.
        slope: Decay exponents, (R,).
    """
    rows, points, width = len(out_weight), len(places), len(weight)
    count = triton.cdiv(points, _POINTS)
    logits, most, total = (places.new_empty(rows, n) for n in (points, count, count))
    block = max(min(triton.next_power_of_2(rows), 32), 16)
    slopes = lengths if slope is None else slope
    _logits_kernel[(count, triton.cdiv(rows, block))](
        places, lengths, weight, bias, out_weight, out_bias, slopes, logits, most, total, points, rows, width, count,
        R=block, K=max(triton.next_power_of_2(width), 16), N=_POINTS, SLOPE=slope is not None,
    )  # fmt: skip
    _softmax_kernel[(rows, triton.cdiv(points, 1024))](
        logits, most, total, points, count, BLOCKS=triton.next_power_of_2(count), N=1024
    )
    return logits
