"""Keeping the sums of an operator in full precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is so already."""
    return x if x.dtype == torch.float64 else x.float()


def at_autocast(x: Tensor) -> Tensor:
    """``x`` in the dtype to which autocast would convert it for each of several layers; once is enough."""
    device = x.device.type
    if device == 'meta' or not torch.is_autocast_enabled(device) or x.dtype != torch.float32:
        return x
    return x.to(torch.get_autocast_dtype(device))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A region in which autocast is off on the device of ``x``; the meta device has no autocast and is left alone."""
    return nullcontext() if x.device.type == 'meta' else torch.autocast(x.device.type, enabled=False)
