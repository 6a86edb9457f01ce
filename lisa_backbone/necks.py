"""The neck that fits LiSA to mmaction2's recognisers of clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

__all__ = ['LastMap']


@MODELS.register_module()
class LastMap(nn.Module):
    """The last of a backbone's maps.

    mmaction2's ``Recognizer3D`` hands what its backbone returns to a head that takes one tensor, while LiSA, like the
    backbones of the other frameworks, returns a tuple. Backbones that return a tensor may stand before it as well.
    """

    def forward(self, maps: Tensor | Sequence[Tensor], data_samples: Any = None) -> tuple[Tensor, dict]:
        """Return the last map and, as mmaction2 asks of a neck, the losses of the neck: none.

        Args:
            maps: One map (N, C, T, H, W), or several.
            data_samples: What mmaction2 hands to every neck in training; not used.
        """
        return maps if isinstance(maps, Tensor) else maps[-1], {}
