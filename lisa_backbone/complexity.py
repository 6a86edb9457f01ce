"""Parameters and exact multiply-accumulates (MACs) of a model, with FFTs and attention counted.

Counted from the operations that run, by torch's own counter and the formulas below:

- convolutions, transposed ones too, and matrix products, in place or not; complex ones are four real ones;
- attention: ``scaled_dot_product_attention`` in each of its kernels, and ``nn.MultiheadAttention``;
- a complex FFT of N points as 5 N log2 N operations and a real one as half of that, two operations being one MAC;
- complex products as four MACs and those of a complex with a real number as two;
- mmcv's deformable convolutions, whose compiled code ends in matrix products that torch sees.

Not counted, as is the custom: norms, activations, softmax, pooling, interpolation (``grid_sample``, RoIAlign, the
sampling in deformable attention and convolution) and all else elementwise. Not seen is what other compiled code, or
Python outside torch, computes. :func:`count` names where that may be the case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.flop_counter import flop_registry as torch_formulas

from .attention.pattern_sum import plain_torch

__all__ = ['Count', 'count', 'count_macs', 'count_parameters']

aten = torch.ops.aten


@dataclass(frozen=True)
class Count:
    """What :func:`count` found.

    Attributes:
        macs: Multiply-accumulates.
        uncounted: Operations outside torch's own without a formula, and classes of modules with weights of two or
            more axes in which nothing was counted though they ran (a lookup table, or code that cannot be seen into).
    """

    macs: int
    uncounted: tuple[str, ...]


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """MACs of one forward pass in evaluation mode; see :func:`count`."""
    return count(model, input_shape).macs


def count(model: nn.Module, input_shape: tuple[int, ...]) -> Count:
    """Count the MACs of one forward pass in evaluation mode, from the operations that run.

    Args:
        model: Takes one tensor. It is left as it was. On the meta device nothing is computed, at any size.
        input_shape: Shape of that tensor, batch included.

    Returns:
        The MACs, and what was not counted.
    """
    like = next(model.parameters(), torch.empty(0))
    silent: set[str] = set()
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(plain_torch())
        counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=_FORMULAS))
        stack.enter_context(_Foreign(silent))
        stack.enter_context(_watching(model, counter.get_total_flops, silent))
        model(torch.zeros(input_shape, device=like.device, dtype=like.dtype))
    return Count(counter.get_total_flops() // 2, tuple(sorted(silent)))


class _Foreign(TorchDispatchMode):
    """Notes the operations outside torch's own that no formula knows."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace not in ('aten', 'prim', 'prims') and func._overloadpacket not in _FORMULAS:
            self.names.add(f'{func.namespace}::{func._overloadpacket.__name__}')
        return func(*args, **(kwargs or {}))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without the kernel for whole transformer layers, which hides its products."""
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes:
            module.training = training


@contextmanager
def _watching(model: nn.Module, total: Callable[[], int], silent: set[str]) -> Iterator[None]:
    """Note the classes of modules with weights that run without anything being counted."""
    before: list[int] = []
    handles = []
    for module in model.modules():
        if any(p.dim() > 1 for p in module.parameters(recurse=False)):
            handles.append(module.register_forward_pre_hook(lambda *_: before.append(total())))
            handles.append(
                module.register_forward_hook(
                    lambda module, *_: silent.add(type(module).__name__) if total() == before.pop() else None
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------------------------------ formulas


def _fft_flops(x: Tensor, dim: list[int], *args, **kwargs) -> int:
    """5 N log2 N floating-point operations for each complex transform of N points."""
    return 2 * _real_fft_flops(x, dim)


def _real_fft_flops(x: Tensor, dim: list[int], *args, **kwargs) -> int:
    """2.5 N log2 N operations for each real transform of N points, half those of a complex one."""
    points = math.prod(x.shape[d] for d in dim)
    return round(2.5 * x.numel() * math.log2(max(points, 1)))


def _real_ifft_flops(x: Tensor, dim: list[int], normalization: int, last_dim_size: int, *args, **kwargs) -> int:
    points = math.prod(x.shape[d] for d in dim[:-1]) * last_dim_size
    return round(2.5 * x.numel() / x.shape[dim[-1]] * last_dim_size * math.log2(max(points, 1)))


def _product_flops(x: Tensor, y: Any, *args, out_val: Tensor, **kwargs) -> int:
    """Eight operations (four MACs) for each complex product; real elementwise ones are not counted, as is custom."""
    if not out_val.is_complex():
        return 0
    return (8 if _is_complex(x) and _is_complex(y) else 4) * out_val.numel()


def _is_complex(x: Any) -> bool:
    return x.is_complex() if isinstance(x, Tensor) else isinstance(x, complex)


def _cpu_attention_flops(query: Tensor, key: Tensor, value: Tensor, *args, **kwargs) -> int:
    """Two matrix products; torch's counter knows the CUDA kernels of this operation and not the others."""
    batch_heads, queries = math.prod(query.shape[:-2]), query.shape[-2]
    return 2 * batch_heads * queries * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _vector_flops(matrix: Tensor, vector: Tensor, *args, **kwargs) -> int:
    """A matrix, or one row, times a vector."""
    return (8 if matrix.is_complex() else 2) * matrix.numel()


def _added_vector_flops(added: Tensor, matrix: Tensor, vector: Tensor, *args, **kwargs) -> int:
    return _vector_flops(matrix, vector)


def _products_flops(added: Tensor, a: Tensor, b: Tensor, *args, **kwargs) -> int:
    """Matrix products that are added up."""
    return (8 if a.is_complex() else 2) * a.numel() * b.shape[-1]


def _four_times_if_complex(formula: Callable) -> Callable:
    """A formula of torch, which counts a complex product as if it were real."""

    def flops(*args, **kwargs) -> int:
        times = 4 if any(isinstance(x, Tensor) and x.is_complex() for x in args) else 1
        return times * formula(*args, **kwargs)

    return flops


_FORMULAS: dict[Any, Callable] = {
    aten._fft_c2c: _fft_flops,
    aten._fft_r2c: _real_fft_flops,
    aten._fft_c2r: _real_ifft_flops,
    aten.mul: _product_flops,
    aten.mul_: _product_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
    aten._scaled_dot_product_fused_attention_overrideable: _cpu_attention_flops,
    aten.mv: _vector_flops,
    aten.dot: _vector_flops,
    aten.addmv: _added_vector_flops,
    aten.addmv_: _added_vector_flops,
    aten.addbmm: _products_flops,
    aten.addbmm_: _products_flops,
    **{op: _four_times_if_complex(torch_formulas[op]) for op in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)},
    aten.addmm_: _four_times_if_complex(torch_formulas[aten.addmm]),
    aten.baddbmm_: _four_times_if_complex(torch_formulas[aten.baddbmm]),
}
for _formula in _FORMULAS.values():
    _formula._get_raw = True  # FlopCounterMode then hands over tensors, not their shapes
