"""What operators that change a real spectrum need before they transform it back."""

from __future__ import annotations

import torch
from torch import Tensor


def hermitian(spectrum: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Make a half spectrum, changed at will, that of a real signal.

    Frequency zero of the last axis, and its highest if the size is even, hold both u and -u of the other axes, and
    these must be conjugate. Where they are not, libraries differ in what they return (cuFFT from those on a processor).
    The symmetric part is taken, which is the real part of the signal.

    Args:
        spectrum: Complex, (..., *grid) but for the last axis, of size ``grid[-1] // 2 + 1``, as ``rfftn`` gives it.
        grid: The grid of the signal.

    Returns:
        The spectrum, its edges symmetric.
    """
    dims = tuple(range(1 - len(grid), 0))

    def edge(index: int) -> Tensor:
        plane = spectrum[..., index]
        mirrored = plane.flip(dims).roll([1] * len(dims), dims) if dims else plane
        return torch.complex((plane.real + mirrored.real) / 2, (plane.imag - mirrored.imag) / 2).unsqueeze(-1)

    if grid[-1] % 2:
        return torch.cat([edge(0), spectrum[..., 1:]], dim=-1)
    return torch.cat([edge(0), spectrum[..., 1:-1], edge(-1)], dim=-1)
