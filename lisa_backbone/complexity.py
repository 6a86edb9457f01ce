"""Parameters and exact multiply-accumulates (MACs) of a model, with FFTs and attention counted."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def _real_fft_flops(x: Tensor, dim: list[int], *args, **kwargs) -> int:
    """2.5 N log2 N floating-point operations for each real transform of N points, half those of a complex one."""
    points = math.prod(x.shape[d] for d in dim)
    return round(2.5 * x.numel() * math.log2(max(points, 1)))


def _real_ifft_flops(x: Tensor, dim: list[int], normalization: int, last_dim_size: int, *args, **kwargs) -> int:
    points = math.prod(x.shape[d] for d in dim[:-1]) * last_dim_size
    return round(2.5 * x.numel() / x.shape[dim[-1]] * last_dim_size * math.log2(max(points, 1)))


def _product_flops(x: Tensor, y: Tensor | complex, *args, out_val: Tensor, **kwargs) -> int:
    """Eight operations (four MACs) for each complex product; real elementwise ones are not counted, as is custom."""
    return 8 * out_val.numel() if out_val.is_complex() else 0


def _cpu_attention_flops(query: list[int], key: list[int], value: list[int], *args, **kwargs) -> int:
    """Two matrix products; torch's counter knows the CUDA kernels of this operation and not the CPU's."""
    batch_heads, queries = math.prod(query[:-2]), query[-2]
    return 2 * batch_heads * queries * key[-2] * (query[-1] + value[-1])


for _formula in (_real_fft_flops, _real_ifft_flops, _product_flops):
    _formula._get_raw = True  # FlopCounterMode then hands over tensors, not their shapes
_FORMULAS = {
    aten._fft_r2c: _real_fft_flops,
    aten._fft_c2r: _real_ifft_flops,
    aten.mul: _product_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
}


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """MACs of one forward pass in evaluation mode, measured from the operations that run.

    Convolutions, matrix products and ``scaled_dot_product_attention`` are counted by torch's own counter; real FFTs of
    N points count 2.5 N log2 N operations and complex products eight, two operations being one MAC. Norms, activations
    and other elementwise operations are not counted, as is the custom.

    Args:
        model: Takes one tensor. It is left as it was.
        input_shape: Shape of that tensor, batch included.

    Returns:
        The number of MACs.
    """
    parameter = next(model.parameters())
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            model(torch.zeros(input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        model.train(training)
    return counter.get_total_flops() // 2
