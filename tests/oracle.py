"""What tests of attention operators share: inputs, a comparison with an oracle, and a watch for N x N tensors."""

import itertools
import math

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Odd, even, prime and one-token grids of one, two and three axes; of 17 the FFT takes 20.
GRIDS = [(1,), (7,), (1, 7), (5, 1), (4, 6), (5, 7), (3, 4, 5), (2, 1, 3), (17, 2)]
# The FFT and the sum differ by float64 rounding (2e-16) times the condition of the sums; 1e-10 leaves room for both.
RELATIVE = 1e-10


def period(n):
    """Of wrapped offsets: n if it divides a power of 2 x 3 x 5 x 7 x 11 x 13, else what does one of 2 x 3 x 5 x 7."""
    above = itertools.count(n)
    return n if 30030**n % n == 0 else next(p for p in above if p % 4 == 0 and 210 ** p.bit_length() % p == 0)


def relative_error(value, expected):
    """Largest deviation over the largest expected value."""
    return ((value - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def tokens(grid, dim=12, batch=2, dtype=torch.float64, seed=0):
    """Random tokens (B, L, C)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, math.prod(grid), dim, dtype=dtype, generator=generator)


def spread_parameters(module, seed=0):
    """Move every parameter away from its initial value, so that nothing hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator))
    return module


def assert_equals_oracle(module, oracle, grid, tolerance=RELATIVE, dim=12):
    """Values and gradients, of the input and of every parameter, in float64.

    Args:
        module: The operator, in float64.
        oracle: Function of (module, x, grid) that computes the same from the module's parameters, slowly.
        grid: The grid.
        tolerance: Largest deviation relative to the largest entry.
        dim: Channels.
    """
    x = tokens(grid, dim).requires_grad_()
    weights = tokens(grid, dim, seed=1)
    names, parameters = zip(*module.named_parameters(), strict=True)
    results = []
    for y in (module(x, grid), oracle(module, x, grid)):
        assert y.shape == x.shape
        grads = torch.autograd.grad((y * weights).sum(), [x, *parameters], allow_unused=True)
        results.append((y, *(torch.zeros(()) if g is None else g for g in grads)))
    for name, value, expected in zip(('y', 'x', *names), *results, strict=True):
        # Gradients that are zero but for rounding are held to the size of that of x.
        scale = expected.abs().max().clamp(min=1e-2 * results[1][1].abs().max())
        assert (value - expected).abs().max() <= tolerance * scale, f'{name} differs from the oracle'


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation gives, in the backward pass too."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor) and not func.is_view:
                self.elements = max(self.elements, value.numel())
        return out


class OnGrid(nn.Module):
    """An operator as a model of one tensor (B, C, *grid), for the MAC counter."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, x):
        return self.operator(x.flatten(2).transpose(1, 2), tuple(x.shape[2:]))
