"""Videos for backbones of images: the frames of a clip as channels of one image."""

from __future__ import annotations

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from .errors import UserError

__all__ = ['EarlyFusion']


@MODELS.register_module()
class EarlyFusion(BaseModule):
    """A backbone of images on clips: all frames are channels of its first convolution, all else is as it was.

    That is the "early fusion" of Karpathy et al., "Large-scale Video Classification with Convolutional Neural
    Networks", 2014: the cheapest way by which any backbone sees motion, for comparisons where it has no form for
    videos.

    Weights of an image model load into it: each frame's share of the first convolution is the image's over the number
    of frames (Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017). A clip of identical frames then gives
    the maps of the image.

    Args:
        backbone: Config of the backbone, which takes ``in_channels``.
        frames: Frames of a clip.
        in_channels: Channels of a frame.
        init_cfg: Weights of the image model to start from, ``dict(type='Pretrained', checkpoint=..., prefix=...)``.

    Examples:
        >>> import torch
        >>> from mmengine.registry import MODELS
        >>> import lisa_backbone
        >>> backbone = MODELS.build(dict(type='EarlyFusion', frames=8, backbone=dict(type='LiSA', arch='pico')))
        >>> [tuple(map_.shape) for map_ in backbone(torch.randn(2, 3, 8, 64, 64))]
        [(2, 32, 1, 16, 16), (2, 64, 1, 8, 8), (2, 128, 1, 4, 4), (2, 192, 1, 2, 2)]
    """

    def __init__(self, backbone: dict, frames: int, in_channels: int = 3, init_cfg: dict | None = None) -> None:
        super().__init__()
        self.frames, self.in_channels = frames, in_channels
        self.backbone = MODELS.build({**backbone, 'in_channels': frames * in_channels, 'init_cfg': init_cfg})
        self.backbone.register_load_state_dict_pre_hook(self._inflate)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map clips (N, C, T, H, W) to maps (N, C', 1, H', W').

        Raises:
            UserError: The clips have another number of frames or channels.
        """
        if x.dim() != 5 or tuple(x.shape[1:3]) != (self.in_channels, self.frames):
            raise UserError(
                f'EarlyFusion was built for clips (N, {self.in_channels}, {self.frames}, H, W) and got '
                f'{tuple(x.shape)}; set frames to what the data pipeline samples'
            )
        maps = self.backbone(x.flatten(1, 2))
        return tuple(map_.unsqueeze(2) for map_ in ((maps,) if isinstance(maps, Tensor) else maps))

    def _inflate(self, backbone: BaseModule, state: dict, prefix: str, *args) -> None:
        """Spread the convolution of an image's channels over those of the frames."""
        for key, own in backbone.state_dict().items():
            weight = state.get(prefix + key)
            if not isinstance(weight, Tensor) or weight.dim() != 4 or weight.shape[1] != self.in_channels:
                continue
            if own.shape[1] == self.frames * self.in_channels:
                state[prefix + key] = weight.repeat_interleave(self.frames, dim=1) / self.frames
